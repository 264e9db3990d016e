"""The classifiers of stage 2 as estimators: scikit-learn's own checks, and the same numbers as a run has."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_classifiers import COUNTS, drawn, made
from torch import nn

import fastlt
from fastlt.core.errors import UserError
from fastlt.stage2 import estimators
from fastlt.stage2.classifiers import CLASSIFIERS, find_classifier
from fastlt.stage2.classifiers.base import Features, Task
from fastlt.stage2.classifiers.folds import folds_of
from fastlt.stage2.conformal import Calibration, thresholds
from fastlt.stage2.estimators import (
    CRT,
    LWS,
    MLP,
    NCM,
    Joint,
    LogitAdjust,
    LongTailClassifier,
    MaxNorm,
    SmoothedCRT,
    TauNorm,
    base,
)
from fastlt.stage2.estimators.checks import as_rows
from fastlt.stage2.estimators.settings import settings_of
from fastlt.stage2.estimators.table import NCM_NAMES

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT: dict[str, Any] = {"epochs": 4, "batch": 32}
EVERY = [name for name in estimators.__all__ if name not in ("LongTailClassifier", "PredictionSets")]


def made_short(name: str, **further: Any) -> LongTailClassifier:
    return getattr(estimators, name)(**(further if name == "NCM" else {**SHORT, **further}))


def made_all() -> Iterator[tuple[str, LongTailClassifier]]:
    """Estimators by what stage 2 calls their classifier."""
    for (kind, distance), name in NCM_NAMES.items():
        yield name, NCM(features=kind, distance=distance)
    for layers in (1, 2, 3):
        yield f"mlp_{layers}", MLP(layers=layers, hidden=48)
    yield "tau_train", TauNorm(choose_on="train")
    names = {"CRT": "crt", "SmoothedCRT": "crt_las", "Joint": "joint", "LWS": "lws", "TauNorm": "tau_norm"}
    names |= {"TauLearned": "tau_learned", "LogitAdjust": "logit_adjust", "Cosine": "cosine"}
    names |= {"BalancedSoftmax": "balanced_softmax", "LogitAdjustedLoss": "logit_adjusted_loss"}
    names |= {"LogitAdjustMult": "logit_adjust_mult", "MaxNorm": "max_norm", "LOS": "los"}
    names |= {"CosineMeans": "cosine_means"}
    for estimator, name in names.items():
        yield name, getattr(estimators, estimator)()


ALL = list(made_all())

# What scikit-learn skips by itself, and why.
SKIPPED = {
    "check_array_api_input": "SCIPY_ARRAY_API is not set",
    "check_classifier_data_not_an_array": "pandas is not installed",
}
# What the method contradicts, and why.
CONTRADICTED = {
    "TauNorm": {
        "check_n_features_in_after_fitting": "its labels are random: the best tau is 188, which float32 cannot hold, "
        "and a message says so"
    }
}


@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit from `sklearn.base.BaseEstimator`")
@pytest.mark.parametrize("name", EVERY)
def test_scikit_learns_own_checks(name: str) -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    done = checks.check_estimator(made_short(name), on_skip=None, expected_failed_checks=CONTRADICTED.get(name))
    skipped = {one["check_name"]: str(one["exception"]) for one in done if one["status"] == "skipped"}
    assert all(SKIPPED[check] in why for check, why in skipped.items()), skipped
    assert len([one for one in done if one["status"] == "passed"]) >= 50
    assert {one["check_name"] for one in done if one["status"] == "xfail"} == set(CONTRADICTED.get(name, ()))


def test_every_classifier_of_stage_2_is_an_estimator() -> None:
    assert {name for name, _ in ALL} == set(CLASSIFIERS)
    assert {type(estimator).__name__ for _, estimator in ALL} == set(EVERY)
    assert fastlt.classifiers.CRT is CRT


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """Features X with string labels y of six classes, 400 to 5 images, X_val and y_val; X_test, y_test."""
    names = np.array([f"class {letter}" for letter in "fedcba"])
    splits = {"": drawn(COUNTS, 1), "_val": drawn(np.full(6, 40), 2), "_test": drawn(np.full(6, 100), 3)}
    rows = {f"X{split}": features.x.numpy() for split, features in splits.items()}
    return rows | {f"y{split}": names[features.labels.numpy()] for split, features in splits.items()}


@pytest.fixture(scope="module")
def task() -> Task:
    return made(COUNTS, settings_of({"crt": 2, "lws": 2}, 64, (0.2,), (5e-4,), hidden=48))


@pytest.mark.parametrize(("name", "estimator"), ALL)
@pytest.mark.parametrize("where", ["val", "folds"])
def test_the_same_numbers_as_stage_2(name: str, estimator: LongTailClassifier, where: str, task: Task) -> None:
    if where == "folds":
        task = replace(task, choose=None, choose_on="folds")
    known = estimator.get_params()
    given = {"epochs": 2, "batch": 64, "joint": task.joint, "scale": "none", "weight_decay": 5e-4}
    estimator = copy.copy(estimator).set_params(**{key: value for key, value in given.items() if key in known})
    if known.get("choose_on") == "auto":
        estimator.set_params(choose_on=where.replace("val", "auto"))
    apart = drawn(np.full(6, 40), 2)
    held = () if where == "folds" else (apart.x, apart.labels)
    estimator.fit(task.train.x, task.train.labels, *held)
    theirs = find_classifier(name).fit(task)
    assert {**theirs.choices, "chosen_on": ""} == {**estimator.choices_, "chosen_on": ""}
    assert set(theirs.tensors) == set(estimator.tensors_)
    assert all(torch.equal(tensor, estimator.tensors_[key]) for key, tensor in theirs.tensors.items())


def test_folds_keep_rows_of_a_group_together(task: Task) -> None:
    """Every row comes four times, so that folds of rows would choose on rows that were trained on."""
    x, labels = task.train.x.repeat(4, 1), task.train.labels.repeat(4)
    numbers = np.tile(np.arange(len(task.train)), 4)
    joint, short = task.joint, {"epochs": 2, "batch": 64, "scale": "none"}
    told = [
        TauNorm(joint=joint, **short).fit(x, labels, groups=groups).choices_
        for groups in (numbers, numbers.astype(str), torch.from_numpy(numbers), None)
    ]
    assert told[0] == told[1] == told[2] != told[3]
    four = replace(
        task,
        train=Features(x, labels),
        augmented=Features(x, labels),
        counts=4 * task.counts,
        choose=None,
        choose_on="folds",
        image_groups=numbers,
    )
    four = replace(four, stage2=settings_of({"crt": 2, "lws": 2}, 64, (0.2,), (5e-4,)))
    assert find_classifier("tau_norm").fit(four).choices == told[0]
    for groups, message in (
        (numbers[1:], r"groups have the shape \(\d+,\), features .* rows: give one for each row"),
        (np.zeros(len(x), int), "all training images are of one group, which no fold can leave out"),
        (np.full(len(x), np.nan), "groups of row 0 is nan: whole numbers or strings are needed"),
    ):
        with pytest.raises(UserError, match=message):
            TauNorm(joint=joint, **short).fit(x, labels, groups=groups)


def test_max_norm_chooses_its_weight_decay_unless_one_is_given(data: dict[str, np.ndarray]) -> None:
    held = data["X_val"], data["y_val"]
    chosen = MaxNorm(**SHORT).fit(data["X"], data["y"], *held).choices_
    assert {setting["weight_decay"] for setting in chosen["grid"]} == {5e-4, 5e-3, 5e-2}
    given = MaxNorm(weight_decay=1e-3, **SHORT).fit(data["X"], data["y"], *held).choices_
    assert {setting["weight_decay"] for setting in given["grid"]} == {1e-3}
    assert MaxNorm(choose_on="none", **SHORT).fit(data["X"], data["y"]).choices_["weight_decay"] == 5e-4


def test_labels_and_arrays_come_back_as_they_were(data: dict[str, np.ndarray]) -> None:
    clf = NCM().fit(data["X"], data["y"], data["X_val"], data["y_val"])
    assert (
        clf.classes_.tolist() == sorted(set(data["y"].tolist())) and clf.class_counts_.tolist() == COUNTS[::-1].tolist()
    )
    assert isinstance(clf.predict(data["X_test"]), np.ndarray) and clf.predict(data["X_test"]).dtype == data["y"].dtype
    numbers = torch.from_numpy(np.unique(data["y"], return_inverse=True)[1] + 5)
    tensors = NCM().fit(torch.from_numpy(data["X"]), numbers)
    predicted = tensors.predict(torch.from_numpy(data["X_test"]))
    assert isinstance(predicted, torch.Tensor) and set(predicted.tolist()) <= set(range(5, 11))
    assert [clf.classes_[number - 5] for number in predicted.tolist()] == clf.predict(data["X_test"]).tolist()
    for method in ("predict_proba", "decision_function"):
        assert isinstance(getattr(tensors, method)(torch.from_numpy(data["X_test"])), torch.Tensor)
    assert np.allclose(clf.predict_proba(data["X_test"]).sum(1), 1, atol=1e-6)
    assert np.allclose(np.exp(clf.predict_log_proba(data["X_test"])), clf.predict_proba(data["X_test"]))
    right = clf.predict(data["X_test"]) == data["y_test"]
    assert clf.score(data["X_test"], data["y_test"], sample_weight=right) == 1.0


def test_one_number_scales_features_and_nothing_else(data: dict[str, np.ndarray]) -> None:
    """Features a thousand times as large, or as small, make the same classifier, given joint or not."""
    usual = Joint(**SHORT).fit(data["X"], data["y"])
    weight, bias = usual.tensors_["weight"] / usual.scale_, usual.tensors_["bias"]
    for factor in (1024, 1 / 1024):
        moved = Joint(**SHORT).fit(data["X"] * factor, data["y"])
        assert np.array_equal(moved.predict(data["X_test"] * factor), usual.predict(data["X_test"]))
        assert moved.scale_ == pytest.approx(usual.scale_ * factor)
        given = LWS(joint=(weight / factor, bias), **SHORT).fit(data["X"] * factor, data["y"])
        same = LWS(**SHORT).fit(data["X"], data["y"])
        assert np.allclose(given.predict_proba(data["X_test"] * factor), same.predict_proba(data["X_test"]), atol=1e-5)


def test_the_report_is_evaluates(data: dict[str, np.ndarray]) -> None:
    clf = CRT(**SHORT).fit(data["X"], data["y"], data["X_val"], data["y_val"])
    found = clf.report(data["X_test"], data["y_test"])
    assert found["all"] == pytest.approx(100 * clf.score(data["X_test"], data["y_test"]))
    right = clf.predict(data["X_test"]) == data["y_test"]
    by_class = {name: 100 * right[data["y_test"] == name].mean() for name in clf.classes_}
    assert found["per_class"] == pytest.approx(by_class)
    assert found["few"] == pytest.approx(np.mean([by_class["class a"], by_class["class b"]]))
    assert found["many"] == pytest.approx(np.mean([by_class["class f"], by_class["class e"]]))
    assert found["calibrated"]["temperature"] == clf.temperature_ != 1
    assert found["calibrated"]["ece"] < 10 and {true for true, *_ in found["confusions"]} <= set(clf.classes_)
    with pytest.raises(UserError, match="y holds the label 'class x', which no training image has: classes are "):
        clf.report(data["X_test"][:1], ["class x"])
    assert clf.score(data["X_test"][:2], ["class x", "class x"]) == 0
    assert "calibrated" not in CRT(**SHORT).fit(data["X"], data["y"]).report(data["X_test"], data["y_test"])


def test_the_report_and_the_temperature_see_features_as_predictions_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 all measures are of float64, and features in float16 are divided in float32."""
    monkeypatch.setattr(base, "ROWS", 64)  # several parts
    train, held, test = drawn(COUNTS, 1), drawn(np.full(6, 40), 2), drawn(np.full(6, 100), 3)
    far = [part.x.double() * 1e-4 + 3000 for part in (train, held, test)]  # float32 does not tell classes apart here
    clf = NCM(features="un", scale="none").fit(train.x.double(), train.labels, held.x.double(), held.labels)
    clf.tensors_ = {**clf.tensors_, "mean": clf.tensors_["mean"].double() * 1e-4 + 3000}
    assert clf.score(far[2], test.labels) > 0.7
    assert clf.report(far[2], test.labels)["all"] == pytest.approx(100 * clf.score(far[2], test.labels))
    halves = [(100 * part.x).half() for part in (train, held, test)]
    fitted = NCM(features="un", scale=1e-3).fit(halves[0], train.labels, halves[1], held.labels)
    assert fitted.report(halves[2], test.labels)["all"] == pytest.approx(100 * fitted.score(halves[2], test.labels))
    same = NCM(features="un", scale=1e-3).fit(halves[0].float(), train.labels, halves[1].float(), held.labels)
    assert fitted.temperature_ == same.temperature_ and same.score(halves[2], test.labels) > 0.7


