"""python -m fastlt.train on a GPU beside the same training on a CPU."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from run_inside import SMALL, checkpoint, losses, results, train_inside

from fastlt.stage2.classifiers import CLASSIFIERS

pytestmark = pytest.mark.gpu

ARTEFACTS = {
    "config.yaml", "checkpoint.pt", "metrics.jsonl", "features.h5", "results.json", "report.md", "figures",
    "classifiers", "per_class.csv",
}  # fmt: skip
# Small enough to be compiled in seconds.
TINY = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )
"""


def test_a_run_is_complete(first: Path, device: torch.device) -> None:
    assert {path.name for path in first.iterdir()} == ARTEFACTS
    found = results(first)
    assert list(found["classifiers"]) == list(CLASSIFIERS)
    for name, row in found["classifiers"].items():
        assert {"many", "medium", "few", "all", "mean_class", "top5", "ece", "choices", "calibrated"} <= row.keys(), (
            name
        )
        assert (first / "classifiers" / f"{name}.pt").exists()
    assert found["images_per_second"] > 0
    settings = checkpoint(first)["settings"]
    if device.type == "cuda":
        assert found["device"] == torch.cuda.get_device_name(device)
        assert settings["precision"] == "bf16"
    else:
        assert found["device"].startswith("cpu, ") and settings["precision"] == "fp32"


def test_it_learns_what_a_cpu_learns(first: Path, first_cpu: Path) -> None:
    found, expected = results(first)["classifiers"], results(first_cpu)["classifiers"]
    for name in CLASSIFIERS:
        assert expected[name]["all"] > 80, name
        assert found[name]["all"] > expected[name]["all"] - 15, name
    # The same weights at the start and the same images: the first epoch goes the same way, but for bf16.
    assert losses(first)[0] == pytest.approx(losses(first_cpu)[0], rel=0.1)
    assert losses(first)[-1] < 0.2 * losses(first)[0]


RECIPES = {
    "plain": (),
    "accumulate": ("accumulate=2",),
    "more": ("protocol.batch_hook=mixup", "protocol.ema=0.9", "protocol.label_smoothing=0.1"),
    "loss": ("protocol.loss=ldam_drw",),
    "frozen": ("protocol.train_from=layers.10",),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_in_fp32(name: str, device: torch.device, place: Path) -> None:
    options = (*SMALL, "epochs=1", "precision=fp32", "classifiers=[joint]", *RECIPES[name])
    for run, on in (("here", "cpu"), ("there", str(device))):
        done = train_inside(*options, f"run={name}_{run}", f"device={on}", cwd=place)
        assert done.code == 0, done.stderr
    here, there = place / f"{name}_here", place / f"{name}_there"
    assert losses(there)[0] == pytest.approx(losses(here)[0], rel=0.03)
    assert checkpoint(there)["settings"] == checkpoint(here)["settings"]
    for key, value in checkpoint(there)["model"].items():
        if name == "frozen" and key.startswith("backbone.conv1"):
            assert torch.equal(value, checkpoint(here)["model"][key])
        assert value.isfinite().all()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize(("mode", "more"), [("default", ()), ("reduce-overhead", ("protocol.ema=0.9",))])
def test_compiled(
    mode: str, more: tuple[str, ...], device: torch.device, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reduce-overhead captures CUDA graphs while the loader's threads work."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("torch.compile needs a C compiler")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        pytest.skip("torch.compile needs triton")
    (place / "tiny.py").write_text(TINY)
    monkeypatch.syspath_prepend(str(place))
    torch._dynamo.reset()
    found = []
    for compiled in ("off", mode):
        run = place / f"{mode}_{compiled}"
        done = train_inside(
            *SMALL, "backbone.name=tiny:build", "epochs=2", f"compile={compiled}", *more, f"device={device}",
            "classifiers=[joint]", f"run={run.name}", cwd=place,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        found.append(losses(run))
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[0][1] < found[0][0]


def test_retrainings_on_images(first: Path, device: torch.device, place: Path) -> None:
    options = (
        "representation=first", "classifiers=[joint,crt,lws,retrain_last]", "mode=images", "run=images",
        "protocol.crt.epochs=1", "protocol.lws.epochs=1", "protocol.crt.lr=0.01", "protocol.lws.lr=0.01",
    )  # fmt: skip
    done = train_inside(*SMALL, *options, f"device={device}", cwd=place)
    assert done.code == 0, done.stderr
    found = results(place / "images")["classifiers"]
    assert list(found) == ["joint", "crt_images", "lws_images", "retrain_last"]
    for name, row in found.items():
        assert row["all"] > 80, name
    before = checkpoint(first)["model"]
    for name, stays in (("crt_images", True), ("lws_images", True), ("retrain_last", False)):
        behind = checkpoint(place / "images" / name)["model"]
        last = "backbone.layers.14.conv2.weight"
        assert torch.equal(behind[last], before[last]) == stays, name
        assert torch.equal(behind["backbone.conv1.weight"], before["backbone.conv1.weight"]), name
        assert not torch.equal(behind["classifier.weight"], before["classifier.weight"]), name


@pytest.mark.usefixtures("first")
def test_every_classifier_from_augmented_passes_in_float16_with_seeds_and_settings(
    device: torch.device, place: Path
) -> None:
    more = ("augmented_passes=1", "feature_dtype=float16", "stage2.seeds=2", "stage2.lr=[0.02,0.1]", "stage2.hidden=16")
    options = ("representation=first", "classifiers=[all]", "run=augmented_passes", f"device={device}")
    done = train_inside(*SMALL, *options, *more, cwd=place)
    assert done.code == 0, done.stderr
    found = results(place / "augmented_passes")
    assert list(found["classifiers"]) == list(CLASSIFIERS)
    assert (found["augmented_passes"], found["feature_dtype"], found["classifiers"]["crt"]["seeds"]) == (
        1,
        "float16",
        2,
    )
    assert found["classifiers"]["crt"]["choices"]["lr"] in (0.02, 0.1)
    assert np.median([row["all"] for row in found["classifiers"].values()]) > 90


def test_a_second_gpu(gpu: torch.device, place: Path) -> None:
    """The one that is not the current device of a process."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    done = train_inside(*SMALL, "epochs=1", "classifiers=[all]", "run=second_gpu", "device=cuda:1", cwd=place)
    assert done.code == 0, done.stderr
    one = train_inside(*SMALL, "epochs=1", "classifiers=[all]", "run=first_gpu", f"device={gpu}", cwd=place)
    assert one.code == 0, one.stderr
    for name, row in results(place / "second_gpu")["classifiers"].items():
        assert row["all"] == pytest.approx(results(place / "first_gpu")["classifiers"][name]["all"], abs=20), name
