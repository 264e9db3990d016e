"""Backbones: images -> pooled features. torchvision's building blocks, the ResNet-32 of CIFAR, and the user's own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.registry import call_part, find_part, reason


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: strided, missing channels filled with zeros (He et al.
    2016, option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.missing:
            before = self.missing // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet for small images, 6 n + 2 layers with `blocks` = n: 16, 32 and 64 channels, features [N, 64]."""

    def __init__(self, blocks: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        layers: list[nn.Module] = []
        channels = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for place in range(blocks):
                layers.append(CifarBlock(channels, width, stride if place == 0 else 1))
                channels = width
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(functional.relu(self.bn1(self.conv1(x)))).mean((2, 3))


class ProjectedResNet(CifarResNet):
    """A CifarResNet whose features are projected to [N, length], to be drawn.

    A linear layer and a batch norm without parameters, and no ReLU: features have mean 0 and variance 1, and so fill
    the plane all around the origin. Without the batch norm two features collapse onto a line.
    """

    def __init__(self, blocks: int, length: int):
        super().__init__(blocks)
        self.project = nn.Sequential(nn.Linear(64, length, bias=False), nn.BatchNorm1d(length, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(super().forward(x))


def _torchvision(block: str, layers: list[int], **options: Any) -> nn.Module:
    from torchvision.models import resnet  # here: its import costs as long as torch's own

    network = resnet.ResNet(getattr(resnet, block), layers, **options)
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network


_NEXT = {"groups": 32, "width_per_group": 4}  # 32x4d of Xie et al. 2017

# name -> (constructor, length of the feature)
BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet32": (partial(CifarResNet, 5), 64),
    "resnet10": (partial(_torchvision, "BasicBlock", [1, 1, 1, 1]), 512),
    "resnet18": (partial(_torchvision, "BasicBlock", [2, 2, 2, 2]), 512),
    "resnet50": (partial(_torchvision, "Bottleneck", [3, 4, 6, 3]), 2048),
    "resnet101": (partial(_torchvision, "Bottleneck", [3, 4, 23, 3]), 2048),
    "resnet152": (partial(_torchvision, "Bottleneck", [3, 8, 36, 3]), 2048),
    "resnext50": (partial(_torchvision, "Bottleneck", [3, 4, 6, 3], **_NEXT), 2048),
    "resnext101": (partial(_torchvision, "Bottleneck", [3, 4, 23, 3], **_NEXT), 2048),
    "resnext152": (partial(_torchvision, "Bottleneck", [3, 8, 36, 3], **_NEXT), 2048),
    "resnet32_2d": (partial(ProjectedResNet, 5, 2), 2),
}
IMAGE_SIZE = 224  # pixels; what an own backbone is tried on where nothing else is said


def build_backbone(
    name: str, image_size: int = IMAGE_SIZE, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int]:
    """A backbone with random weights, in training mode, and the length D of its features.

    name: a key of BACKBONES, or `package.module:factory`: an importable callable that takes `options` as keywords and
    gives a module from float32 images [N, 3, H, W] to float features [N, D]. Its D is found by one forward pass of
    zeros [2, 3, image_size, image_size] in eval mode. The module is imported and the callable called, so a name that
    comes out of somebody's file must never reach this function unasked.

    Raises UserError, in one line, where there is no such backbone or it gives no features [N, D].
    """
    found = find_part("backbone", name, BACKBONES)
    if name in BACKBONES:
        construct, length = found
        return call_part("backbone", name, lambda: construct(), options or {}), length
    if not callable(found):
        raise UserError(f"backbone={name}: it cannot be called: name a function that gives a torch module")
    network = call_part("backbone", name, found, options or {})
    if not isinstance(network, nn.Module):
        raise UserError(f"backbone={name} gives a {type(network).__name__}: it must give a torch module")
    return network, _feature_length(name, network, image_size)


@torch.no_grad()
def _feature_length(name: str, network: nn.Module, image_size: int) -> int:
    shape = [2, 3, image_size, image_size]  # two images, so that a lost batch dimension shows
    try:
        features = network.eval()(torch.zeros(shape))
    except Exception as error:
        raise UserError(
            f"backbone={name}: its forward pass fails on float images {shape} ({reason(error)}): mend it, or choose "
            "another image_size"
        ) from error
    network.train()
    if not isinstance(features, Tensor):
        found = f"a {type(features).__name__}"
    elif features.ndim != 2 or len(features) != 2 or not features.is_floating_point():
        found = f"{str(features.dtype).removeprefix('torch.')} {list(features.shape)}"
    else:
        return features.shape[1]
    raise UserError(f"backbone={name} gives {found} for images {shape}: it must give float features [2, D]")


class CosineClassifier(nn.Module):
    """Cosines in [-1, 1] of features and a weight vector for each class: cos(x, w_c), without bias.

    It has what nn.Linear has: weight [C, D], bias (None), in_features, out_features. Its weights begin as random
    directions of length 1, and their lengths never matter.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(_unit(torch.randn(out_features, in_features)))
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        """float32 [..., C] of features [..., D], under autocast too: losses multiply cosines, and their errors."""
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(_unit(x.float()), _unit(self.weight))


_SHORT = 1e-6  # a vector up to this length has no direction


def _unit(x: Tensor) -> Tensor:
    """Vectors at length 1. One without direction becomes 0, with gradient 0 in place of an endless one."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(length > _SHORT, x / length.clamp_min(_SHORT), 0.0)


# Kinds of joint classifier: (length of the feature, classes) -> module.
JOINT: dict[str, Callable[[int, int], nn.Linear | CosineClassifier]] = {
    "linear": nn.Linear,
    "cosine": CosineClassifier,
}


class Model(nn.Module):
    """A backbone and its joint classifier.

    backbone, image_size, options: as in `build_backbone`. classifier: a key of JOINT. frozen: parts of the backbone,
    by dotted name, that `freeze` or `freeze_before` froze; "" is all of it.
    """

    def __init__(
        self,
        backbone: str,
        classes: int,
        image_size: int = IMAGE_SIZE,
        classifier: str = "linear",
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.frozen: tuple[str, ...] = ()
        self.backbone_name, self.classifier_kind = backbone, classifier
        self.backbone_options = dict(options or {})
        self.backbone, length = build_backbone(backbone, image_size, options)
        self.classifier = JOINT[classifier](length, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or cosines, [N, C] of float images [N, 3, H, W]."""
        return self.classifier(self.backbone(images))

    def train(self, mode: bool = True) -> Self:
        """Training or eval mode; frozen parts stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.backbone.get_submodule(name).eval()
        return self


HEAD_STARTS = ("uniform", "kaiming_normal")


def build_model(
    backbone: str,
    classes: int,
    seed: int,
    image_size: int = IMAGE_SIZE,
    classifier: str = "linear",
    head_start: str = "uniform",
    options: Mapping[str, Any] | None = None,
) -> Model:
    """A model with seeded random weights; torch's global generator is left as it was.

    head_start: how the weights of a linear joint classifier begin: `uniform` within 1 / sqrt(D), as PyTorch's do, or
    `kaiming_normal` with standard deviation sqrt(2 / D) (He et al. 2015), as in LDAM-DRW's code.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(backbone, classes, image_size, classifier, options)
        if head_start == "kaiming_normal" and classifier == "linear":
            nn.init.kaiming_normal_(model.classifier.weight)
    return model


def freeze(model: Model) -> None:
    """Only the classifier is trained from now on: the backbone's parameters get requires_grad=False, and it stays in
    eval mode."""
    model.backbone.requires_grad_(False)
    model.frozen = ("",)
    model.train(model.training)


def freeze_before(model: Model, part: str) -> None:
    """Only the backbone's `part`, what follows it and the classifier are trained from now on (Places-LT: "layer4").

    part: name of a child, or of one further inside as "layers.10". Children count in the order in which they were
    registered, which in the networks here is that of the forward pass. Parameters of those before `part` get
    requires_grad=False, and these children stay in eval mode whatever `model.train()` says: their batch norm goes on
    using the statistics it was trained with. The authors' code leaves its frozen layers in training mode, where the
    statistics drift towards those of the sampler. Parameters that a module around `part` holds itself, in no child,
    stay as they are.

    Raises UserError if the backbone has no such part.
    """
    before: list[str] = []
    around, prefix = model.backbone, ""
    for name in part.split("."):
        children = dict(around.named_children())
        if name not in children:
            allowed = ", ".join(prefix + child for child in children) or f"parts up to {prefix.rstrip('.')}"
            raise UserError(
                f"protocol.train_from={part} is no part of backbone={model.backbone_name}: allowed are {allowed}"
            )
        before += [prefix + child for child in list(children)[: list(children).index(name)]]
        around, prefix = children[name], f"{prefix}{name}."
    for name in before:
        model.backbone.get_submodule(name).requires_grad_(False)
    model.frozen = tuple(dict.fromkeys((*model.frozen, *before)))
    model.train(model.training)


def thaw(model: Model) -> None:
    """All that was frozen is trained again. Parameters of a frozen part that never were will be, too."""
    for name in model.frozen:
        model.backbone.get_submodule(name).requires_grad_(True)
    model.frozen = ()
    model.train(model.training)


def last_block(model: Model) -> str:
    """Name of the backbone's last block: its last child that has parameters, layer4 of torchvision's networks; of
    CIFAR's ResNets the blocks of 64 channels, by the name of the first. Raises UserError if no child has parameters."""
    if isinstance(model.backbone, CifarResNet):
        return f"layers.{2 * len(model.backbone.layers) // 3}"
    names = [name for name, child in model.backbone.named_children() if any(True for _ in child.parameters())]
    if not names:
        raise UserError(f"backbone={model.backbone_name} has no last block: no part of it has parameters")
    return names[-1]


def parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())
