"""Heads of stage 1: the frame of etf, what is trained of it, and what a recipe does with cosines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastlt.core.checkpoint import finished_state, save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.experiment.identity import head_scale_of
from fastlt.models.backbones import build_model
from fastlt.models.checkpoint.store import load_model
from fastlt.models.heads import EtfClassifier, HeadConfig, equiangular_frame
from fastlt.predict.export.head import HeadLayer, fold
from fastlt.stage2.classifiers import CLASSIFIERS
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = torch.tensor([90, 10, 5])


@pytest.mark.parametrize(("classes", "length"), [(2, 1), (5, 4), (5, 64), (100, 99)])
def test_all_vectors_of_a_frame_have_one_angle(classes: int, length: int) -> None:
    frame = equiangular_frame(classes, length)
    cosines = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1)
    torch.testing.assert_close(frame @ frame.T, cosines, atol=1e-5, rtol=0)


def test_a_frame_needs_enough_features() -> None:
    with pytest.raises(UserError, match="head=etf: 66 classes need at least 65 features, the backbone has 64"):
        build_model("resnet32", 66, 0, classifier="etf")


def test_a_frame_is_drawn_by_the_seed_not_trained_and_read_back(tmp_path: Path) -> None:
    model, again, other = (build_model("resnet32", 10, seed, 32, "etf") for seed in (0, 0, 1))
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert not model.classifier.weight.requires_grad and model.classifier.bias is None
    about = Identity({"backbone": "resnet32", "image_size": 32})
    save_checkpoint(finished_state(about, model.classifier_kind, model.state_dict()), tmp_path / "checkpoint.pt")
    read, state = load_model(tmp_path / "checkpoint.pt")
    assert state["classifier"] == read.classifier_kind == "etf"
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(images), model.eval()(images))


def test_cosines_are_scaled_before_a_loss_that_takes_logits() -> None:
    cosines, labels = torch.rand(6, 3) * 2 - 1, torch.arange(6) % 3
    for head in ("cosine", "etf"):
        found = Recipe(head=head, head_scale=20.0).make_criterion(0.0, COUNTS)(cosines, labels)
        torch.testing.assert_close(found, nn.functional.cross_entropy(20 * cosines, labels))
    own = [Recipe(head=head, loss="ldam").make_criterion(0.0, COUNTS)(cosines, labels) for head in ("auto", "etf")]
    assert own[0] == own[1] and Recipe(loss="ldam").head_kind == "cosine"


@pytest.mark.parametrize(
    ("about", "scale"),
    [
        ({"protocol.head": "etf"}, HeadConfig.head_scale), ({"protocol.head": "cosine", "protocol.head_scale": 9.0}, 9),
        ({"protocol.loss": "ldam"}, 30), ({"protocol.loss": "ldam_drw", "protocol.loss_options": {"scale": 8.0}}, 8),
        ({"imported": "theirs.pth"}, 30), ({"protocol.loss": "own:loss", "protocol.head_scale": 5.0}, 5),
    ],
)  # fmt: skip
def test_the_softmax_of_joint_is_what_was_trained(about: dict, scale: float) -> None:
    assert head_scale_of(about) == scale
    joint = EtfClassifier(16, 5)
    x = 100 * joint.weight.detach()
    rows = Features(x, torch.arange(5))
    training = Training(2, 4, 0.1, 0.0)
    task = Task(
        rows, rows, None, "none", joint, np.ones(5, int), np.zeros(5, np.int8), Stage2(training, training), 0,
        head_scale=scale,
    )  # fmt: skip
    tensors = CLASSIFIERS["joint"].fit(task).tensors
    expected = (scale * joint(x)).softmax(1)
    torch.testing.assert_close(CLASSIFIERS["joint"].scores(tensors, x).softmax(1), expected)
    torch.testing.assert_close(HeadLayer(fold("joint", tensors))(x).softmax(1), expected)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"head_lr": float("inf")}, "head_lr=inf: it must be greater than 0"),
        ({"clip_norm": float("nan")}, "clip_norm=nan: it must be 0"),
        ({"loss": "focal", "loss_options": {"gamma": "x"}}, "protocol.loss_options.gamma=x: it must be a number"),
        ({"head": "mlp"}, "head=mlp is unknown: allowed are auto, linear, cosine, etf"),
        ({"head_scale": 0.0}, "head_scale=0.0: it must be greater than 0"),
        ({"head": "linear", "loss": "ldam"}, "head=linear: protocol.loss=ldam is one on cosines"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Recipe(**wrong)
