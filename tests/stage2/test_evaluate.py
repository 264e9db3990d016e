"""Measures of predictions against definitions written as loops; averages over seeds; the temperature against a grid."""

import numpy as np
import pytest
import torch

from fastlt.core.groups import class_groups, group_sizes
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.evaluate import BINS, average, calibration_error, evaluate, macro_f1, reliability
from fastlt.stage2.temperature import fit_temperature


def same(x: torch.Tensor) -> torch.Tensor:
    """The features are the scores."""
    return x


def drawn(rows: int, classes: int, seed: int = 0, scale: float = 3.0) -> Features:
    """Scores that favour the label a little; scores of one row may be equal."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, rows)
    scores = np.round(draw.normal(size=(rows, classes)) * scale, 1)
    scores[np.arange(rows), labels] += 2
    return Features(torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(labels))


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def test_groups_have_the_papers_bounds() -> None:
    counts = np.array([1280, 101, 100, 20, 19, 1])
    assert class_groups(counts).tolist() == [0, 0, 1, 1, 2, 2]
    assert group_sizes(counts) == {"many": 2, "medium": 2, "few": 2}


def test_accuracies_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.stage2.evaluate.ROWS", 4)  # several pieces
    #                     class 0: 3 of 4     class 1: 1 of 2  class 2: 0 of 1; class 3 is not tested
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    scores = torch.nn.functional.one_hot(predicted, 4).float() * 10
    result = evaluate(same, Features(scores, labels), np.array([300, 50, 40, 5]))
    assert result["many"] == 75
    assert result["medium"] == pytest.approx((50 + 0) / 2)
    assert result["few"] is None
    assert result["all"] == pytest.approx(100 * 4 / 7)
    assert result["mean_class"] == pytest.approx((75 + 50 + 0) / 3)
    assert result["per_class"] == [75, 50, 0, None]
    assert result["macro_f1"] == pytest.approx(100 * (6 / 8 + 2 / 4 + 0) / 3)
    assert result["top5"] == 100
    assert result["confusions"] == [[0, 1, 1, 25], [1, 2, 1, 50], [2, 0, 1, 100]]
    assert "calibrated" not in result


def test_macro_f1_counts_a_class_that_is_only_predicted() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 3, 1, 0, 3])
    # TP, FP, FN: class 0 2, 1, 1; class 1 1, 0, 1; class 2 0, 0, 1; class 3 0, 2, 0; class 4 not at all.
    assert macro_f1(labels, predicted, 5) == pytest.approx(100 * (4 / 6 + 2 / 3 + 0 + 0) / 4)
    assert macro_f1(labels, labels, 5) == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_all_measures_are_their_definitions(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.stage2.evaluate.ROWS", 64)
    given = drawn(rows=500, classes=12)
    features = Features(given.x.to(dtype), given.labels)
    counts = np.array([9, 300, 20, 5, 101, 100, 50, 19, 7, 5, 1000, 2])
    result = evaluate(same, features, counts, temperature=2.5)

    scores, labels = features.x.double().numpy(), features.labels.tolist()
    top = [[*sorted(range(12), key=lambda c, row=row: (-row[c], c))] for row in scores]
    hits: dict[int, list[bool]] = {label: [] for label in range(12)}
    wrong: dict[tuple[int, int], int] = {}
    for order, label in zip(top, labels, strict=True):
        hits[label].append(order[0] == label)
        if order[0] != label:
            wrong[label, order[0]] = wrong.get((label, order[0]), 0) + 1
    per_class = [100 * sum(hits[label]) / len(hits[label]) for label in range(12)]
    assert result["per_class"] == pytest.approx(per_class)
    assert result["few"] == pytest.approx(np.mean([per_class[c] for c in range(12) if counts[c] < 20]))
    assert result["top5"] == pytest.approx(
        100 * np.mean([y in order[:5] for order, y in zip(top, labels, strict=True)])
    )
    pairs = sorted(wrong, key=lambda pair: (-wrong[pair], pair))[:20]
    shares = [[*pair, wrong[pair], 100 * wrong[pair] / len(hits[pair[0]])] for pair in pairs]
    assert len(pairs) == 20 and result["confusions"] == shares

    right = [order[0] == label for order, label in zip(top, labels, strict=True)]
    for measured, temperature in ((result, 1.0), (result["calibrated"], 2.5)):
        confidence = [softmax(row / temperature).max() for row in scores]
        gaps, told = 0.0, measured["reliability"]
        for place in range(BINS):
            inside = [i for i, value in enumerate(confidence) if place <= value * BINS < place + 1]
            assert told["count"][place] == len(inside)
            if not inside:
                assert told["confidence"][place] is None and told["accuracy"][place] is None
                continue
            means = 100 * np.mean([confidence[i] for i in inside]), 100 * np.mean([right[i] for i in inside])
            assert (told["confidence"][place], told["accuracy"][place]) == pytest.approx(means, abs=1e-4)
            gaps += len(inside) / len(labels) * abs(means[0] - means[1])
        assert measured["ece"] == pytest.approx(gaps, abs=1e-4)
        assert 0 in told["count"]  # the case of an empty bin is among these
    assert result["calibrated"]["temperature"] == 2.5


def test_top5_counts_the_five_best() -> None:
    scores = torch.arange(10.0).repeat(10, 1)
    result = evaluate(same, Features(scores, torch.arange(10)), np.full(10, 3))
    assert (result["all"], result["top5"]) == (10, 50)


def test_of_equal_scores_the_first_classes_win() -> None:
    result = evaluate(same, Features(torch.zeros(10, 10), torch.arange(10)), np.full(10, 3))
    assert result["per_class"] == [100.0] + [0.0] * 9 and result["top5"] == 50
    assert result["reliability"]["confidence"][1] == pytest.approx(10)


def test_two_classes_and_one_of_them_tested() -> None:
    features = Features(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    result = evaluate(same, features, np.array([500, 2]))
    assert (result["many"], result["few"], result["top5"]) == (50, None, 100)
    assert set(result["shifted"].values()) == {50}  # the prior is of the only class there is
    assert result["confusions"] == [[0, 1, 1, 50]]


def test_shifted_priors_by_a_loop() -> None:
    features = drawn(rows=400, classes=9)
    tested = features.labels != 4  # one class has no test image
    features = Features(features.x[tested], features.labels[tested])
    counts = np.array([7, 300, 7, 50, 20, 1, 90, 7, 1000])
    result = evaluate(same, features, counts)
    ranked = sorted(range(9), key=lambda c: (-counts[c], c))
    assert ranked == [8, 1, 6, 3, 4, 0, 2, 7, 5]
    for name, measured in result["shifted"].items():
        ratio = 1 if name == "uniform" else int(name.split("_")[1])
        order = ranked[::-1] if name.startswith("backward") else ranked
        prior = {c: (1 / ratio) ** (place / 8) for place, c in enumerate(order) if c != 4}
        expected = sum(prior[c] * result["per_class"][c] for c in prior) / sum(prior.values())
        assert measured == pytest.approx(expected), name
    names = "forward_50 forward_25 forward_10 forward_5 forward_2 uniform"
    assert list(result["shifted"])[:6] == names.split() and len(result["shifted"]) == 11
    assert result["shifted"]["uniform"] == pytest.approx(result["mean_class"])


def test_shifted_prior_is_what_such_a_test_set_measures() -> None:
    """Ten classes with images in the proportions of the prior: accuracy over images is the shifted accuracy."""
    size = np.round(1000 * 0.1 ** (np.arange(10) / 9)).astype(int)
    labels = np.repeat(np.arange(10), size)
    right = np.arange(len(labels)) % (labels + 2) == 0
    scores = np.eye(10)[np.where(right, labels, (labels + 1) % 10)]
    result = evaluate(same, Features(torch.from_numpy(scores), torch.from_numpy(labels)), size)
    assert result["shifted"]["forward_10"] == pytest.approx(result["all"], abs=0.05)
    assert abs(result["shifted"]["backward_10"] - result["all"]) > 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_is_named(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.stage2.evaluate.ROWS", 8)
    features = drawn(rows=30, classes=4)
    features.x[17, 2] = features.x[23, 0] = value
    with pytest.raises(ValueError, match="row 17 "):
        evaluate(same, features, np.full(4, 3))
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(same, features)


def test_calibration_error_by_hand() -> None:
    def error(confidence: np.ndarray, right: np.ndarray) -> float:
        return calibration_error(reliability(confidence, right))

    # Bin of 0.9: accuracy 0.5, gap 0.4; bin of 0.6: accuracy 1, gap 0.4.
    assert error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 0, 1, 1])) == pytest.approx(40)
    assert error(np.array([1.0, 1.0]), np.array([1, 1])) == 0
    confidence = np.random.default_rng(0).uniform(0.2, 1, 200_000)
    right = np.random.default_rng(1).uniform(size=200_000) < confidence
    assert error(confidence, right) < 0.6


def test_average_over_seeds() -> None:
    counts = np.array([300, 50, 50, 5])
    several = []
    for seed in range(3):
        features = drawn(rows=200, classes=4, seed=seed)
        tested = features.labels != 2
        features = Features(features.x[tested][:120], features.labels[tested][:120])
        several.append(evaluate(same, features, counts, temperature=1.0 + seed))
    assert average(several[:1]) is several[0]
    result = average(several)
    assert result["seeds"] == 3
    for key in ("many", "all", "top5", "ece"):
        values = [one[key] for one in several]
        mean = sum(values) / 3
        assert result[key] == pytest.approx(mean)
        assert result["std"][key] == pytest.approx((sum((value - mean) ** 2 for value in values) / 2) ** 0.5)
    assert result["per_class"][2] is None
    assert result["per_class"][0] == pytest.approx(np.mean([one["per_class"][0] for one in several]))
    assert result["shifted"]["backward_5"] == pytest.approx(np.mean([one["shifted"]["backward_5"] for one in several]))
    assert result["calibrated"]["temperature"] == 2
    bins = [one["reliability"] for one in several]
    for place in range(BINS):
        values = [one["accuracy"][place] for one in bins]
        expected = None if None in values else pytest.approx(np.mean(values))
        assert result["reliability"]["accuracy"][place] == expected
    assert any(None in one["accuracy"] for one in bins)


def test_average_sums_confusions() -> None:
    counts = np.array([300, 50, 5])
    #             0 -> 1 twice, 1 -> 2 once      0 -> 1 once, 1 -> 2 twice, 2 -> 0 once; 4, 3 and 1 images of each class
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    predictions = [1, 1, 0, 0, 2, 1, 1, 2], [1, 0, 0, 0, 2, 2, 1, 0]
    several = [
        evaluate(same, Features(torch.nn.functional.one_hot(torch.tensor(one), 3).float(), labels), counts)
        for one in predictions
    ]
    images = [row[:3] for row in average(several)["confusions"]]
    assert images == [[0, 1, 3], [1, 2, 3], [2, 0, 1]]
    assert [row[3] for row in average(several)["confusions"]] == pytest.approx([300 / 8, 300 / 6, 100 / 2])


def test_average_of_a_group_without_images_is_none() -> None:
    one = evaluate(same, drawn(rows=20, classes=3), np.array([300, 200, 150]))
    result = average([one, one])
    assert result["few"] is None and result["std"]["few"] is None and result["std"]["all"] == 0


def grid_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The best of many temperatures, by the mean negative log-likelihood in float64."""
    grid = np.geomspace(1e-3, 1e3, 9001)
    below = scores.astype(np.float64) - scores.max(1, keepdims=True)
    own = below[np.arange(len(labels)), labels]
    losses = [np.mean(np.log(np.exp(below / t).sum(1)) - own / t) for t in grid]
    return float(grid[np.argmin(losses)])


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_temperature_is_the_best_of_a_dense_grid(classes: int, scale: float) -> None:
    features = drawn(rows=300, classes=classes)
    features = Features(features.x * scale, features.labels)
    expected = grid_temperature(features.x.numpy(), features.labels.numpy())
    assert fit_temperature(same, features) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("scale", [8, 1e-6, 1e6, 1e-20, 1e20])
