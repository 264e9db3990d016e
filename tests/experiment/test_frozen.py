"""Backbones as they come (epochs=0), their classifiers, and fine-tuning them."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import refused, train
from finished_run import predict, rows
from pictures import Pictures, conversion

import fastlt
from fastlt.data.convert import convert
from fastlt.models.checkpoint.store import load_model

NET = """
import torch
from torch import nn

class Net(nn.Module):
    "Colours of four quarters, much too large."
    def __init__(self, size):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.last = nn.Linear(6 * size * size, 20, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(size)
    def forward(self, x):
        return 1000 * self.last(self.pool(self.first(x).relu()).flatten(1)).tanh()

def net(size=2):
    return Net(size)

net.default_cfg = {"input_size": (3, 24, 24), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3),
                   "interpolation": "bicubic", "crop_pct": 0.75}
"""
COUNTS = (120, 60, 25, 8)


@dataclass(frozen=True)
class Coloured(Pictures):
    """Pictures whose class is in their colours, mostly."""

    def array(self, split: str, index: int) -> np.ndarray:
        tint = np.random.default_rng(int(self.splits[split].labels[index])).uniform(-70, 70, 3)
        return np.clip(super().array(split, index) * 0.6 + 50 + tint, 0, 255).astype(np.uint8)


FROZEN = (
    "data=data",
    "backbone=net:net",
    "epochs=0",
    "classifiers=[joint,ncm_l2,crt,tau_norm,logit_adjust]",
    "threads=1",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted dataset `data` and a module with a backbone in it."""
    folder = tmp_path_factory.mktemp("frozen")
    convert(Coloured(COUNTS), conversion(), folder / "data", workers=1)
    (folder / "net.py").write_text(NET)
    return folder


