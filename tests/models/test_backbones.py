"""Backbones: sizes, shapes, equality with torchvision where it has the same network; own ones; frozen parts."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import resnet

from fastlt.core.errors import UserError
from fastlt.models.backbones import (
    BACKBONES,
    CifarResNet,
    Model,
    build_backbone,
    build_model,
    freeze_before,
    last_block,
    parameters,
)
from fastlt.models.heads import CosineClassifier

OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5))
        self.body = nn.LazyLinear(7)

    def forward(self, x):
        return self.body(self.stem(x).flatten(1))


def small():
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


sized = Net
maps = lambda: nn.Conv2d(3, 5, 3)
pair = lambda: Pair()
whole = lambda: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1)))
number = 3
text = lambda: "network"
wanting = lambda channels: nn.Conv2d(channels, 5, 3)
deep = lambda: nn.Sequential(nn.Conv2d(3, 4, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Pair(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), None
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module with backbones, right and wrong ones."""
    name = f"own_{abs(hash(str(tmp_path)))}"  # a name that no test has imported yet
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / f"{name}_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_resnet32_has_the_size_of_the_paper() -> None:
    assert parameters(Model("resnet32", 10)) == 464_154  # He et al. 2016, table 6: 0.46 M


def test_the_network_of_weight_balancing() -> None:
    """torchvision's ResNet-34 without classifier, but for the stem: 3 x 3 weights in the place of 7 x 7 ones."""
    resnet34 = resnet.resnet34()
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    assert parameters(build_backbone("resnet32_w64")[0]) == parameters(resnet34) - parameters(resnet34.fc) - stem
    stages = [module for module in build_backbone("resnet32_w64")[0].modules() if isinstance(module, nn.Conv2d)]
    assert [one.stride for one in stages[:2]] == [(1, 1), (1, 1)]


def test_two_features_fill_the_plane_around_the_origin() -> None:
    torch.manual_seed(0)
    model = Model("resnet32_2d", 6)
    assert parameters(model) == parameters(Model("resnet32", 6)) + 2 * 64 - 62 * 6
    features = model.train().backbone(torch.randn(256, 3, 16, 16)).detach()
    torch.testing.assert_close(features.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(0, unbiased=False), torch.ones(2), atol=1e-2, rtol=0)
    assert all(((features * sign) > 0).all(1).any() for sign in torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]]))
    assert last_block(model) == "layers.10"
    freeze_before(model, "project")
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learns == {"backbone.project.0.weight", "classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("name", list(BACKBONES))
def test_features_have_the_promised_length(name: str) -> None:
    with torch.device("meta"):  # shapes only
        model = Model(name, 7).eval()
        images = torch.empty(2, 3, 64, 64)
    assert model.backbone(images).shape == (2, BACKBONES[name][1])
    assert model(images).shape == (2, 7)


def torchvision_resnext(layers: list[int]) -> nn.Module:
    return resnet.ResNet(resnet.Bottleneck, layers, groups=32, width_per_group=4)


THEIRS: dict[str, Any] = {
    "resnet10": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]),
    "resnet18": torchvision.models.resnet18,
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
    "resnet152": torchvision.models.resnet152,
    "resnext50": torchvision.models.resnext50_32x4d,
    "resnext101": lambda: torchvision_resnext([3, 4, 23, 3]),
    "resnext152": lambda: torchvision_resnext([3, 8, 36, 3]),
}


@pytest.mark.parametrize("name", list(THEIRS))
def test_same_network_as_torchvision(name: str) -> None:
    other = THEIRS[name]().eval()
    with torch.device("meta"):  # no weights of its own: it takes theirs
        ours = Model(name, 1000).eval()
    assert parameters(ours) == parameters(other)
    state = {
        f"backbone.{key}".replace("backbone.fc.", "classifier."): value for key, value in other.state_dict().items()
    }
    ours.load_state_dict(state, assign=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), other(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("resnet101", "resnet101"),
        ("resnet152", "resnet152"),
        ("resnext50", "resnext50_32x4d"),
    ],
)
def test_as_many_parameters_as_torchvision_publishes(name: str, published: str) -> None:
    with torch.device("meta"):
        model = Model(name, 1000)
    assert parameters(model) == torchvision.models.get_model_weights(published)["IMAGENET1K_V1"].meta["num_params"]