def test_temperature_undoes_a_scale(scale: float) -> None:
    features = drawn(rows=300, classes=5)
    scaled = Features(features.x * scale, features.labels)
    assert fit_temperature(same, scaled) == pytest.approx(scale * fit_temperature(same, features), rel=1e-4)


def test_temperature_does_not_see_what_is_added_to_a_row() -> None:
    features = drawn(rows=300, classes=5)
    moved = Features(features.x + 64 * torch.arange(300)[:, None], features.labels)
    assert fit_temperature(same, moved) == pytest.approx(fit_temperature(same, features), rel=1e-3)


@pytest.mark.parametrize("margin", [1e-5, 1.0, 1e4])
def test_temperature_without_a_minimum_is_one_and_a_line_says_so(
    margin: float, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = torch.arange(3).repeat(4)
    right = torch.nn.functional.one_hot(labels, 3).float() * margin
    assert fit_temperature(same, Features(right, labels)) == 1
    told = "no temperature fits 12 held-out images that are all classified right: it stays 1"
    assert capsys.readouterr().err.strip() == told
    assert fit_temperature(same, Features(-right, labels)) == 1
    assert "score lower in their own class than in others on average" in capsys.readouterr().err


def test_temperature_beyond_a_bound_is_the_bound() -> None:
    features = drawn(rows=300, classes=5)
    for factor, bound in ((1e-34, 1e-30), (1e34, 1e30)):
        assert fit_temperature(same, Features(features.x * factor, features.labels)) == bound


def test_temperature_of_equal_scores_is_one() -> None:
    assert fit_temperature(same, Features(torch.full((6, 3), 7.5), torch.arange(3).repeat(2))) == 1.0


def test_temperature_of_many_rows_is_fitted_to_evenly_spread_ones() -> None:
    features = drawn(rows=1000, classes=5)
    some = Features(features.x[::4], features.labels[::4])
    assert fit_temperature(same, features, rows=250) == fit_temperature(same, some)
    assert fit_temperature(same, features, rows=1000) == fit_temperature(same, features)
