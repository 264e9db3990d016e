"""Stage-2 classifiers on drawn features: what each is by definition, and that they do what the paper says."""

import copy
import importlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.kernels.class_mean import class_mean
from fastlt.stage2.classifiers import CLASSIFIERS, PAPER, SETS, crt, find_classifier
from fastlt.stage2.classifiers.base import Classifier, Features, Fitted, Stage2, Task, Tensors, Training
from fastlt.stage2.classifiers.heads import spread
from fastlt.stage2.classifiers.tau_norm import normalized
from fastlt.stage2.evaluate import evaluate

COUNTS = np.array([400, 150, 60, 25, 10, 5])
TRAINING = Training(8, 64, 0.2, 5e-4)
TRAINED = (
    "crt",
    "lws",
    "cosine",
    "mlp_1",
    "mlp_3",
    "balanced_softmax",
    "logit_adjusted_loss",
    "crt_las",
    "tau_learned",
    "max_norm",
    "cosine_means",
)


def drawn(counts: np.ndarray, seed: int, dim: int = 16) -> Features:
    """Gaussian classes, apart but for some overlap."""
    centers = torch.randn(len(counts), dim, generator=torch.Generator().manual_seed(0)) * 1.1
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    noise = torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed + 1))
    return Features((centers[labels] + noise).contiguous(), labels)