def test_no_call_but_those_that_return_them_holds_all_scores(
    data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    clf = NCM().fit(data["X"], data["y"], data["X_val"], data["y_val"])
    sets = clf.predict_set(data["X_test"]).members
    whole = [clf.predict(data["X_test"]).tolist(), clf.score(data["X_test"], data["y_test"])]
    monkeypatch.setattr(base, "ROWS", 64)
    joined = torch.cat

    def seen(parts: list[torch.Tensor], *others: Any) -> torch.Tensor:
        assert not any(part.is_floating_point() and part.shape[1:] == (6,) for part in parts)
        return joined(parts, *others)

    monkeypatch.setattr(base.torch, "cat", seen)
    assert [clf.predict(data["X_test"]).tolist(), clf.score(data["X_test"], data["y_test"])] == whole
    np.testing.assert_array_equal(clf.predict_set(data["X_test"]).members, sets)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_class_at_its_threshold_is_in_the_set(dtype: type) -> None:
    """With 9 images of a class and a coverage of 0.9 the threshold is the largest value: all 9 are covered."""
    train, held = drawn(COUNTS, 1), drawn(np.full(6, 9), 4)
    x, order = held.x.numpy().astype(dtype), np.random.default_rng(0).permutation(54)
    clf = CRT(**SHORT).fit(train.x, train.labels, x, held.labels)
    assert clf.predict_set(x[order]).members[np.arange(54), held.labels[order]].all()
    assert clf.predict_set(x).members[np.arange(54), held.labels].all()
    tiny = Calibration(np.array([1 - 1e-12] * 9), np.zeros(9, np.int64), 2, 0.9)
    assert tiny.members(torch.tensor([[1e-12, 1.0], [1e-13, 1.0]])).tolist() == [[True, True], [False, True]]


def test_confidences_of_the_authors_cos_say_something_for_long_features() -> None:
    """Its scores are divided by the length of features, so a temperature that fits them may be far below 1e-3."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(5), 40)
    means = rng.normal(size=(5, 512))
    train, held, test = (means[y] + 5 * rng.normal(size=(200, 512)) for _ in range(3))
    fitted = NCM(distance="authors_cos").fit(train, y, held, y)
    measured = fitted.report(test, y)
    assert fitted.temperature_ < 1e-3 and measured["all"] > 70
    assert measured["calibrated"]["ece"] < 15 < 45 < measured["ece"]


def test_prediction_sets_cover_every_class() -> None:
    """A class with enough images of its own is covered by itself; the others on average, and a warning says so."""
    train, test = drawn(COUNTS, 1), drawn(np.full(6, 500), 5)
    held = drawn(np.array([400, 300, 200, 100, 8, 8]), 4)
    clf = NCM().fit(train.x, train.labels, held.x, held.labels)
    with pytest.warns(UserWarning, match=r"2 of 6 classes have too few images in X_val for a coverage of 0\.9 each"):
        sets = clf.predict_set(test.x, coverage=0.9)
    assert sets.conditional.tolist() == [True] * 4 + [False] * 2 and len(sets) == 3000
    covered = sets.members.gather(1, test.labels[:, None])[:, 0]
    by_class = np.array([covered[test.labels == number].float().mean() for number in range(6)])
    assert (by_class[:4] > 0.88).all() and by_class[4:].mean() > 0.8
    assert sets.members.sum(1).float().mean() < 2
    predicted = clf.decision_function(test.x).argmax(1, keepdim=True)
    assert sets.members.gather(1, predicted).all()
    far = clf.predict_proba(test.x).gather(1, test.labels[:, None])[:, 0] < 0.01
    assert not (covered & far & (predicted[:, 0] != test.labels)).any()
    assert set(sets.labels(0).tolist()) <= set(range(6))
    with pytest.warns(UserWarning, match="5 of 6 classes"):
        wide = clf.predict_set(test.x, coverage=0.997)
    assert (wide.members | ~sets.members).all() and wide.members.sum() > sets.members.sum()


def test_thresholds_are_the_right_quantiles() -> None:
    unfit = np.concatenate([np.arange(1, 20) / 20, np.arange(1, 10) / 10, [0.31]])
    labels = np.repeat([0, 1, 2], [19, 9, 1])
    found, own = thresholds(unfit, labels, 4, 0.9)
    assert own.tolist() == [True, True, False, False]
    assert found.tolist()[:2] == [0.9, 0.9]  # the 18th of 19 and the 9th of 9
    assert found[2] == found[3] == np.sort(unfit)[26]  # the 27th of all 29: class 2 alone has too few
    assert np.isinf(thresholds(np.array([0.2]), np.array([0]), 2, 0.9)[0]).all()


def test_scikit_learns_tools(data: dict[str, np.ndarray]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn import config_context
    from sklearn.base import clone, is_classifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert is_classifier(CRT())
    joint = (np.ones((6, 16)), np.zeros(6))
    copies: list[Any] = [clone(TauNorm(joint=joint, tau=1.0)), clone(LWS(joint=nn.Linear(16, 6)))]
    assert np.array_equal(copies[0].joint[0], joint[0]) and copies[1].joint.weight.shape == (6, 16)
    scores = cross_val_score(NCM(), data["X"], data["y"], cv=2)
    assert (scores > 0.7).all()
    search = GridSearchCV(MLP(**SHORT), {"hidden": [1, 32]}, cv=2, scoring="balanced_accuracy")
    assert search.fit(data["X"], data["y"]).best_params_ == {"hidden": 32}
    piped = make_pipeline(StandardScaler(), CRT(**SHORT)).fit(data["X"], data["y"])
    accuracy = piped.score(data["X_test"], data["y_test"])
    assert accuracy > 0.6
    with config_context(enable_metadata_routing=True):
        assert piped.score(data["X_test"], data["y_test"]) == accuracy
    theirs = LogisticRegression().fit(data["X"], data["y"])
    given = LogitAdjust(joint=(theirs.coef_, theirs.intercept_), choose_on="none").fit(data["X"], data["y"])
    prior = np.log(given.class_counts_ / given.class_counts_.sum())
    expected = theirs.classes_[(theirs.decision_function(data["X_test"]) - prior).argmax(1)]
    assert (given.predict(data["X_test"]) == expected).mean() > 0.999
    rare = data["y"] == data["y"][-1]
    theirs = LogisticRegression().fit(data["X"], rare)  # keeps one row for two classes
    given = LogitAdjust(joint=(theirs.coef_, theirs.intercept_), choose_on="none").fit(data["X"], rare)
    scores = theirs.decision_function(data["X_test"]) - np.log(rare.sum() / (~rare).sum())
    assert np.allclose(given.decision_function(data["X_test"]), scores, atol=1e-4)


def test_a_fitted_one_survives_pickling(data: dict[str, np.ndarray]) -> None:
    clf = TauNorm(**SHORT).fit(data["X"], data["y"])
    again = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(again.predict(data["X_test"]), clf.predict(data["X_test"]))
    assert repr(TauNorm(tau=0.5)).startswith("TauNorm(") and "tau=0.5" in repr(TauNorm(tau=0.5))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (CRT(epochs=0), "epochs=0: it must be a whole number of at least 1, or None"),
        (CRT(batch=0), "batch=0: it must be a whole number"),
        (CRT(lr=()), r"\(\) is neither a number nor several"),
        (
            CRT(lr="high"),  # type: ignore[arg-type]
            "'high' is neither a number nor several",
        ),
        (CRT(lr=-1), "lr=.*-1"),
        (CRT(choose_on="test"), "choose_on=test is unknown: allowed are auto, folds, none, train"),
        (CRT(lr=(0.1, 0.2), choose_on="none"), r"lr=\(0.1, 0.2\) and choose_on=none"),
        (CRT(random_state=-1), "random_state=-1: it must be"),
        (TauNorm(random_state=2**62), "random_state=4611686018427387904: it must be .* below 4294967296"),
        (TauNorm(tau=np.nan), "tau=nan: it must be a finite number"),
        (TauNorm(tau_bias=True), "tau_bias=true needs a fixed tau, such as tau=1"),
        (TauNorm(tau="0.5"), "tau='0.5': it must be a finite number"),  # type: ignore[arg-type]
        (MLP(hidden=1.5), "hidden=1.5: it must be a whole number"),  # type: ignore[arg-type]
        (MLP(hidden="64"), "hidden='64': it must be a whole number"),  # type: ignore[arg-type]
        (SmoothedCRT(smoothing_head=None), "smoothing_head=None: it must be a finite number"),  # type: ignore[arg-type]
        (CRT(scale=None), "scale=None is unknown"),  # type: ignore[arg-type]
        (CRT(device=None), "device=None is unknown"),  # type: ignore[arg-type]
        (LWS(joint=(np.ones((6, 16)), None)), "the bias of joint is None: give one number for each class"),
        (CRT(scale="std"), "scale=std is unknown: allowed are rms, none, or a number"),
        (CRT(scale=0), "scale=0 is unknown"),
        (CRT(device="tpu"), "device=tpu is unknown"),
        (MLP(layers=4), "layers=4: allowed are 1, 2, 3"),
        (NCM(distance="l1"), "features=cl2n, distance=l1 is unknown: allowed are cl2n with l2"),
        (LWS(joint=(np.ones((2, 16)), np.ones(2))), r"joint has weights of the shape \(2, 16\) .* 6 classes and 16"),
        (LWS(joint="mine"), r"joint is a str: give \(weight, bias\)"),
        (CRT(lr=1e30, **SHORT), "the training of CRT diverged: lower lr"),
    ],
)
def test_wrong_parameters(estimator: LongTailClassifier, message: str, data: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match=message):
        estimator.fit(data["X"], data["y"])
    assert not hasattr(estimator, "classes_")


def test_wrong_features_and_labels(data: dict[str, np.ndarray]) -> None:
    x, y = data["X"], data["y"]
    broken = x.copy()
    broken[7, 3] = np.nan
    for wrong, labels, held, message in (
        (broken, y, (), "nan in row 7, column 3"),
        (x.astype(np.float64) * 1e300, y, (), "too large for float32"),
        (x.astype(np.float64) * 1e-60, y, (), "X has a root mean square of .*e-60, too small for float32: multiply it"),
        (x, y[:-1], (), r"y has the shape \(649,\), features 650 rows"),
        (x, ["a"] * 650, (), "y holds one class, a: a classifier needs at least two"),
        (x, np.array(["a", 1] * 325, object), (), "y mixes labels of the types int, str"),
        (x, np.array([1, 2, np.nan, 2, 1] * 130, object), (), r"y\[2\] is nan, a missing value"),
        (x, ["a", None] * 325, (), r"y\[1\] is None, a missing value"),
        (x, ["a", float("nan")] * 325, (), r"y\[1\] is nan, a missing value"),
        (x, ["1", 2] * 325, (), "y mixes labels of the types int, str"),
        (
            np.array([*x, None], object)[:-1],
            y,
            (),
            r"X is a column with a feature vector in each row: .* np.stack\(X\)",
        ),
        (np.array([[1, "many"]] * 650, object), y, (), "X holds values that are no numbers .*could not convert string"),
        (x, y, (x,), "X_val and y_val: give both or neither"),
        (x, y, (x[:, :3], y), "X_val has 3 features, X 16"),
        (x, y, (x[:1], ["z"]), "y_val holds the label 'z', which no training image has"),
        (x.astype(str), y, (), "X holds values of type <U"),
        (torch.from_numpy(x).to_sparse(), y, (), r"X is sparse, .* pass X\.to_dense\(\)"),
        (x, y, (torch.from_numpy(x).to_sparse(), y), r"X_val is sparse, .* pass X_val\.to_dense\(\)"),
    ):
        with pytest.raises(UserError, match=message):
            NCM().fit(wrong, labels, *held)
    with pytest.raises(UserError, match="X has 4 rows, too few for 5 folds"):
        TauNorm().fit(x[:4], [0, 1, 0, 1])
    with pytest.raises(UserError, match=r"TauNorm has no parameter 'taus': allowed are .*tau"):
        TauNorm().set_params(taus=1)
    fitted = NCM().fit(x, y)
    with pytest.raises(UserError, match="prediction sets need images that were not trained on"):
        fitted.predict_set(x)
    for coverage in ("0.9", 1, None, float("nan")):
        with pytest.raises(UserError, match=f"coverage={coverage}: it must be greater than 0 and below 1"):
            NCM().fit(x, y, x, y).predict_set(x, coverage=coverage)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"sample_weight has the shape \(3,\): give one for each of y"):
        fitted.score(x, y, sample_weight=[1, 2, 3])
    with pytest.raises(UserError, match=r"sample_weight adds up to 0\.0: it must be finite and greater than 0"):
        fitted.score(x, y, sample_weight=np.zeros(len(x)))


def test_whole_numbers_are_float32_as_arrays_and_as_tensors(data: dict[str, np.ndarray]) -> None:
    """Eight bytes a number would be eight times the memory of features in int8."""
    x = (data["X"] * 20).astype(np.int8)
    clf = NCM().fit(x, data["y"])
    assert as_rows(x).dtype == as_rows(torch.from_numpy(x)).dtype == torch.float32
    assert clf.decision_function(x).dtype == np.float32 and clf.score(x, data["y"]) > 0.7


def test_columns_in_another_order_are_refused(data: dict[str, np.ndarray]) -> None:
    names = [f"c{number}" for number in range(16)]
    table = Table(data["X"], names)
    clf = NCM().fit(table, data["y"])
    assert clf.feature_names_in_.tolist() == names
    assert clf.score(table, data["y"]) == clf.score(data["X"], data["y"])
    turned = Table(data["X"][:, ::-1], names[::-1])
    told = "passed during fit, in the same order: column 0 of X is c15, and was c0"
    with pytest.raises(UserError, match=told):
        clf.predict(turned)
    with pytest.raises(UserError, match=told.replace("X", "X_val")):
        clf.fit(table, data["y"], turned, data["y"])
    assert not hasattr(clf.fit(data["X"], data["y"]), "feature_names_in_")


def test_tables_of_pyarrow_have_names_of_columns(data: dict[str, np.ndarray]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'fastlt[hf]'")
    table = pyarrow.table({f"c{number}": column for number, column in enumerate(data["X"].T)})
    clf = NCM().fit(table, data["y"])
    assert clf.feature_names_in_.tolist() == table.column_names
    with pytest.raises(UserError, match="column 0 of X is c15, and was c0"):
        clf.predict(table.select(table.column_names[::-1]))


class Table:
    """As much of a DataFrame as is looked at."""

    def __init__(self, values: np.ndarray, columns: list[str]):
        self.values, self.columns = values, columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values


def test_mapped_features_are_not_copied_to_be_checked(tmp_path: Path, data: dict[str, np.ndarray]) -> None:
    for dtype in (np.float16, np.float64, np.float32):
        np.save(tmp_path / "x.npy", data["X"].astype(dtype))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        rows = as_rows(mapped)
        assert rows.numpy().dtype == dtype and rows.data_ptr() == mapped.__array_interface__["data"][0]
    assert NCM().fit(mapped, data["y"]).score(data["X_test"], data["y_test"]) > 0.7


def test_classes_of_one_group_each_are_in_several_folds() -> None:
    """No fold then knows all classes, but a cross-validation is possible, as with classes of one image."""
    labels = np.repeat(np.arange(6), (40, 20, 10, 5, 4, 3))
    found = folds_of(labels, 0, labels)
    assert [len(np.unique(found[labels == label])) for label in range(6)] == [1] * 6
    assert len(np.unique(found)) == 5 and np.bincount(found).max() == 43
    rows = np.random.default_rng(0).normal(size=(len(labels), 8)) + np.eye(6, 8)[labels]
    assert np.isfinite(TauNorm().fit(rows, labels, groups=labels).choices_["tau"])
