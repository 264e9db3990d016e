"""python -m fastlt.predict --out and --features: interruptions, prediction sets, features of new images."""

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refusal
from finished_run import CLASSES, hold_out, linear, make_run, pictures, predict
from pyarrow import parquet

from fastlt.core.files import NotWritten
from fastlt.predict import parts
from fastlt.predict.__main__ import main
from fastlt.predict.parts import Parts
from fastlt.predict.predictor import Predictor
from fastlt.stage2.features.given.columns import columns_of

CPU = torch.device("cpu")
ENDINGS = (".parquet", ".h5", ".npz")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 pictures and two files that are none, in the order bad, good, bad, good, ..."""
    folder = pictures(tmp_path_factory.mktemp("pictures") / "root") / "test"
    for label in CLASSES[:2]:
        (folder / label / "a bad one.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_run(tmp_path_factory.mktemp("run") / "run", {"joint": linear(1), "crt": linear(2)})
    unfit = [*np.linspace(0, 0.5, 20), *np.linspace(0.2, 0.8, 17), 0.9, 0.9, 0.9]
    hold_out(made, "crt", unfit, [0] * 20 + [1] * 17 + [2] * 3)
    return made


def after(batches: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls `act` when the model has seen so many batches."""
    forward, seen = Predictor.forward, 0

    def counting(self: Predictor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal seen
        seen += 1
        if seen > batches:
            act()
        return forward(self, images)

    monkeypatch.setattr(Predictor, "forward", counting)


def asked(folder: Path, ending: str) -> tuple[object, ...]:
    return ("--batch", 4, "--out", folder / "p.csv", "--features", folder / f"f{ending}", "--format", "csv")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def killed() -> None:
    raise RuntimeError("as a kill would end it, but for files that are closed")


# --- interruptions ---


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interrupted_one_ends_with_the_same_bytes(
    ending: str, run: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert predict(run, new, *asked(whole, ending))[0] == 1
    assert set(contents(whole)) == {"p.csv", f"f{ending}"}
    with monkeypatch.context() as patch:
        after(2, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        code, stdout, err = predict(run, new, *asked(halves, ending))
    assert (code, stdout) == (130, "")
    assert err.splitlines()[-1] == "stopped by SIGINT: 12 of 29 images are done, the same command goes on"
    assert set(contents(halves)) == {"p.csv.part", f"f{ending}.part", "p.csv.progress"}
    with monkeypatch.context() as patch:  # killed two batches on, of which only the first is saved
        patch.setattr(parts, "SAVE_SECONDS", 0)
        after(1, lambda: patch.setattr(parts, "SAVE_SECONDS", 1e9), patch)
        after(2, killed, patch)
        with pytest.raises(RuntimeError, match="as a kill"):
            main([str(run), str(new), *map(str, asked(halves, ending)), "--device", "cpu", "--threads", "1"])
    assert json.loads((halves / "p.csv.progress").read_text())["images"] == 16
    code, _, err = predict(run, new, *asked(halves, ending))
    assert code == 1
    assert f"going on after 16 images in {halves}/p.csv.part, {halves}/f{ending}.part" in err
    assert err.splitlines()[-1].startswith("29 images in ")
    assert err.splitlines()[-1].endswith(f", 2 failed: {halves}/p.csv, {halves}/f{ending}")
    assert contents(halves) == contents(whole)


def test_a_kill_while_files_get_their_names(
    run: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, place = tmp_path / "whole", tmp_path / "place"
    predict(run, new, *asked(whole, ".h5"))
    for method in ("publish", "forget"):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(parts.Parts, method, lambda *_: killed())
            main([str(run), str(new), *map(str, asked(place, ".h5")), "--device", "cpu", "--threads", "1"])
    assert set(contents(place)) == {"p.csv", "f.h5", "p.csv.progress"}
    assert predict(run, new, *asked(place, ".h5"))[0] == 1
    assert contents(place) == contents(whole)


def test_nothing_is_left_of_what_did_not_begin(run: Path, new: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), pytest.MonkeyPatch.context() as patch:
        after(0, killed, patch)
        main([str(run), str(new), *map(str, asked(tmp_path / "new", ".npz")), "--device", "cpu", "--threads", "1"])
    assert not (tmp_path / "new").exists()


def test_another_question_does_not_go_on(run: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--batch", "4", "--out", str(tmp_path / "p.csv"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        after(1, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        assert predict(run, new, *command[:4])[0] == 143
    before = contents(tmp_path)

    def refused(*more: str, of: Path = run, images: Path = new) -> str:
        return refusal(lambda: main([str(of), str(images), *command, *more]), cwd=tmp_path)

    told = "p.csv.progress: {} is another than where it was begun{}: give the first command again, or delete"
    for more, what, values in (
        ({"images": new / CLASSES[0]}, "the list of images", ""),
        ({"of": make_run(tmp_path / "other", {"crt": linear(3)})}, "the model", ""),
    ):
        assert told.format(what, values) in refused(**more)
    assert told.format("--top", " (5, now 2)") in refused("--top", "2")
    assert told.format("--coverage", " (not given, now 0.9)") in refused("--coverage", "0.9")
    assert told.format("--batch", " (4, now 5)") in refused("--batch", "5")
    assert contents(tmp_path) == before
    (tmp_path / "p.csv.part").write_bytes(b"short")
    assert "has 5 of the " in refused()
    (tmp_path / "p.csv.progress").write_text("{")
    assert "p.csv.progress cannot be read (JSONDecodeError): delete" in refused()


# --- prediction sets ---


def test_prediction_sets_are_those_of_their_definition(run: Path, new: Path) -> None:
    code, out, err = predict(run, new, "--coverage", 0.9, "--format", "jsonl")
    assert code == 1
    # Of 20 images the 19th value, of 17 the last. 3 images are too few, even together, so it is the 37th of all 40.
    limits = np.array([0.5 * 18 / 19, 0.8, 0.8])
    line = "note: --coverage: 1 of 3 classes have too few images in the held-out split for a coverage of 0.9 each"
    assert f"{line}; for them it holds on average" in err
    predictor = Predictor(run, "crt", CPU)
    told = [row for row in map(json.loads, out.splitlines()) if row["error"] is None]
    images = torch.stack([predictor.inputs.input(row["path"], 0) for row in told])
    unfit = 1 - predictor.probabilities(predictor.forward(images)[1]).numpy()
    expected = unfit <= limits
    expected[np.arange(len(unfit)), unfit.argmin(1)] = True
    assert [row["set"] for row in told] == [[CLASSES[i] for i in np.flatnonzero(one)] for one in expected]
    assert len({len(row["set"]) for row in told}) > 1
    with pytest.warns(UserWarning, match="1 of 3 classes have too few images in the held-out split"):
        sets = predictor.predict_set([row["path"] for row in told], 0.9, batch=5)
    np.testing.assert_array_equal(sets.members, expected)
    assert sets.conditional.tolist() == [True, True, False]
    assert sets.labels(0).tolist() == told[0]["set"]


# --- features ---


@pytest.mark.parametrize("ending", ENDINGS)
def test_features_are_the_backbones(ending: str, run: Path, new: Path, tmp_path: Path) -> None:
    code, stdout, err = predict(run, new, "--features", tmp_path / f"f{ending}", "--batch", 4)
    assert (code, stdout) == (1, "")
    bad = [line for line in err.splitlines() if line.endswith("a bad one.jpg: no image format known to Pillow")]
    assert len(bad) == 2
    paths = [path for path in sorted(map(str, new.rglob("*.*"))) if "a bad one" not in path]
    columns = columns_of(tmp_path / f"f{ending}")
    expected = Predictor(run, "crt", CPU).features(paths, batch=4)
    assert expected.shape == (27, 64) and expected.std(0).max() > 0.01
    x = np.concatenate(list(columns["x"].pieces()))
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
    if ending == ".parquet":
        names = parquet.read_table(tmp_path / "f.parquet")["path"].to_pylist()
    else:
        names = [one.decode() if isinstance(one, bytes) else one for piece in columns["path"].pieces() for one in piece]
    assert names == paths


def test_a_full_disk_is_told_of_the_file_and_leaves_nothing_of_work_that_was_not_saved(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        told = r"--out=.*a\.csv cannot be written \(File too large\): "
        with pytest.raises(NotWritten, match=told), Parts({"--out": tmp_path / "a.csv"}, {}) as parts:
            parts.write("--out", bytes(50))
            parts.write("--out", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