def made(counts: np.ndarray, stage2: Stage2, dim: int = 16, chosen: np.ndarray | None = None) -> Task:
    """A task whose joint classifier was trained on all images alike, so that it favours the head."""
    train = drawn(counts, 1, dim)
    linear = nn.Linear(dim, len(counts))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(linear(train.x), train.labels).backward()
        optimizer.step()
    choose = drawn(np.full(len(counts), 40) if chosen is None else chosen, 2, dim)
    return Task(train, train, choose, "val", linear, counts, class_groups(counts), stage2, seed=0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task() -> Task:
    return made(COUNTS, Stage2(TRAINING, TRAINING, hidden=48))


@pytest.fixture(scope="module")
def test_features() -> Features:
    return drawn(np.full(len(COUNTS), 100), 3)


def scores(name: str, task: Task, x: torch.Tensor) -> torch.Tensor:
    classifier = find_classifier(name)
    return classifier.scores(classifier.fit(task).tensors, x)


def accuracy(name: str, task: Task, features: Features) -> dict:
    classifier = find_classifier(name)
    return evaluate(partial(classifier.scores, classifier.fit(task).tensors), features, task.counts)


def test_decoupled_classifiers_rescue_the_tail(task: Task, test_features: Features) -> None:
    results = {name: accuracy(name, task, test_features) for name in CLASSIFIERS}
    for name in CLASSIFIERS:
        if name not in ("joint", "los"):  # the latter starts as the former, and 60 steps at its rate go nowhere
            assert results[name]["few"] > results["joint"]["few"] + 10, name
            assert results[name]["all"] > results["joint"]["all"], name


def test_the_sets_name_what_there_is() -> None:
    assert PAPER == ("joint", "ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws")
    assert set(SETS["all"]) == set(CLASSIFIERS)


def test_joint_is_the_linear_layer(task: Task, test_features: Features) -> None:
    assert torch.equal(scores("joint", task, test_features.x), task.joint(test_features.x))


def test_joint_of_a_cosine_representation_is_the_cosine(task: Task, test_features: Features) -> None:
    cosine = nn.Linear(16, len(COUNTS), bias=False)
    found = scores("joint", replace(task, joint=cosine), test_features.x)
    expected = functional.cosine_similarity(test_features.x[:, None], cosine.weight[None].detach(), dim=2)
    torch.testing.assert_close(found, expected)
    assert torch.equal(replace(task, joint=cosine).bias, torch.zeros(len(COUNTS)))


@pytest.mark.parametrize("kind", ["un", "l2n", "cl2n"])
def test_ncm_is_the_authors(kind: str, task: Task, test_features: Features) -> None:
    def prepared(x: torch.Tensor) -> torch.Tensor:
        x = x.double() - (task.train.x.double().mean(0) if kind == "cl2n" else 0)
        return x if kind == "un" else functional.normalize(x, dim=1)

    z, query = prepared(task.train.x), prepared(test_features.x)
    means = torch.stack([z[task.train.labels == j].mean(0) for j in range(len(COUNTS))])
    names = ["ncm_l2", "ncm_cosine"] if kind == "cl2n" else [f"ncm_{kind}_l2", f"ncm_{kind}_cosine"]
    l2 = -torch.cdist(query, means).square()
    torch.testing.assert_close(scores(names[0], task, test_features.x), l2.float(), rtol=1e-4, atol=1e-4)
    if kind == "cl2n":  # what their code has as cos: the means as long as they are
        theirs = (query @ means.T / query.shape[1]).float()
        torch.testing.assert_close(scores("ncm_authors_cos", task, test_features.x), theirs, rtol=1e-4, atol=1e-5)
    cosine = functional.normalize(query, dim=1) @ functional.normalize(means, dim=1).T
    torch.testing.assert_close(scores(names[1], task, test_features.x), cosine.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["un", "l2n", "cl2n"])
def test_nearest_means_keep_their_digits_where_the_common_part_is_large(kind: str) -> None:
    seen, asked = drawn(COUNTS, 1), drawn(np.full(len(COUNTS), 50), 3)
    name = "ncm_l2" if kind == "cl2n" else f"ncm_{kind}_l2"
    far = replace(made(COUNTS, Stage2(TRAINING, TRAINING)), train=Features(seen.x + 3000, seen.labels))
    tensors = CLASSIFIERS[name].fit(far).tensors
    found = []
    for dtype in (torch.float32, torch.float64):
        there = {key: value.to(dtype) for key, value in tensors.items()}
        found.append(CLASSIFIERS[name].scores(there, (asked.x + 3000).to(dtype)).argmax(1))
    assert (found[0] == found[1]).float().mean() > 0.98


def mean_class(weight: torch.Tensor, bias: torch.Tensor | float, features: Features, task: Task) -> float:
    return evaluate(lambda x: x @ weight.T + bias, features, task.counts)["mean_class"]


def test_class_means_are_taken_once_for_all_classifiers_of_them(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    ncm = importlib.import_module("fastlt.stage2.classifiers.ncm")
    monkeypatch.setattr(ncm, "class_mean", lambda *given: calls.append(given) or class_mean(*given))
    fresh = replace(task, train=Features(task.train.x.clone(), task.train.labels))
    names = [name for name in CLASSIFIERS if name.startswith("ncm")]
    again = [find_classifier(name).fit(replace(fresh)).tensors for name in names]
    assert len(names) == 7 and len(calls) == 1
    for name, tensors in zip(names, again, strict=True):
        torch.testing.assert_close(tensors, find_classifier(name).fit(task).tensors, rtol=0, atol=0)
    assert len(calls) <= 2


def test_a_weight_vector_of_zero_stays_zero_at_any_tau() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    for tau, expected in ((-1.0, [15.0, 20.0]), (0.0, [3.0, 4.0]), (2.0, [3 / 25, 4 / 25])):
        torch.testing.assert_close(normalized(weight, tau), torch.tensor([[0.0, 0.0], expected]), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "split"), [("tau_norm", "choose"), ("tau_train", "train")])
def test_tau_is_the_best_there_is(name: str, split: str, task: Task) -> None:
    fitted, features = CLASSIFIERS[name].fit(task), getattr(task, split)
    tau, (low, high) = fitted.choices["tau"], fitted.choices["interval"]
    assert low is None or low <= tau
    assert high is None or tau <= high
    assert fitted.choices["chosen_on"] == {"choose": "val", "train": "train"}[split]
    norm = task.weight.norm(dim=1)

    def reached(value: float) -> float:
        return mean_class(task.weight / norm.pow(value)[:, None], 0.0, features, task)

    assert reached(tau) == pytest.approx(fitted.choices["accuracy"])
    assert max(reached(value) for value in np.linspace(-1, 4, 101)) <= fitted.choices["accuracy"] + 1e-9
    torch.testing.assert_close(fitted.tensors["weight"], task.weight / norm.pow(tau)[:, None])


def test_the_tau_of_logit_adjustment_is_the_best_there_is(task: Task) -> None:
    fitted = CLASSIFIERS["logit_adjust"].fit(task)
    log_prior = torch.from_numpy(np.log(COUNTS / COUNTS.sum())).float()

    def reached(value: float) -> float:
        assert task.choose is not None
        return mean_class(task.weight, task.bias - value * log_prior, task.choose, task)

    assert reached(fitted.choices["tau"]) == pytest.approx(fitted.choices["accuracy"])
    assert max(reached(value) for value in np.linspace(-1, 4, 101)) <= fitted.choices["accuracy"] + 1e-9
    torch.testing.assert_close(fitted.tensors["bias"], task.bias - fitted.choices["tau"] * log_prior)


def test_the_tau_of_multiplicative_logit_adjustment_is_the_best_there_is(task: Task) -> None:
    fitted = CLASSIFIERS["logit_adjust_mult"].fit(task)
    prior = torch.from_numpy(COUNTS / COUNTS.sum()).float()

    def reached(value: float) -> float:
        assert task.choose is not None
        return mean_class(task.weight / prior.pow(value)[:, None], 0.0, task.choose, task)

    assert reached(fitted.choices["tau"]) == pytest.approx(fitted.choices["accuracy"])
    assert max(reached(value) for value in np.linspace(-1, 4, 101)) <= fitted.choices["accuracy"] + 1e-9
    ratio = fitted.tensors["weight"] / (task.weight / prior.pow(fitted.choices["tau"])[:, None])
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])), rtol=1e-4, atol=0)