def residual_network(basic: bool, layers: list[int], width: int = 64) -> int:
    """Parameters of a residual network without classifier, counted by hand. width: of the first 3x3 convolution;
    64 for a ResNet, 128 in 32 groups for a ResNeXt."""
    groups = 1 if width == 64 else 32
    total, before = 3 * 64 * 49 + 2 * 64, 64
    for stage, blocks in enumerate(layers):
        inner, out = width << stage, (64 if basic else 256) << stage
        for block in range(blocks):
            if basic:
                total += 9 * before * out + 2 * out + 9 * out * out + 2 * out
            else:
                total += before * inner + 2 * inner + 9 * inner * inner // groups + 2 * inner + inner * out + 2 * out
            if block == 0 and before != out:
                total += before * out + 2 * out
            before = out
    return total


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet10", residual_network(True, [1, 1, 1, 1])),
        ("resnet152", residual_network(False, [3, 8, 36, 3])),
        ("resnext101", residual_network(False, [3, 4, 23, 3], 128)),
        ("resnext152", residual_network(False, [3, 8, 36, 3], 128)),
    ],
)
def test_parameters_counted_by_hand(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(BACKBONES[name][0]()) == expected


def test_weights_are_seeded_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_model("resnet32", 10, seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_head_may_start_as_in_ldam_drw() -> None:
    usual, theirs = (build_model("resnet32", 100, 0, head_start=start) for start in ("uniform", "kaiming_normal"))
    assert torch.equal(usual.backbone.conv1.weight, theirs.backbone.conv1.weight)  # type: ignore[union-attr]
    assert usual.classifier.weight.abs().max() <= 1 / 8
    assert theirs.classifier.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.03)  # 0.177


@pytest.mark.parametrize("name", ["resnet32", "resnet18"])
def test_weights_of_a_seed_are_those_of_the_first_release(name: str) -> None:
    """Backbone, then classifier, straight from torch's generator: another draw in between changes every result."""
    torch.manual_seed(4)
    backbone = CifarResNet(5) if name == "resnet32" else torchvision.models.resnet18()
    classifier = nn.Linear(BACKBONES[name][1], 6)
    model = build_model(name, 6, seed=4)
    theirs = backbone.state_dict()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    assert isinstance(model.classifier, nn.Linear)
    assert torch.equal(model.classifier.weight, classifier.weight)
    assert torch.equal(model.classifier.bias, classifier.bias)


@pytest.mark.parametrize(("length", "classes"), [(7, 5), (1, 2)])
def test_cosine_classifier_gives_cosines(length: int, classes: int) -> None:
    torch.manual_seed(0)
    classifier = CosineClassifier(length, classes)
    assert (classifier.in_features, classifier.out_features, classifier.bias) == (length, classes, None)
    assert list(classifier.state_dict()) == ["weight"]
    torch.testing.assert_close(classifier.weight.detach().norm(dim=1), torch.ones(classes))
    x = 40 * torch.randn(3, 4, length)
    classifier.weight.data *= torch.arange(1, classes + 1)[:, None]
    cosines = classifier(x)
    assert cosines.shape == (3, 4, classes)
    torch.testing.assert_close(
        cosines, nn.functional.cosine_similarity(x[..., None, :], classifier.weight, dim=-1), rtol=1e-5, atol=1e-6
    )


def test_cosine_classifier_of_features_without_direction() -> None:
    """A feature after a ReLU may be 0 throughout: no class is nearer, and no gradient flows."""
    classifier = CosineClassifier(4, 3)
    x = torch.zeros(2, 4)
    x[1] = 1e-20
    cosines = classifier(x.requires_grad_())
    assert torch.equal(cosines, torch.zeros(2, 3))
    cosines.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.zeros(2, 4))
    assert classifier.weight.grad is not None and torch.equal(classifier.weight.grad, torch.zeros(3, 4))


def test_cosines_are_float32_under_autocast() -> None:
    classifier, x = CosineClassifier(64, 10), torch.randn(5, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        cosines = classifier(x)
    assert cosines.dtype == torch.float32
    assert torch.equal(cosines, classifier(x.float()))


def test_a_cosine_model_has_the_backbone_of_the_linear_one() -> None:
    linear, cosine = (build_model("resnet32", 6, 4, classifier=kind) for kind in ("linear", "cosine"))
    assert all(
        torch.equal(a, b) for a, b in zip(linear.backbone.parameters(), cosine.backbone.parameters(), strict=True)
    )
    assert isinstance(cosine.classifier, CosineClassifier) and cosine.classifier_kind == "cosine"
    assert cosine(torch.randn(2, 3, 32, 32)).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["foo", "resnet50:", ":x", "a b:c", "a:b.c"])
