"""A training on a GPU that is stopped or killed goes on where it stood, and its checkpoints know no device."""

import json
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from commands import run
from run_inside import ASKED_TO_STOP, SMALL, Ended, checkpoint, losses, results, train_inside

from fastlt.training.trainer import Trainer

pytestmark = pytest.mark.gpu

JOINT = (*SMALL, "classifiers=[joint]")
MAIN = "\nfrom fastlt.train import main\nmain()\n"


def stopped_inside(*overrides: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Ended:
    """A training that gets SIGTERM after step 5 of its second epoch."""
    step_before = Trainer._step

    def step(fit: Trainer, parts: list) -> None:
        step_before(fit, parts)
        if fit.epoch == 1 and fit.step == 5:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", step)
        return train_inside(*overrides, cwd=cwd)


def test_sigterm_saves_and_the_same_command_goes_on(first: Path, device: torch.device, place: Path) -> None:
    (place / "asked.py").write_text(ASKED_TO_STOP + MAIN)
    options = (*JOINT, "run=asked", f"device={device}")
    done = run("asked.py", *options, cwd=place)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "stopped by SIGTERM: asked/checkpoint.pt holds the training after step 5 of epoch 2, the same command goes on "
        "there"
    )
    state = checkpoint(place / "asked")
    assert (state["epoch"], state["step"], state["finished"]) == (1, 5, False)
    again = train_inside(*options, cwd=place)
    assert again.code == 0, again.stderr
    assert "resuming asked/checkpoint.pt after step 5 of epoch 2" in again.stderr
    lines = (place / "asked" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    # cuDNN may add up in another order from run to run: close to the undisturbed run, no more.
    assert losses(place / "asked") == pytest.approx(losses(first), rel=0.1, abs=0.1)
    assert results(place / "asked")["classifiers"]["joint"]["all"] == pytest.approx(
        results(first)["classifiers"]["joint"]["all"], abs=15
    )


def test_with_deterministic_algorithms_it_goes_on_to_the_same_bits(
    device: torch.device, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of raw images: a JPEG decoder on the GPU promises nothing of the kind."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    more = ("protocol.batch_hook=mixup", "protocol.ema=0.9", "protocol.label_smoothing=0.1", f"device={device}")
    torch.use_deterministic_algorithms(True)
    try:
        whole = train_inside(*JOINT, *more, "run=exact", cwd=place)
        assert whole.code == 0, whole.stderr
        cut = stopped_inside(*JOINT, *more, "run=exact_cut", cwd=place, monkeypatch=monkeypatch)
        assert cut.code == 128 + signal.SIGTERM, cut.stderr
        again = train_inside(*JOINT, *more, "run=exact_cut", cwd=place)
        assert again.code == 0, again.stderr
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses(place / "exact_cut") == losses(place / "exact")
    expected, found = (checkpoint(place / name)["model"] for name in ("exact", "exact_cut"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("begins", ["cpu", "device"])
def test_a_training_goes_on_on_another_device(
    begins: str, device: torch.device, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ("cpu", str(device)) if begins == "cpu" else (str(device), "cpu")
    options = (*JOINT, "precision=fp32", "protocol.ema=0.9", f"run=moved_{begins}")
    cut = stopped_inside(*options, f"device={order[0]}", cwd=place, monkeypatch=monkeypatch)
    assert cut.code == 128 + signal.SIGTERM, cut.stderr
    again = train_inside(*options, f"device={order[1]}", cwd=place)
    assert again.code == 0, again.stderr
    assert f"resuming moved_{begins}/checkpoint.pt after step 5 of epoch 2" in again.stderr
    first, *_, last = losses(place / f"moved_{begins}")
    assert last < 0.2 * first
    assert results(place / f"moved_{begins}")["classifiers"]["joint"]["all"] > 80


def test_another_device_classifies_on_the_same_representation(
    first: Path, first_cpu: Path, device: torch.device, place: Path
) -> None:
    for representation, on in ((first, "cpu"), (first_cpu, str(device))):
        name = f"{representation.name}_on_{torch.device(on).type}"
        options = (*SMALL, f"representation={representation.name}", "classifiers=[joint,ncm_l2,crt]", f"run={name}")
        done = train_inside(*options, f"device={on}", cwd=place)
        assert done.code == 0, done.stderr
        found, expected = results(place / name)["classifiers"], results(representation)["classifiers"]
        for classifier, row in found.items():
            assert row["all"] == pytest.approx(expected[classifier]["all"], abs=5), (name, classifier)


KILLED = """
import os
import fastlt.stage2.features.part as p
p.SAVE_EVERY = 0.0
append_before, left = p.Part.append, [3]
def append(*arguments):
    append_before(*arguments)
    left[0] -= 1
    if not left[0]:
        os._exit(9)
p.Part.append = append
"""


def test_features_go_on_behind_a_kill(first: Path, device: torch.device, place: Path) -> None:
    """Batches are on their way from the GPU when the process ends."""
    (place / "killed.py").write_text(KILLED + MAIN)
    options = (*JOINT, "representation=first", "run=killed", f"device={device}")
    done = run("killed.py", *options, cwd=place)
    assert done.returncode == 9, done.stderr
    again = train_inside(*options, cwd=place)
    assert again.code == 0, again.stderr
    assert "features: going on after the 48 images in killed/features.h5.part" in again.stderr
    expected, found = (rows(folder / "features.h5") for folder in (first, place / "killed"))
    for name, values in expected.items():
        if name.endswith("features"):
            # The batches are others after the kill, and with them, in bf16, the last bits.
            np.testing.assert_allclose(found[name], values, rtol=0.05, atol=0.05 * values.max())
        else:
            np.testing.assert_array_equal(found[name], values)


def rows(path: Path) -> dict[str, np.ndarray]:
    """Every array of a feature file."""
    with h5py.File(path) as file:
        names = [f"{split}/{name}" for split in ("train", "val", "test") for name in ("features", "labels", "ids")]
        return {name: file[name][:] for name in names}  # type: ignore[index]