def whole_batches(task: Task, epochs: int, rate: float, decay: float) -> Task:
    """A task whose epochs are one batch of all images each, so that the order does not matter; nothing is chosen."""
    training = Training(epochs, len(task.train), rate, decay)
    stage2 = Stage2(training, training, lr=(rate,), weight_decay=(decay,), stepped="epoch")
    return replace(task, stage2=stage2, choose=None, choose_on="none")


def stepped(parameters: list[torch.Tensor], loss, rates: list[float], decay: float, behind=lambda: None) -> None:
    """PyTorch's SGD on a loss of no arguments."""
    optimizer = torch.optim.SGD(parameters, 1.0, 0.9, weight_decay=decay)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        with torch.no_grad():
            behind()


def cosine_rates(epochs: int, rate: float) -> list[float]:
    return [rate * (1 + np.cos(np.pi * epoch / epochs)) / 2 for epoch in range(1, epochs + 1)]


def test_max_norm_is_sgd_that_is_cut_back(task: Task) -> None:
    fitted = CLASSIFIERS["max_norm"].fit(whole_batches(task, 6, 0.5, 5e-3))
    weight, bias = task.weight.clone().requires_grad_(), task.bias.clone().requires_grad_()
    norms = task.weight.norm(dim=1)
    longest = float(norms.min() + 0.1 * (norms.max() - norms.min()))
    effective = 1 / (1 - 0.9999 ** torch.from_numpy(COUNTS).double())
    weights = (effective / effective.mean()).float()[task.train.labels]

    def loss() -> torch.Tensor:
        logits = task.train.x @ weight.T + bias
        return (weights * functional.cross_entropy(logits, task.train.labels, reduction="none")).mean()

    def cut() -> None:
        norm = weight.norm(dim=1, keepdim=True)
        weight.copy_(torch.where(norm > longest, weight * longest / norm, weight))

    stepped([weight, bias], loss, cosine_rates(6, 0.5), 5e-3, cut)
    torch.testing.assert_close(fitted.tensors["weight"], weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.tensors["bias"], bias.detach(), rtol=1e-4, atol=1e-5)
    assert fitted.tensors["weight"].norm(dim=1).max() <= longest * (1 + 1e-5)
    assert (fitted.choices["max_norm"], fitted.choices["weight_decay"]) == (0.1, 5e-3)


def test_los_goes_on_with_labels_that_are_nearly_even(task: Task) -> None:
    fitted = CLASSIFIERS["los"].fit(whole_batches(task, 4, 20.0, 0.0))  # a two-hundredth of the rate
    weight, bias = task.weight.clone().requires_grad_(), task.bias.clone().requires_grad_()

    def loss() -> torch.Tensor:
        return functional.cross_entropy(task.train.x @ weight.T + bias, task.train.labels, label_smoothing=0.98)

    stepped([weight, bias], loss, cosine_rates(8, 0.1), 0.0)  # twice the epochs
    torch.testing.assert_close(fitted.tensors["weight"], weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.tensors["bias"], bias.detach(), rtol=1e-4, atol=1e-5)
    assert [row["smoothing"] for row in CLASSIFIERS["los"].fit(task).choices["grid"]] == [0.9, 0.95, 0.98, 0.99]


