"""Fitting what is not fitted yet: reuse, its limits, trainings that diverge."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classifiers import COUNTS, drawn, made

from fastlt.core.errors import UserError
from fastlt.stage2 import classify as module
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classify import Job, classify, file_of

TRAINING = Training(2, 64, (0.2,), (5e-4,))
NAMES = ("joint", "ncm_l2", "crt", "tau_norm", "lws")


@pytest.fixture(scope="module")
def task() -> Task:
    return made(COUNTS, Stage2(TRAINING, TRAINING))


def jobs(task: Task, *names: str, **about: str) -> list[Job]:
    test = drawn(np.full(len(COUNTS), 30), 3)
    return [Job(name, task, test, COUNTS, {"representation": "r", **about}, "checkpoint.pt") for name in names]


def fit_all(listed: list[Job], folder: Path) -> dict[str, dict]:
    return classify(iter(listed), folder, len(listed))


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
        (lambda t: replace(t, stage2=replace(t.stage2, lws=Training(1, 64, (0.2,), (0.0,)))), {"lws"}),
        (lambda t: replace(t, stage2=replace(t.stage2, seeds=2)), {"crt", "lws"}),
        (lambda t: replace(t, choose_on="test"), set(NAMES)),
        (lambda t: replace(t, views=Features(t.train.x.repeat(2, 1), t.train.labels.repeat(2))), {"crt", "lws"}),
    ],
    ids=["lws", "seeds", "choose_on", "views"],
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


def test_other_code_fits_again(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_all(jobs(task, "joint"), tmp_path)
    before = times(tmp_path)
    monkeypatch.setattr(module, "_code", lambda: "newer")
    fit_all(jobs(task, "joint"), tmp_path)
    assert times(tmp_path) != before
    assert len(list(Path(module.__file__).parent.glob("classifiers/*.py"))) > 10  # what the digest is of


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


def test_no_temperature_comes_from_the_images_that_were_fitted(task: Task, tmp_path: Path) -> None:
    row = fit_all(jobs(task, "crt"), tmp_path)["crt"]
    state = torch.load(file_of(tmp_path, "crt"), weights_only=True)
    assert row["calibrated"]["temperature"] == state["temperature"] != 1
    on_train = replace(task, choose=task.train, choose_on="train")
    assert "calibrated" not in fit_all(jobs(on_train, "crt"), tmp_path)["crt"]
    assert torch.load(file_of(tmp_path, "crt"), weights_only=True)["temperature"] == 1


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
        with pytest.raises(UserError, match=r"the best tau on val is -?[\d.e+]+, and weights"):
            fit_all(jobs(unlearned, "tau_norm"), tmp_path)


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
    with pytest.raises(UserError, match=r"stage2.options.scaled.to=1 is unknown to classifier=own_scaled:scaled"):
        fit_all(jobs(replace(task, stage2=replace(task.stage2, options={"scaled": {"to": 1}})), name), tmp_path)


def test_a_training_that_diverges_is_told_and_the_others_are_kept(task: Task, tmp_path: Path) -> None:
    wild = replace(task, stage2=Stage2(Training(4, 64, (1e38,), (0.0,)), TRAINING))
    with pytest.raises(UserError, match="crt: its training diverged: lower its learning rate"):
        fit_all(jobs(wild, "joint", "crt", "lws"), tmp_path)
    assert set(times(tmp_path)) == {"joint.pt", "lws.pt"}
