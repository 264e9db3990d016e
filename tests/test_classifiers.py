"""Stage-2 classifiers on drawn features: what each is by definition, and that they do what the paper says."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastlt.classifiers import CLASSIFIERS
from fastlt.classifiers.base import Features, Task, Training
from fastlt.config import CLASSIFIERS as NAMES
from fastlt.evaluate import evaluate
from fastlt.groups import class_groups

COUNTS = np.array([400, 150, 60, 25, 10, 5])


def drawn(counts: np.ndarray, seed: int) -> Features:
    """Gaussian classes in 16 dimensions, apart but for some overlap."""
    centers = torch.randn(len(counts), 16, generator=torch.Generator().manual_seed(0)) * 1.1
    labels = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    noise = torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(seed + 1))
    return Features((centers[labels] + noise).contiguous(), labels)


@pytest.fixture(scope="module")
def task() -> Task:
    """Features with a joint classifier trained on all of them alike, so that it favours the head."""
    train = drawn(COUNTS, 1)
    linear = torch.nn.Linear(16, len(COUNTS))
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(linear(train.x), train.labels).backward()
        optimizer.step()
    return Task(
        train=train,
        choose=drawn(np.full(len(COUNTS), 40), 2),
        choose_on="val",
        weight=linear.weight.detach(),
        bias=linear.bias.detach(),
        groups=class_groups(COUNTS),
        training={"crt": Training(20, 64, 0.2, 5e-4), "lws": Training(20, 64, 0.2, 5e-4)},
        seed=0,
    )


@pytest.fixture(scope="module")
def test_features() -> Features:
    return drawn(np.full(len(COUNTS), 100), 3)


def accuracy(name: str, task: Task, features: Features) -> dict:
    return evaluate(CLASSIFIERS[name](task).scores, features, task.groups)


def test_the_table_and_the_configuration_name_the_same() -> None:
    assert list(CLASSIFIERS) == NAMES


def test_decoupled_classifiers_rescue_the_tail(task: Task, test_features: Features) -> None:
    results = {name: accuracy(name, task, test_features) for name in CLASSIFIERS}
    for name in ("ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws"):
        assert results[name]["few"] > results["joint"]["few"] + 10, name
        assert results[name]["all"] > results["joint"]["all"], name


def test_joint_is_the_linear_layer(task: Task, test_features: Features) -> None:
    scores = CLASSIFIERS["joint"](task).scores(test_features.x)
    assert torch.equal(scores, test_features.x @ task.weight.T + task.bias)


def test_ncm_is_the_authors(task: Task, test_features: Features) -> None:
    x = task.train.x.double()
    center = x.mean(0)
    z = functional.normalize(x - center, dim=1)
    means = torch.stack([z[task.train.labels == j].mean(0) for j in range(len(COUNTS))])
    query = functional.normalize(test_features.x.double() - center, dim=1)
    l2 = -torch.cdist(query, means).square()
    torch.testing.assert_close(CLASSIFIERS["ncm_l2"](task).scores(test_features.x), l2.float(), rtol=1e-4, atol=1e-5)
    cosine = query @ functional.normalize(means, dim=1).T
    torch.testing.assert_close(
        CLASSIFIERS["ncm_cosine"](task).scores(test_features.x), cosine.float(), rtol=1e-4, atol=1e-5
    )


def test_tau_is_the_best_there_is(task: Task) -> None:
    fitted = CLASSIFIERS["tau_norm"](task)
    tau, (low, high) = fitted.choices["tau"], fitted.choices["interval"]
    assert low is None or low <= tau
    assert high is None or tau <= high
    norm = task.weight.norm(dim=1)

    def mean_class(value: float) -> float:
        weight = task.weight / norm.pow(value)[:, None]
        return evaluate(lambda x: x @ weight.T, task.choose, task.groups)["mean_class"]

    assert mean_class(tau) == pytest.approx(fitted.choices["accuracy"])
    assert max(mean_class(value) for value in np.linspace(-1, 4, 101)) <= fitted.choices["accuracy"] + 1e-9
    assert fitted.weight is not None
    torch.testing.assert_close(fitted.weight, task.weight / norm.pow(tau)[:, None])


def test_tau_curves_are_those_of_a_loop_over_tau(task: Task, test_features: Features) -> None:
    fitted = CLASSIFIERS["tau_norm"](task)
    assert fitted.curves is not None
    curves = fitted.curves(test_features)
    norm = task.weight.norm(dim=1)
    for tau in np.linspace(0, 2, 21):  # the authors' grid
        weight = task.weight / norm.pow(float(tau))[:, None]
        loop = evaluate(lambda x, w=weight: x @ w.T, test_features, task.groups)
        place = int(np.argmin(np.abs(np.array(curves["tau"]) - tau)))
        for name in ("many", "medium", "few", "all"):
            assert curves[name][place] == pytest.approx(loop[name], abs=1e-6)


def test_lws_scales_the_joint_classifier(task: Task) -> None:
    fitted = CLASSIFIERS["lws"](task)
    assert fitted.weight is not None
    scale = fitted.weight.norm(dim=1) / task.weight.norm(dim=1)
    torch.testing.assert_close(functional.normalize(fitted.weight, dim=1), functional.normalize(task.weight, dim=1))
    assert scale[-1] > scale[0]  # the rarest class gains most


@pytest.mark.parametrize("name", ["crt", "lws"])
def test_training_is_seeded(name: str, task: Task, test_features: Features) -> None:
    torch.manual_seed(123)
    first = CLASSIFIERS[name](task).scores(test_features.x)
    torch.manual_seed(456)
    assert torch.equal(first, CLASSIFIERS[name](task).scores(test_features.x))