def test_cosines_begin_with_the_class_means(task: Task, test_features: Features) -> None:
    start = CLASSIFIERS["cosine_means"].fit(whole_batches(task, 1, 0.1, 0.0))  # whose one epoch is at rate 0
    unit = functional.normalize(task.train.x, dim=1)
    means = torch.stack([unit[task.train.labels == label].mean(0) for label in range(len(COUNTS))])
    torch.testing.assert_close(start.tensors["weight"], 25 * functional.normalize(means, dim=1), rtol=1e-4, atol=1e-4)
    fitted = CLASSIFIERS["cosine_means"].fit(whole_batches(task, 5, 0.1, 0.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lengths = nn.Linear(16, len(COUNTS)).weight.detach().norm(dim=1, keepdim=True)
    weight = (functional.normalize(means, dim=1) * lengths).requires_grad_()
    log_scale = torch.tensor(25.0).log().requires_grad_()
    prior = torch.from_numpy(np.log(COUNTS / COUNTS.sum())).float()

    def loss() -> torch.Tensor:
        logits = log_scale.exp() * unit @ functional.normalize(weight, dim=1).T
        return functional.cross_entropy(logits + prior, task.train.labels)

    stepped([weight, log_scale], loss, cosine_rates(5, 0.1), 0.0)
    expected = log_scale.exp() * functional.normalize(weight, dim=1)
    torch.testing.assert_close(fitted.tensors["weight"], expected.detach(), rtol=1e-3, atol=1e-3)


def test_the_scale_of_cosines_recovers_from_the_first_steps(test_features: Features) -> None:
    """At small batches the first steps from random weights lower the scale, which must not end at 0."""
    small = Training(10, 16, 0.2, 5e-4)
    task = made(COUNTS // 2, Stage2(small, small))
    accuracy = {}
    for name in ("crt", "cosine"):
        fitted = CLASSIFIERS[name].fit(task)
        accuracy[name] = evaluate(partial(CLASSIFIERS[name].scores, fitted.tensors), test_features, COUNTS)["all"]
    assert fitted.tensors["weight"].norm(dim=1).min() > 5
    assert accuracy["cosine"] > accuracy["crt"] - 10


@pytest.mark.parametrize("name", ["tau_norm", "logit_adjust"])
def test_curves_are_those_of_a_loop_over_tau(name: str, task: Task, test_features: Features) -> None:
    fitted = CLASSIFIERS[name].fit(task)
    assert fitted.curves is not None
    curves = fitted.curves(test_features)
    norm, log_prior = task.weight.norm(dim=1), torch.from_numpy(np.log(COUNTS / COUNTS.sum())).float()
    for tau in np.linspace(0, 2, 21).tolist():  # the authors' grid
        if name == "tau_norm":
            weight, bias = task.weight / norm.pow(tau)[:, None], torch.zeros(len(COUNTS))
        else:
            weight, bias = task.weight, task.bias - tau * log_prior
        loop = evaluate(lambda x, w=weight, b=bias: x @ w.T + b, test_features, COUNTS)
        place = int(np.argmin(np.abs(np.array(curves["tau"]) - tau)))
        for key in ("many", "medium", "few", "all"):
            assert curves[key][place] == pytest.approx(loop[key], abs=1e-6)


def test_a_learned_tau_minimizes_the_balanced_loss(task: Task) -> None:
    long = Training(200, 64, 0.5, 5e-4)
    fitted = CLASSIFIERS["tau_learned"].fit(replace(task, stage2=Stage2(TRAINING, long)))
    norm = task.weight.norm(dim=1)
    each = torch.from_numpy(1 / COUNTS)[task.train.labels]  # class-balanced draws, as weights

    def loss(tau: float) -> float:
        logits = task.train.x @ (task.weight / norm.pow(tau)[:, None]).T
        return float((functional.cross_entropy(logits, task.train.labels, reduction="none") * each).sum())

    best = min(np.linspace(-1, 8, 181), key=loss)
    assert loss(fitted.choices["tau"]) < loss(0.0)
    assert fitted.choices["tau"] == pytest.approx(best, abs=0.15 * (1 + abs(best)))


def test_label_aware_smoothing_is_that_of_the_protocol(task: Task) -> None:
    numbers = {"smoothing_head": 0.4, "smoothing_tail": 0.1}
    fitted = CLASSIFIERS["crt_las"].fit(replace(task, stage2=replace(task.stage2, **numbers)))
    assert torch.equal(fitted.tensors["weight"], crt.fit(task, "label_aware_smoothing", **numbers).tensors["weight"])
    assert not torch.equal(fitted.tensors["weight"], CLASSIFIERS["crt_las"].fit(task).tensors["weight"])
    assert fitted.choices == {**CLASSIFIERS["crt"].fit(task).choices, **numbers}
    assert set(numbers) <= set(CLASSIFIERS["crt_las"].uses)


@pytest.mark.parametrize("both", [True, False])
def test_lws_scales_the_joint_classifier(both: bool, task: Task) -> None:
    fitted = CLASSIFIERS["lws"].fit(replace(task, stage2=replace(task.stage2, scale_bias=both)))
    weight, bias = fitted.tensors["weight"], fitted.tensors["bias"]
    scale = weight.norm(dim=1) / task.weight.norm(dim=1)
    torch.testing.assert_close(functional.normalize(weight, dim=1), functional.normalize(task.weight, dim=1))
    torch.testing.assert_close(bias, task.bias * scale if both else task.bias)
    assert scale[-1] > scale[0]  # the rarest class gains most


@pytest.mark.parametrize("name", ["lws", "tau_learned"])
def test_scores_of_many_classes_are_made_batch_by_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = made(COUNTS, Stage2(TRAINING, TRAINING), dim=3)
    direct = CLASSIFIERS[name].fit(task).tensors["weight"]
    z = functional.linear(task.train.x, task.weight, task.bias if name == "lws" else None)
    ready = Features(z, task.train.labels), lambda scores: scores
    monkeypatch.setattr(f"fastlt.stage2.classifiers.{name}.fixed_scores", lambda *_: ready)
    torch.testing.assert_close(CLASSIFIERS[name].fit(task).tensors["weight"], direct, rtol=1e-4, atol=1e-5)


def test_cosine_depends_on_directions_alone(task: Task, test_features: Features) -> None:
    found = scores("cosine", task, test_features.x)
    torch.testing.assert_close(scores("cosine", task, 3 * test_features.x), found, rtol=1e-5, atol=1e-4)
    fitted = CLASSIFIERS["cosine"].fit(task)
    lengths = fitted.tensors["weight"].norm(dim=1)
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths))


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_seeded(name: str, task: Task, test_features: Features) -> None:
    torch.manual_seed(123)
    first = scores(name, task, test_features.x)
    torch.manual_seed(456)
    assert torch.equal(first, scores(name, task, test_features.x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_a_gpu_gives_the_same(name: str, task: Task, test_features: Features) -> None:
    """There the steps of a training are replayed as one CUDA graph."""

    def moved(features: Features) -> Features:
        return Features(features.x.cuda(), features.labels.cuda())

    assert task.choose is not None
    there = replace(
        task,
        train=moved(task.train),
        augmented=moved(task.augmented),
        choose=moved(task.choose),
        joint=copy.deepcopy(task.joint).cuda(),
    )
    here = scores(name, task, test_features.x)
    torch.testing.assert_close(scores(name, there, test_features.x.cuda()).cpu(), here, rtol=1e-2, atol=1e-2)


def test_starts_drawn_in_several_threads_are_those_of_one() -> None:
    def start() -> torch.Tensor:
        drawn = torch.rand(1)
        time.sleep(0.02)
        return torch.cat([drawn, torch.rand(1)])

    def starts(seed: int) -> torch.Tensor:
        return spread(start, [seed, seed + 1], 1, torch.device("cpu")).detach()

    alone = [starts(seed) for seed in range(4)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(starts, range(4)))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "logit_adjusted_loss"])  # chooses by all seeds
def test_seeds_are_trainings_of_their_own(name: str, task: Task) -> None:
    together = CLASSIFIERS[name].fit(replace(task, stage2=replace(task.stage2, seeds=3)))
    assert len(together.others) == 2
    for number, tensors in enumerate((together.tensors, *together.others)):
        alone = CLASSIFIERS[name].fit(replace(task, seed=number)).tensors
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, alone[key], rtol=1e-3, atol=1e-4)
    assert not torch.equal(*[next(iter(t.values())) for t in (together.tensors, together.others[0])])


