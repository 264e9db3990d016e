"""Backbones: sizes, shapes, and equality with torchvision where it has the same network."""

import pytest
import torch
import torchvision

from fastlt.backbones import BACKBONES, Model, build_model, parameters
from fastlt.errors import UserError


def test_resnet32_has_the_size_of_the_paper() -> None:
    assert parameters(Model("resnet32", 10)) == 464_154  # He et al. 2016, table 6: 0.46 M


@pytest.mark.parametrize("name", list(BACKBONES))
def test_features_have_the_promised_length(name: str) -> None:
    model = build_model(name, 7, seed=0).eval()
    size = 32 if name == "resnet32" else 64
    with torch.no_grad():
        assert model.backbone(torch.randn(2, 3, size, size)).shape == (2, BACKBONES[name][1])
        assert model(torch.randn(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "theirs"), [("resnet18", "resnet18"), ("resnet50", "resnet50"), ("resnext50", "resnext50_32x4d")]
)
def test_same_network_as_torchvision(name: str, theirs: str) -> None:
    ours = build_model(name, 1000, seed=0).eval()
    other = getattr(torchvision.models, theirs)(weights=None).eval()
    assert parameters(ours) == parameters(other)
    state = ours.backbone.state_dict() | {f"fc.{key}": value for key, value in ours.classifier.state_dict().items()}
    other.load_state_dict(state)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), other(images))


def test_weights_are_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_model("resnet32", 10, seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(UserError, match="backbone=foo is unknown: allowed are resnet32, resnet10"):
        Model("foo", 10)
