"""Fitting what is not fitted yet: reuse, its limits, trainings that diverge."""

import importlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classifiers import COUNTS, drawn, made

from fastlt.core.files import NotWritten
from fastlt.core.log import regrets
from fastlt.core.typed import typed
from fastlt.experiment.results import ClassifierResult
from fastlt.stage2 import classify as module
from fastlt.stage2.classifiers import CLASSIFIERS
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training, linear_scores
from fastlt.stage2.classify import FeaturesChanged, Job, classify, file_of

TRAINING = Training(2, 64, 0.2, 5e-4)
NAMES = ("joint", "ncm_l2", "crt", "tau_norm", "lws")


@pytest.fixture(scope="module")
def task() -> Task:
    return made(COUNTS, Stage2(TRAINING, TRAINING))


def jobs(task: Task, *names: str, **about: str) -> list[Job]:
    test = drawn(np.full(len(COUNTS), 30), 3)
    return [Job(name, task, test, COUNTS, {"representation": "r", **about}, "checkpoint.pt") for name in names]


def fit_all(listed: list[Job], folder: Path) -> dict[str, dict]:
    found = classify(iter(listed), folder, len(listed))
    assert not found.failed and not regrets()
    return found.rows


def failure(listed: list[Job], folder: Path) -> str:
    """Why the only one that cannot be fitted cannot; the command tells it at its end."""
    found = classify(iter(listed), folder, len(listed))
    ((name, told),) = found.failed.items()
    assert regrets() == [f"classifier {name}: {told}"] and "\n" not in told
    assert set(found.rows) == {job.name for job in listed} - {name}
    return told


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}


def test_a_second_run_fits_only_what_is_new(task: Task, tmp_path: Path) -> None:
    first = fit_all(jobs(task, *NAMES), tmp_path)
    before = times(tmp_path)
    second = fit_all(jobs(task, *NAMES, "cosine"), tmp_path)
    after = times(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"cosine.pt"}
    assert {name: second[name] for name in NAMES} == first
    assert list(second) == [*NAMES, "cosine"]


@pytest.mark.parametrize(
    ("change", "fitted_again"),
    [
        (lambda t: replace(t, stage2=replace(t.stage2, lws=Training(1, 64, 0.2, 0.0))), {"lws"}),
        (lambda t: replace(t, stage2=replace(t.stage2, seeds=2)), {"crt", "lws"}),
        (lambda t: replace(t, choose_on="test"), set(NAMES)),
        (lambda t: replace(t, augmented=Features(t.train.x.repeat(2, 1), t.train.labels.repeat(2))), {"crt", "lws"}),
    ],
    ids=["lws", "seeds", "choose_on", "augmented_passes"],
)
def test_what_depends_on_a_change_is_fitted_again(change, fitted_again: set[str], task: Task, tmp_path: Path) -> None:
    fit_all(jobs(task, *NAMES), tmp_path)
    before = times(tmp_path)
    fit_all(jobs(change(task), *NAMES), tmp_path)
    assert {Path(name).stem for name, time in times(tmp_path).items() if before[name] != time} == fitted_again


def test_features_of_something_else_are_not_mixed_up(task: Task, tmp_path: Path) -> None:
    fit_all(jobs(task, "joint"), tmp_path)
    before = times(tmp_path)
    fit_all(jobs(task, "joint", representation="another"), tmp_path)
    assert times(tmp_path) != before