@pytest.mark.parametrize("name", ["crt", "lws", "mlp_2"])
def test_the_best_setting_is_kept(name: str, task: Task) -> None:
    rates, decays = (0.001, 0.2, 0.05), (5e-4, 0.3)
    grid = Training(3, 64, 1.0, 1.0)  # whose place the rates and decays to choose from take
    fitted = CLASSIFIERS[name].fit(replace(task, stage2=Stage2(grid, grid, lr=rates, weight_decay=decays, hidden=48)))
    found = []
    for lr in rates:
        for decay in decays:
            one = Training(3, 64, lr, decay)
            alone = replace(task, stage2=Stage2(one, one, hidden=48))
            assert task.choose is not None
            found.append((accuracy(name, alone, task.choose)["mean_class"], lr, decay))
    assert [row["accuracy"] for row in fitted.choices["grid"]] == pytest.approx([row[0] for row in found], abs=0.9)
    best = max(fitted.choices["grid"], key=lambda row: round(row["accuracy"], 9))
    assert (fitted.choices["lr"], fitted.choices["weight_decay"]) == (best["lr"], best["weight_decay"])
    assert fitted.choices["accuracy"] == best["accuracy"]
    assert fitted.choices["chosen_on"] == "val"
    assert 0 <= fitted.choices["bootstrap"]["same_choice"] <= 100


