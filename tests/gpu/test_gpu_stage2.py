"""Stage 2 on features on a GPU: several seeds and settings at once, float16 rows, in one CUDA graph a classifier.

tests/test_classifiers.py has every classifier with one seed and one setting in float32.
"""

import copy
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_classifiers import COUNTS, TRAINED, drawn, made

from fastlt.stage2.classifiers import CLASSIFIERS, find_classifier
from fastlt.stage2.classifiers.base import Features, Fitted, Stage2, Task, Training
from fastlt.stage2.classifiers.heads import Capped
from fastlt.stage2.classifiers.sgd import Step
from fastlt.stage2.estimators import LWS
from fastlt.stage2.evaluate import evaluate
from fastlt.stage2.temperature import fit_temperature

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_thread")]

GRID = Training(3, 64, 0.2, 5e-4)
CHOICES: dict[str, Any] = {"lr": (0.2, 0.02), "weight_decay": (5e-4, 0.05)}


def moved(features: Features, device: torch.device, dtype: torch.dtype) -> Features:
    return Features(features.x.to(device, dtype), features.labels.to(device))


def on(task: Task, device: torch.device, dtype: torch.dtype = torch.float32) -> Task:
    """The same task with its features and joint classifier on a device."""
    assert task.choose is not None
    train, choose = (moved(part, device, dtype) for part in (task.train, task.choose))
    augmented_passes = train if task.augmented is task.train else moved(task.augmented, device, dtype)
    return replace(
        task, train=train, augmented=augmented_passes, choose=choose, joint=copy.deepcopy(task.joint).to(device)
    )


@pytest.fixture(scope="module")
def task() -> Task:
    return made(COUNTS, Stage2(GRID, GRID, **CHOICES, seeds=2, hidden=32))


@pytest.fixture(scope="module")
def unseen() -> Features:
    return drawn(np.full(len(COUNTS), 100), 3)


def measured(name: str, fitted: Fitted, features: Features) -> list[dict]:
    """Measures of every seed's classifier."""
    scores = [partial(find_classifier(name).scores, tensors) for tensors in (fitted.tensors, *fitted.others)]
    return [evaluate(each, features, COUNTS, fit_temperature(each, features)) for each in scores]


def assert_alike(name: str, task: Task, there: Task, unseen: Features) -> None:
    """Fitted on both devices it gives the same classes, but for a few close ones."""
    here, found = CLASSIFIERS[name].fit(task), CLASSIFIERS[name].fit(there)
    device = there.train.x.device
    assert all(tensor.device.type == device.type for tensor in found.tensors.values())
    assert len(found.others) == len(here.others)
    if "grid" in here.choices:
        ours, theirs = ([setting["accuracy"] for setting in fitted.choices["grid"]] for fitted in (found, here))
        np.testing.assert_allclose(ours, theirs, atol=1.5)
    away = moved(unseen, device, there.train.x.dtype)
    for ours, theirs in zip(measured(name, found, away), measured(name, here, unseen), strict=True):
        for key in ("all", "mean_class", "many", "few"):
            assert ours[key] == pytest.approx(theirs[key], abs=1.5), key
        assert ours["calibrated"]["temperature"] == pytest.approx(theirs["calibrated"]["temperature"], rel=0.1)
    if here.curves is not None:
        assert found.curves is not None
        curves = here.curves(unseen), found.curves(away)
        for key in ("all", "few"):
            np.testing.assert_allclose(curves[1][key], curves[0][key], atol=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_seeds_and_settings(name: str, task: Task, unseen: Features, device: torch.device) -> None:
    assert_alike(name, task, on(task, device), unseen)


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_float16_features_with_augmented_passes(name: str, task: Task, unseen: Features, device: torch.device) -> None:
    """Rows are float16 in the graph, and twice as many: an epoch is a part of them."""
    again = drawn(COUNTS, 4)
    augmented_passes = Features(torch.cat([task.train.x, again.x]), torch.cat([task.train.labels, again.labels]))
    seen = replace(task, augmented=augmented_passes)
    assert_alike(name, on(seen, torch.device("cpu"), torch.float16), on(seen, device, torch.float16), unseen)


@pytest.mark.parametrize("name", ["lws", "tau_learned"])
def test_more_classes_than_dimensions(name: str, unseen: Features, device: torch.device) -> None:
    """Scores are then made batch by batch, within the graph."""
    few = made(COUNTS, Stage2(GRID, GRID, **CHOICES, seeds=2), dim=3)
    assert_alike(name, few, on(few, device), drawn(np.full(len(COUNTS), 100), 3, 3))


@pytest.mark.parametrize("name", TRAINED)
def test_it_is_seeded_and_leaves_the_generators_alone(name: str, task: Task, device: torch.device) -> None:
    there = on(task, device)
    states = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.zeros(1)
    first = CLASSIFIERS[name].fit(there)
    assert torch.equal(torch.get_rng_state(), states[0])
    if device.type == "cuda":
        assert torch.equal(torch.cuda.get_rng_state(device), states[1])
    torch.manual_seed(5)
    second = CLASSIFIERS[name].fit(there)
    for key, tensor in first.tensors.items():
        torch.testing.assert_close(second.tensors[key], tensor, rtol=1e-3, atol=1e-4)


def test_many_fits_leave_no_memory_behind(task: Task, gpu: torch.device) -> None:
    """Every fit has a CUDA graph with memory of its own."""
    there = on(task, gpu)
    for _ in range(3):
        CLASSIFIERS["mlp_2"].fit(there)
    before = torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)
    for _ in range(10):
        CLASSIFIERS["mlp_2"].fit(there)
    assert torch.cuda.memory_allocated(gpu) <= before[0] + 1e6
    assert torch.cuda.memory_reserved(gpu) <= before[1] + 64e6


def test_a_capture_changes_no_weight(task: Task, gpu: torch.device) -> None:
    """Weights that are cut back after every step are cut back after the first, not before it."""
    there = on(task, gpu)
    head = Capped(there.weight, there.bias, [0], 1)
    head.cap([0.5 * float(there.weight.norm(dim=1).min())])
    Step(head, there.train, 1, 8, [{"lr": 0.1, "weight_decay": 0.0}], lambda z, y: z.square().sum(-1))
    assert torch.equal(head.weight[0, 0], there.weight) and torch.equal(head.bias[0, 0], there.bias)


def test_one_that_was_fitted_on_a_gpu_is_pickled_without_it(task: Task, gpu: torch.device) -> None:
    there = on(task, gpu)
    assert there.choose is not None
    held = there.choose.x, there.choose.labels
    for joint in (there.joint, (there.weight, there.bias)):
        clf = LWS(joint=joint, epochs=2).fit(there.train.x, there.train.labels, *held)
        again = pickle.loads(pickle.dumps(clf))
        parts = again.joint.parameters() if isinstance(again.joint, torch.nn.Module) else again.joint
        kept = [*again.tensors_.values(), *parts]
        assert not any(tensor.is_cuda for tensor in kept)
        assert torch.equal(again.predict(held[0]), clf.predict(held[0]))
        sets = clf.predict_set(held[0], coverage=0.5)
        assert sets.members.is_cuda and set(sets.labels(0)) <= set(range(len(COUNTS)))