@pytest.fixture(scope="module")
def first(place: Path) -> dict[str, Any]:
    done = train(*FROZEN, "run=first", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "nothing is trained and protocol.pretrained is not given" in done.stderr
    return json.loads((place / "first" / "results.json").read_text())


def test_images_are_seen_as_the_backbone_wants_it(first: dict[str, Any]) -> None:
    seen = first["evaluation"]
    assert first["image_size"] == 24 and first["protocol"] == "frozen" and first["epochs"] == 0
    assert (seen["mean"], seen["std"], seen["interpolation"]) == ([0.4, 0.5, 0.6], [0.2, 0.2, 0.3], "bicubic")
    assert seen["crop_pct"] == 0.75


def test_classifiers_are_those_of_features_of_a_usual_size(place: Path, first: dict[str, Any]) -> None:
    """Features of a thousand: a power of two near their root mean square is what they are divided by."""
    state = torch.load(place / "first" / "checkpoint.pt", weights_only=True)
    x, _ = fastlt.open_run(place / "first").features("train")
    rms = float(torch.from_numpy(x).double().square().mean().sqrt())
    assert rms > 100 and state["feature_scale"] == first["feature_scale"]
    assert first["feature_scale"] in (2.0**7, 2.0**8, 2.0**9, 2.0**10) and 0.7 < first["feature_scale"] / rms < 1.42
    assert first["classifiers"]["joint"]["all"] > 60  # chance is 25


def test_the_checkpoint_gives_the_joint_scores_from_images(place: Path, first: dict[str, Any]) -> None:
    _importable(place)
    model, state = load_model(place / "first", "net:net")
    assert state["finished"] and state["epoch"] == 0
    x, labels = fastlt.open_run(place / "first").features("test")
    with torch.no_grad():
        right = model.classifier(torch.from_numpy(x)).argmax(1) == torch.from_numpy(labels)
    assert 100 * right.float().mean().item() == pytest.approx(first["classifiers"]["joint"]["all"], abs=1e-4)


def _importable(place: Path) -> None:
    if str(place) not in sys.path:
        sys.path.append(str(place))


def test_predictions_are_those_of_the_evaluation(place: Path, first: dict[str, Any], tmp_path: Path) -> None:
    """Through files, decoding, bicubic resize, backbone, scale and classifier: the accuracy on test of results.json."""
    source = Coloured(COUNTS)
    labels = source.splits["test"].labels.tolist()
    for i in range(len(labels)):
        data = source.load("test", i)
        assert isinstance(data, bytes)
        (tmp_path / f"{i:04}.jpg").write_bytes(data)
    _importable(place)
    for name in ("crt", "joint", "ncm_l2"):
        code, out, err = predict(place / "first", tmp_path, "--classifier", name, "--top", 1, "--format", "csv")
        assert code == 0, err
        names = first["class_names"]
        found = [names.index(row["class_1"]) for row in rows(out)]
        right = sum(a == b for a, b in zip(found, labels, strict=True))
        assert 100 * right / len(found) == pytest.approx(first["classifiers"][name]["all"])


def test_features_are_kept_and_the_joint_classifier_is_part_of_the_key(place: Path, first: dict[str, Any]) -> None:
    again = train(*FROZEN, "run=first", cwd=place)
    assert again.returncode == 0 and "reusing the representation" in again.stderr
    assert refused(train(*FROZEN, "run=first", "stage2.lr=[0.1]", cwd=place)).startswith(
        "first/checkpoint.pt holds a representation with rate=0.2, asked for is rate=0.1"
    )
    anew = train(*FROZEN, "run=first", "stage2.lr=[0.1]", "overwrite=true", cwd=place)
    assert anew.returncode == 0, anew.stderr
    assert "\nfeatures:" not in anew.stderr  # extracted once
    changed = json.loads((place / "first" / "results.json").read_text())
    assert changed["key"] != first["key"] and changed["features_key"] == first["features_key"]
    assert train(*FROZEN, "run=first", "overwrite=true", cwd=place).returncode == 0


def test_given_keys_go_before_the_backbones(place: Path) -> None:
    done = train(
        *FROZEN[:3], "run=own", "image_size=16", "protocol.interpolation=bilinear", "protocol.crop_pct=1",
        "classifiers=[joint]", "threads=1", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((place / "own" / "config.yaml").read_text())
    assert config["image_size"] == 16 and config["protocol"]["interpolation"] == "bilinear"
    assert config["protocol"]["mean"] == [0.4, 0.5, 0.6]
    again = train("backbone=net:net", "run=own", "classifiers=[ncm_l2]", "data=data", cwd=place)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["classifiers=[crt_images]"], "these train on images, and with epochs=0 there are only features"),
        (["protocol.loss=focal"], "protocol.loss=focal: with epochs=0 it is cross_entropy"),
        *(
            ([f"protocol.{key}"], f"protocol.{key}: with epochs=0 the backbone is not trained")
            for key in (
                "train_from=last",
                "sam.rho=0.05",
                "swa.after=0.5",
                "drw.weights=effective_number",
                "ema=0.9",
                "views_per_image=2",
                "label_smoothing=0.1",
                "batch_hook=mixup",
                "clip_norm=1.0",
                "layer_decay=0.5",
                "head_lr=0.1",
            )
        ),
    ],
)
def test_what_a_frozen_backbone_cannot_have(place: Path, given: list[str], told: str) -> None:
    assert told in refused(train(*FROZEN[:3], "run=none", *given, cwd=place))
    assert not (place / "none" / "features.h5").exists()


def test_fine_tuning_of_the_last_layers(place: Path, first: dict[str, Any]) -> None:
    done = train(
        "data=data", "backbone=net:net", "protocol=finetune", "protocol.pretrained=null", "protocol.train_from=last",
        "protocol.batch=16", "epochs=2", "run=tuned", "classifiers=[joint,crt]", "threads=1", cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state = torch.load(place / "tuned" / "checkpoint.pt", weights_only=True)
    before = torch.load(place / "first" / "checkpoint.pt", weights_only=True)["model"]
    assert first["epochs"] == 0
    assert torch.equal(state["model"]["backbone.first.weight"], before["backbone.first.weight"])
    assert not torch.equal(state["model"]["backbone.last.weight"], before["backbone.last.weight"])
    assert state["settings"]["protocol.optimizer"] == "adamw" and state["settings"]["protocol.layer_decay"] == 0.75