def test_the_authors_last_epoch_changes_nothing(task: Task) -> None:
    """At rate 0 it has no effect, so a cosine of 4 epochs leaves what its first three leave."""
    stage2 = Stage2(Training(1, 64, 0.2, 0.0), TRAINING, stepped="epoch")
    start = nn.Linear(16, len(COUNTS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start.reset_parameters()
    fitted = CLASSIFIERS["crt"].fit(replace(task, stage2=stage2))
    torch.testing.assert_close(fitted.tensors["weight"], start.weight.detach(), rtol=0, atol=0)


def test_steps_of_stage_2_are_pytorchs(task: Task) -> None:
    """BagofTricks-LT's stage 2, shortened: Nesterov's momentum, a warm-up from a third, two steps; one epoch of all
    images is one batch, so that the order does not matter."""
    law = {"warmup_epochs": 1, "warmup_from": 1 / 3, "milestones": (2, 4), "nesterov": True}
    training = Training(6, len(task.train), 0.1, 5e-4, **law)
    setting = replace(task, stage2=Stage2(training, training, stepped="epoch"))
    fitted = CLASSIFIERS["balanced_softmax"].fit(setting)  # on images as they come
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = nn.Linear(16, len(COUNTS))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    for rate in (0.1, 0.1, 0.01, 0.01, 0.001, 0.001):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        logits = theirs(task.train.x) + torch.from_numpy(COUNTS).log()
        functional.cross_entropy(logits, task.train.labels).backward()
        optimizer.step()
    torch.testing.assert_close(fitted.tensors["weight"], theirs.weight.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["crt", "lws", "mlp_1"])
def test_the_best_epoch_is_kept(name: str, task: Task) -> None:
    """A rate this high makes accuracy jump from epoch to epoch, so that the best is not the last."""
    wild = Training(6, 64, 3.0, 0.0, milestones=(100,))

    def fitted(keep: str, epochs: int) -> Fitted:
        stage2 = Stage2(replace(wild, epochs=epochs), replace(wild, epochs=epochs), keep=keep, hidden=48, seeds=2)
        return CLASSIFIERS[name].fit(replace(task, stage2=stage2))

    classifier, best = CLASSIFIERS[name], fitted("best", 6)
    for seed, epoch in enumerate(best.choices["epoch"]):
        reached = []
        for epochs in range(1, 7):  # without a fall of the rate a shorter training is the beginning of a longer one
            last = fitted("last", epochs)
            tensors = (last.tensors, *last.others)[seed]
            assert task.choose is not None
            reached.append((classifier.scores(tensors, task.choose.x).argmax(1) == task.choose.labels).sum().item())
            if epochs == epoch:
                for key, tensor in (best.tensors, *best.others)[seed].items():
                    torch.testing.assert_close(tensor, tensors[key], rtol=0, atol=0)
        assert epoch == 1 + reached.index(max(reached))
    assert best.choices["chosen_on"] == "val" and "epoch" not in fitted("last", 1).choices


@pytest.mark.parametrize("keeps_bias", [False, True])
def test_a_given_tau_is_taken_and_may_keep_the_bias(keeps_bias: bool, task: Task) -> None:
    """BagofTricks-LT divides the weights by their lengths and leaves the bias as it is."""
    given = replace(task, stage2=replace(task.stage2, tau=1.0, tau_bias=keeps_bias))
    fitted = CLASSIFIERS["tau_norm"].fit(given)
    weight = task.weight / torch.norm(task.weight, 2, 1, keepdim=True)
    torch.testing.assert_close(fitted.tensors["weight"], weight)
    assert ("bias" in fitted.tensors) == keeps_bias
    if keeps_bias:
        torch.testing.assert_close(fitted.tensors["bias"], task.bias)
    assert fitted.choices == {"tau": 1.0, **({"bias": "kept"} if keeps_bias else {})}
    assert "interval" in CLASSIFIERS["tau_train"].fit(given).choices  # chosen, as its name says


def test_augmented_passes_are_learned_from_and_means_are_not_of_them(task: Task) -> None:
    other = drawn(COUNTS, 9)
    both = Features(torch.cat([task.train.x, other.x]), torch.cat([task.train.labels, other.labels]))
    seen = replace(task, augmented=both)
    for name in ("crt", "lws", "balanced_softmax"):
        fits = [CLASSIFIERS[name].fit(t).tensors["weight"] for t in (task, seen)]
        assert not torch.equal(*fits)
    assert torch.equal(scores("ncm_l2", seen, other.x), scores("ncm_l2", task, other.x))


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_float16_features_serve(name: str, task: Task, test_features: Features) -> None:
    def half(features: Features) -> Features:
        return Features(features.x.half(), features.labels)

    assert task.choose is not None
    small = replace(task, train=half(task.train), augmented=half(task.augmented), choose=half(task.choose))
    full, rounded = accuracy(name, task, test_features), accuracy(name, small, half(test_features))
    assert rounded["mean_class"] == pytest.approx(full["mean_class"], abs=1.5)


@pytest.mark.parametrize("name", list(CLASSIFIERS))
@pytest.mark.parametrize(
    ("counts", "dim"),
    [([30, 3], 16), ([400, 150, 60], 16), ([40, 5, 3], 1), ([120, 0, 30, 4], 16)],
    ids=["two classes", "few empty", "one dimension", "a class without training images"],
)
def test_odd_cases(name: str, counts: list[int], dim: int) -> None:
    training = Training(2, 16, 0.1, 5e-4)
    chosen = np.array([20] * (len(counts) - 1) + [0])  # and the last class is not in the split for choices
    task = made(np.array(counts), Stage2(training, training, hidden=24), dim, chosen)
    result = accuracy(name, task, drawn(np.full(len(counts), 10), 3, dim))
    assert 0 <= result["all"] <= 100
    if min(counts) >= 20:
        assert result["few"] is None
    if 0 in counts and name.startswith(("ncm", "crt", "cosine")):
        assert result["per_class"][counts.index(0)] == 0  # never seen, never predicted (almost: it has no weight)


def test_a_batch_larger_than_the_data_is_all_of_it(task: Task) -> None:
    large = Training(2, 10_000, 0.2, 5e-4)
    fitted = CLASSIFIERS["crt"].fit(replace(task, stage2=Stage2(large, large)))
    assert fitted.tensors["weight"].isfinite().all()


def prior_scaled(task: Task) -> Fitted:
    """A user's own: shorter weights for the head."""
    share = torch.from_numpy(task.counts / task.counts.sum()).float()
    return Fitted({"weight": task.weight / share[:, None].pow(0.3)}, {"power": 0.3})


OWN = Classifier(prior_scaled)
NOTHING = 3
WRONG = {
    "nothing": (lambda task: None, "gives a NoneType: it must give a Fitted"),
    "array": (lambda task: Fitted({"weight": task.weight.numpy()}), "gives a ndarray as weight: it must be a tensor"),
    "double": (lambda task: Fitted({"weight": task.weight.double()}), "gives tensors of torch.float64: float32 is"),
    "other name": (lambda task: Fitted({"w": task.weight}), "gives tensors of the shapes {}: one with linear scores"),
    "turned": (
        lambda task: Fitted({"weight": task.weight.T}),
        "gives tensors of the shapes {'weight': [16, 6]}: one with linear scores gives {'weight': [6, 16], ",
    ),
    "long bias": (
        lambda task: Fitted({"weight": task.weight, "bias": task.bias.repeat(2)}),
        "gives tensors of the shapes {'weight': [6, 16], 'bias': [12]}: one with linear scores",
    ),
}


def scores_of_no_tensor(tensors: Tensors, x: torch.Tensor) -> torch.Tensor:
    return x @ tensors["nothing"].T


BROKEN_SCORES = Classifier(prior_scaled, scores_of_no_tensor)


def test_a_classifier_of_ones_own(task: Task, test_features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{__name__}:prior_scaled", f"{__name__}:OWN"):
        assert accuracy(name, task, test_features)["few"] > accuracy("joint", task, test_features)["few"]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_scores_can_be_computed_from_is_refused(
    wrong: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, told = WRONG[wrong]
    monkeypatch.setattr(sys.modules[__name__], "GIVEN", given, raising=False)
    with pytest.raises(UserError) as refused:
        find_classifier(f"{__name__}:GIVEN").fit(task)
    assert str(refused.value).startswith(f"classifier={__name__}:GIVEN {told}")


def test_an_error_in_own_scores_tells_the_line(task: Task, test_features: Features) -> None:
    with pytest.raises(UserError, match=r"fails \(KeyError: 'nothing', line \d+ of test_classifiers.py\)"):
        accuracy(f"{__name__}:BROKEN_SCORES", task, test_features)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("knn", "classifier=knn is unknown: allowed are paper, all, joint"),
        ("nowhere:FIT", "importing nowhere fails (ModuleNotFoundError"),
        (f"{__name__}:MISSING", "has no MISSING"),
        (f"{__name__}:NOTHING", "NOTHING is a int"),
    ],
)
def test_what_is_no_classifier_is_refused(name: str, told: str) -> None:
    with pytest.raises(UserError, match=r".*") as refused:
        find_classifier(name)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Training(0, 64, 0.1, 0.0),
        lambda: Training(1, 0, 0.1, 0.0),
        lambda: Stage2(TRAINING, TRAINING, lr=()),
        lambda: Stage2(TRAINING, TRAINING, lr=(0.1, -0.1)),
        lambda: Stage2(TRAINING, TRAINING, weight_decay=(-1.0,)),
        lambda: Training(1, 64, -0.1, 0.0),
        lambda: Training(1, 64, 0.1, -1.0),
        lambda: Stage2(TRAINING, TRAINING, seeds=0),
        lambda: Stage2(TRAINING, TRAINING, drawing="all"),
        lambda: Stage2(TRAINING, TRAINING, stepped="never"),
        lambda: Stage2(TRAINING, TRAINING, hidden=0),
        lambda: Stage2(TRAINING, TRAINING, keep="first"),
        lambda: Stage2(TRAINING, TRAINING, tau_bias=True),
        lambda: Stage2(TRAINING, TRAINING, tau=float("nan")),
        lambda: Training(1, 64, 0.1, 0.0, milestones=(5, 5)),
        lambda: Training(1, 64, 0.1, 0.0, warmup_from=2.0),
        lambda: Stage2(TRAINING, TRAINING, smoothing_tail=0.4),
    ],
)
def test_wrong_settings_are_refused(wrong) -> None:
    with pytest.raises(UserError):
        wrong()