CHANGES = {  # module, what stands there, what is to stand there, and what is then fitted again
    "a comment of a kernel": ("kernels.class_mean", "from __future__", "# A remark.\nfrom __future__", set()),
    "a docstring of a kernel": (
        "kernels.class_mean",
        "The means themselves are not normalized",
        "Means have any length",
        set(),
    ),
    "a constant of a kernel": ("kernels.class_mean_cpu", "_TASKS = 64", "_TASKS = 32", {"ncm_l2"}),
    "a kernel that two kernels use": ("kernels.tiles", "2**27", "2**26", {"tau_norm"}),
    "a kernel of the plan": ("kernels.crop_resize", "def _", "def __", set()),
    "a classifier": ("stage2.classifiers.lws", "LWS =", "SAME =", {"lws"}),
    "their training": (
        "stage2.classifiers.sgd",
        "import numpy",
        "import os, numpy",
        {"joint", "crt", "lws", "tau_norm"},
    ),
    "a loss": ("longtail.losses.focal", "gamma", "gamma_", {"joint", "crt", "lws", "tau_norm"}),
    "a measure": ("stage2.evaluate", "BINS = 15", "BINS = 10", set(NAMES)),
    "fitting and keeping": ("stage2.classify", "SCHEMA = 1", "SCHEMA = 1 + 0", set(NAMES)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_uses_changed_code_is_fitted_again(
    change: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, there, new, fitted_again = CHANGES[change]
    name = f"fastlt.{name}"
    assert there in module.SOURCES[name]
    before = {job.name: module._key(job) for job in jobs(task, *NAMES)}
    monkeypatch.setattr(module, "SOURCES", {**module.SOURCES, name: module.SOURCES[name].replace(there, new, 1)})
    assert {job.name for job in jobs(task, *NAMES) if module._key(job) != before[job.name]} == fitted_again


def test_every_classifier_counts_its_own_module(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ["joint", "ncm", "crt", "lws", "tau_norm", "tau_learned", "cosine", "mlp", "prior_losses", "logit_adjust"]
    files += ["logit_adjust_mult", "max_norm", "los", "cosine_means"]
    before = {job.name: module._key(job) for job in jobs(task, *CLASSIFIERS)}
    changed = {f"fastlt.stage2.classifiers.{file}": "CHANGED = True" for file in files}
    monkeypatch.setattr(module, "SOURCES", {**module.SOURCES, **changed})
    assert all(module._key(job) != before[job.name] for job in jobs(task, *CLASSIFIERS))


def test_a_file_of_other_code_is_not_taken(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_all(jobs(task, "joint", "ncm_l2"), tmp_path)
    before = times(tmp_path)
    changed = {"fastlt.kernels.class_mean": "CHANGED = True"}
    monkeypatch.setattr(module, "SOURCES", {**module.SOURCES, **changed})
    fit_all(jobs(task, "joint", "ncm_l2"), tmp_path)
    assert {name for name, time in times(tmp_path).items() if before[name] != time} == {"ncm_l2.pt"}


@pytest.mark.parametrize("flipped", [True, False])
def test_a_damaged_file_is_made_anew(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], flipped: bool
) -> None:
    first = fit_all(jobs(task, "ncm_l2"), tmp_path)
    path = file_of(tmp_path, "ncm_l2")
    data = bytearray(path.read_bytes())
    mean = next(iter(torch.load(path, weights_only=True)["tensors"].values())).numpy().tobytes()[:16]
    data[data.index(mean)] ^= 1  # a file that torch.load takes, with another mean
    path.write_bytes(data if flipped else data[:100])
    again = fit_all(jobs(task, "ncm_l2"), tmp_path)
    assert {**again["ncm_l2"], "seconds": 0} == {**first["ncm_l2"], "seconds": 0}
    assert torch.load(path, weights_only=True)["row"] == again["ncm_l2"]
    told = capsys.readouterr().err
    assert f"{path} is damaged" in told
    assert "; the classifier is fitted anew" in told


def test_seeds_are_averaged(task: Task, tmp_path: Path) -> None:
    several = replace(task, stage2=replace(task.stage2, seeds=3))
    row = fit_all(jobs(several, "crt"), tmp_path)["crt"]
    alone = [fit_all(jobs(replace(task, seed=seed), "crt"), tmp_path / str(seed))["crt"]["all"] for seed in range(3)]
    assert row["seeds"] == 3
    assert row["all"] == pytest.approx(np.mean(alone), abs=0.4)
    assert row["std"]["all"] == pytest.approx(np.std(alone, ddof=1), abs=0.4)


def test_neither_temperature_nor_prediction_sets_come_from_images_that_were_fitted(task: Task, tmp_path: Path) -> None:
    row = fit_all(jobs(task, "crt"), tmp_path)["crt"]
    state = torch.load(file_of(tmp_path, "crt"), weights_only=True)
    assert row["calibrated"]["temperature"] == state["temperature"] != 1
    held, apart = state["held_out"], task.choose
    assert apart is not None and torch.equal(held["labels"], apart.labels)
    probability = (linear_scores(state["tensors"], apart.x) / state["temperature"]).softmax(1)
    own = probability.gather(1, apart.labels[:, None])[:, 0]
    torch.testing.assert_close(held["unfit"], 1 - own.double())
    on_train = replace(task, choose=task.train, choose_on="train")
    assert "calibrated" not in fit_all(jobs(on_train, "crt"), tmp_path)["crt"]
    state = torch.load(file_of(tmp_path, "crt"), weights_only=True)
    assert (state["temperature"], state["held_out"]) == (1, None)


@pytest.mark.parametrize("spread", [4e-3, 1e-6])
def test_an_extreme_tau_is_written_or_told(spread: float, task: Task, tmp_path: Path) -> None:
    """Where the lengths of weights hardly differ, only a huge tau makes a difference."""
    linear = torch.nn.Linear(16, len(COUNTS), bias=False)
    with torch.no_grad():
        length = 0.5 * (1 - spread * torch.arange(len(COUNTS)))
        linear.weight.copy_(torch.nn.functional.normalize(task.weight, dim=1) * length[:, None])
        linear.weight[0] *= 1 + 3 * spread
    unlearned = replace(task, joint=linear)
    if spread > 1e-4:
        row = fit_all(jobs(unlearned, "tau_norm"), tmp_path)["tau_norm"]
        assert abs(row["choices"]["tau"]) > 20
        json.dumps(row, allow_nan=False)
    else:
        told = failure(jobs(unlearned, "tau_norm"), tmp_path)
        assert re.match(r"the best tau on val is -?[\d.e+]+, and weights", told)


@pytest.mark.parametrize("length", [1e-3, 1e3])
def test_weights_that_leave_float32_upwards_or_downwards_are_told(length: float, task: Task, tmp_path: Path) -> None:
    linear = torch.nn.Linear(16, len(COUNTS), bias=False)
    with torch.no_grad():
        linear.weight.copy_(length * torch.nn.functional.normalize(task.weight, dim=1))
    fixed = replace(task, joint=linear, stage2=replace(task.stage2, tau=40.0))
    assert failure(jobs(fixed, "tau_norm"), tmp_path).startswith(
        "tau is 40, and weights divided by that power of their length leave float32: "
    )


def test_an_own_classifier_is_fitted_again_when_its_source_or_options_change(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "from fastlt.stage2.classifiers.base import Fitted\n\n\ndef scaled(task, by=%d.0):\n"
    source += "    return Fitted({'weight': task.weight}, {'by': by})\n"
    name, fitted = "own_scaled:scaled", []
    for default, options in ((1, {}), (1, {}), (22, {}), (22, {"scaled": {"by": 3.0}})):
        (tmp_path / "own_scaled.py").write_text(source % default)
        monkeypatch.delitem(sys.modules, "own_scaled", raising=False)
        importlib.invalidate_caches()
        asked = replace(task, stage2=replace(task.stage2, options=options))
        row = fit_all(jobs(asked, name), tmp_path)[name]
        fitted.append((row["choices"]["by"], times(tmp_path)["own_scaled.scaled.pt"]))
    assert [by for by, _ in fitted] == [1.0, 1.0, 22.0, 3.0]
    assert len({time for _, time in fitted}) == 3 and fitted[0] == fitted[1]
    named = replace(task, stage2=replace(task.stage2, options={"scaled": {"representation": "a"}}))
    keys = {module._key(jobs(named, name, representation=one)[0]) for one in ("a", "b")}
    assert len(keys) == 2  # an option takes the place of nothing else that has its name
    unknown = jobs(replace(task, stage2=replace(task.stage2, options={"scaled": {"to": 1}})), name)
    assert "stage2.options.scaled.to=1 is unknown to classifier=own_scaled:scaled" in failure(unknown, tmp_path)


def test_a_training_that_diverges_is_told_and_the_others_are_kept(task: Task, tmp_path: Path) -> None:
    wild = replace(task, stage2=Stage2(Training(4, 64, 1e38, 0.0), TRAINING))
    told = failure(jobs(wild, "joint", "crt", "lws"), tmp_path)
    assert told.startswith("its training diverged: lower its learning rate")
    assert set(times(tmp_path)) == {"joint.pt", "lws.pt"}


@pytest.mark.parametrize("error", ["ZeroDivisionError('by zero\\nand more')", "UserError('too few')", "MemoryError()"])
def test_whatever_an_own_classifier_raises_ends_no_other(
    error: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_broken", raising=False)
    source = f"from fastlt.core.errors import UserError\n\n\ndef broken(task):\n    raise {error}\n"
    (tmp_path / "own_broken.py").write_text(source)
    importlib.invalidate_caches()
    told = failure(jobs(task, "own_broken:broken", "joint"), tmp_path / "kept")
    assert any(words in told for words in ("ZeroDivisionError: by zero", "too few", "MemoryError"))


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ("{'k': np.int64(3), 'each': (np.float32(0.5), True)}", ""),
        ("{'k': np.nan}", "its choices cannot be written as JSON"),
        ("{'k': [float('inf')]}", "its choices cannot be written as JSON"),
        ("{'k': task.bias}", "its choices cannot be written as JSON (Object of type Tensor is not JSON serializable)"),
        ("{'grid': [0.1, 0.2]}", "choices.grid[0] is 0.1; allowed is an object"),
    ],
)
def test_choices_that_results_cannot_hold_end_no_other(
    choices: str, told: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_choices", raising=False)
    source = "import numpy as np\nfrom fastlt.stage2.classifiers.base import Fitted\n\n\ndef chosen(task):\n"
    (tmp_path / "own_choices.py").write_text(f"{source}    return Fitted({{'weight': task.weight}}, {choices})\n")
    importlib.invalidate_caches()
    listed = jobs(task, "own_choices:chosen", "joint")
    found = classify(iter(listed), tmp_path / "kept", 2, partial(typed, ClassifierResult))
    assert told in found.failed.get("own_choices:chosen", "") and len(regrets()) == bool(told)
    assert "joint" in found.rows and (tmp_path / "kept" / "own_choices.chosen.pt").exists() == (not told)
    if not told:
        assert json.dumps(found.rows["own_choices:chosen"]["choices"]) == '{"k": 3, "each": [0.5, true]}'


def test_features_of_one_number_end_no_classifier_that_takes_them(task: Task, tmp_path: Path) -> None:
    def narrow(features: Features) -> Features:
        return Features(features.x[:, :1].contiguous(), features.labels)

    assert task.choose is not None
    joint = torch.nn.Linear(1, len(COUNTS))
    one = replace(
        task, train=narrow(task.train), augmented=narrow(task.augmented), choose=narrow(task.choose), joint=joint
    )
    listed = [replace(job, test=narrow(job.test)) for job in jobs(one, "joint", "ncm_l2", "crt", "tau_norm", "lws")]
    found = classify(iter(listed), tmp_path, len(listed))
    assert regrets() == [f"classifier {name}: {told}" for name, told in found.failed.items()]
    assert set(found.rows) | set(found.failed) == {job.name for job in listed} and "joint" in found.rows


def test_a_classifier_that_cannot_be_kept_ends_it(disk: Callable[..., Path], task: Task) -> None:
    with pytest.raises(NotWritten, match=r"joint.pt cannot be written \(Read-only file system\): allow writing there"):
        classify(iter(jobs(task, "joint")), disk(4096, read_only=True), 1)


@pytest.mark.parametrize(
    "body",
    [
        "def own(task):\n    task.train.x.mul_(2)\n    return Fitted({'weight': task.weight})\n",
        "def own(task):\n    task.choose.x.numpy()[:] = task.choose.x.numpy()[::-1].copy()\n"
        "    return Fitted({'weight': task.weight})\n",
        "def own(task):\n    task.train.labels[:3] += 1\n    raise ValueError('too late')\n",
        "own = Classifier(lambda task: Fitted({'w': task.weight}), lambda found, x: x.relu_() @ found['w'].T)\n",
    ],
    ids=["fit", "numpy", "labels", "scores"],
)
def test_features_that_an_own_classifier_changes_are_told(
    body: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifiers after it would have learned from other features, without a word."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_wild", raising=False)
    (tmp_path / "own_wild.py").write_text(f"from fastlt.stage2.classifiers.base import Classifier, Fitted\n\n\n{body}")
    importlib.invalidate_caches()
    held = task.choose
    assert held is not None
    copies = [Features(one.x.clone(), one.labels.clone()) for one in (task.train, held)]
    apart = replace(task, train=copies[0], augmented=copies[0], choose=copies[1])
    with pytest.raises(FeaturesChanged, match="classifier own_wild:own changed the features or labels that it was"):
        classify(iter(jobs(apart, "joint", "own_wild:own", "crt")), tmp_path / "kept", 3)
    assert set(times(tmp_path / "kept")) == {"joint.pt"}