def test_unknown_backbone_is_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=r"is unknown: allowed are resnet32, resnet10.*, or package.module:NAME of your own"
    ):
        Model(name, 10)


def test_own_backbone_is_built_from_the_seed(own: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_model(f"{own}:small", 4, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert first.classifier.weight.shape == (4, 5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.backbone[0].weight, other.backbone[0].weight)  # type: ignore[index]
    assert first.training
    assert first.backbone.training
    assert int(first.backbone[1].num_batches_tracked) == 0  # type: ignore[index]
    assert first.eval()(torch.randn(3, 3, 20, 20)).shape == (3, 4)


def test_own_backbone_is_tried_on_images_of_the_given_size(own: str) -> None:
    model = build_model(f"{own}:sized", 4, 0, image_size=12)
    assert model.backbone.body.in_features == 5 * 10 * 10  # type: ignore[union-attr]
    assert model.classifier.in_features == 7


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("maps", r"maps gives float32 \[2, 5, 30, 30\] for images \[2, 3, 32, 32\]: it must give float features"),
        ("pair", r"pair gives a tuple for images"),
        ("whole", r"whole gives float32 \[1, 6144\] for images"),
        ("number", r"number: it cannot be called: name a function"),
        ("nothing", r"has no nothing$"),
        ("text", r"text gives a str: it must give a torch module"),
        ("wanting", r"wanting needs backbone\.options\.\w+=VALUE"),
    ],
)
def test_own_backbones_that_are_none_are_refused(own: str, factory: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        build_model(f"{own}:{factory}", 4, 0, image_size=32)
    assert str(error.value).startswith(f"backbone={own}:{factory}")
    assert "\n" not in str(error.value)


def test_own_backbone_too_large_for_its_images_is_refused(own: str) -> None:
    with pytest.raises(UserError, match=r"forward pass fails on float images \[2, 3, 8, 8\] \(RuntimeError: "):
        build_model(f"{own}:deep", 4, 0, image_size=8)


def test_modules_that_are_not_there_are_refused(own: str) -> None:
    with pytest.raises(UserError, match=r"importing no_such_module fails .*No module named 'no_such_module'"):
        Model("no_such_module:net", 4)
    with pytest.raises(UserError, match=r"_broken fails .*No module named 'a_module_that_is_not_there'"):
        Model(f"{own}_broken:net", 4)


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers() if value.is_floating_point()}


def test_frozen_children_neither_learn_nor_drift() -> None:
    model = build_model("resnet10", 3, 0)
    freeze_before(model, "layer4")
    model.train()
    assert model.training
    assert model.backbone.layer4.training  # type: ignore[union-attr]
    before, moving = copy.deepcopy(model.state_dict()), statistics(model.backbone)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name in before if name.startswith(("backbone.layer4.", "classifier."))}
    assert changed == trained
    drifted = {name for name, value in statistics(model.backbone).items() if not torch.equal(value, moving[name])}
    assert drifted
    assert all(name.startswith("layer4.") for name in drifted)


def test_a_frozen_model_stays_frozen_when_copied_and_switched() -> None:
    model = build_model("resnet10", 3, 0)
    freeze_before(model, "layer4")
    twin = copy.deepcopy(model.eval()).train()
    modes = {name: child.training for name, child in twin.backbone.named_children()}
    assert {name for name, training in modes.items() if training} == {"layer4", "avgpool", "fc"}
    freeze_before(twin, "layer2")  # never thaws
    assert not twin.backbone.layer3.training  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in twin.backbone.layer3.parameters())  # type: ignore[union-attr]


def test_freezing_before_the_first_child_freezes_nothing() -> None:
    model = build_model("resnet32", 3, 0)
    freeze_before(model, "conv1")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_unknown_child_is_refused() -> None:
    told = r"protocol.train_from=layer4 is no part of backbone=resnet32: allowed are conv1, bn1, layers$"
    with pytest.raises(UserError, match=told):
        freeze_before(build_model("resnet32", 3, 0), "layer4")
