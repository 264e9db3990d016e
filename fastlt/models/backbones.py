"""Backbones, which turn images into pooled features.

There are ResNets of torchvision's building blocks, ResNet-32 for CIFAR, networks of timm and torchvision, and the
user's own. A Model is a backbone with its joint classifier. Parts of a backbone can be frozen.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.models.heads import JOINT
from fastlt.models.libraries import KINDS, build_network, check_network
from fastlt.registry import call_part, find_part, library_of, reason


class CifarBlock(nn.Module):
    """A residual block of two 3x3 convolutions for small images.

    The shortcut has no parameters: it is strided, and missing channels are zeros (He et al. 2016, option A).
    """

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
    """ResNet for small images with 6 n + 2 layers, of 16, 32 and 64 channels; features are [N, 64]. blocks: n."""

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
    """A CifarResNet whose features are projected to [N, length]; with a length of 2 they can be drawn.

    The projection is a linear layer and a batch norm without parameters, and no ReLU follows. So the features have mean
    0 and variance 1 and lie all around the origin. Without the batch norm, two-dimensional features collapse onto a
    line.
    """

    def __init__(self, blocks: int, length: int):
        super().__init__(blocks)
        self.project = nn.Sequential(nn.Linear(64, length, bias=False), nn.BatchNorm1d(length, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(super().forward(x))


def _torchvision(block: str, layers: list[int], **options: Any) -> nn.Module:
    from torchvision.models import resnet  # not at the top, because it takes as long to import as torch itself

    network = resnet.ResNet(getattr(resnet, block), layers, **options)
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network


def _wide_cifar(layers: list[int]) -> nn.Module:
    """Returns the network of weight balancing's code (Alshammari et al. 2022) for images of 32 pixels.

    It is a ResNet of torchvision with four stages of 64, 128, 256 and 512 channels, whose stem does not make images
    smaller: one 3 x 3 convolution and no max-pooling. The literature calls it ResNet-32 or ResNet-34; with layers
    [3, 4, 6, 3] it has 21.3 million parameters, 46 times as many as the ResNet-32 of He et al. for CIFAR.
    """
    network = _torchvision("BasicBlock", layers)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


_NEXT = {"groups": 32, "width_per_group": 4}  # 32x4d of Xie et al. 2017

# name -> (constructor, number of features D)
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
    "resnet32_w64": (partial(_wide_cifar, [3, 4, 6, 3]), 512),
}
IMAGE_SIZE = 224  # default side in pixels of the images on which an own backbone is tried


@dataclass(frozen=True)
class BackboneConfig:
    """The backbone of a training.

    name: a backbone such as resnet32 or resnext50, timm:NAME, torchvision:NAME, or package.module:NAME of your own.
    options: keyword arguments of an own backbone, or one of a library.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        find_backbone(self.name)


def find_backbone(name: str) -> Any:
    """Returns what `build_backbone` makes the backbone with. Raises UserError, in one line, for an unknown name."""
    if library_of(name):
        check_network(name)
        return build_network
    return find_part("backbone", name, BACKBONES, ", ".join(KINDS))


def build_backbone(
    name: str, image_size: int = IMAGE_SIZE, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, int]:
    """Returns a backbone with random weights, in training mode, and the number D of its features.

    name: one of three forms.
        - A key of BACKBONES.
        - `timm:NAME` or `torchvision:NAME`, a network of that library without its classifier.
        - `package.module:factory` of your own: a callable that takes `options` as keyword arguments and returns a
          module from float32 images [N, 3, H, W] to float features [N, D].
    image_size: side of the images. For the second and third form, D is found by a forward pass of zeros
        [2, 3, image_size, image_size] in eval mode.
    options: keyword arguments of a library's network or an own backbone.

    An own backbone's module is imported and its factory called, which runs its code. So a name that was read from a
    file of unknown origin must not be passed on without the user's consent.

    Raises UserError, in one line, if there is no such backbone or its output is not [N, D].

    >>> backbone, length = build_backbone("resnet32")
    >>> length, backbone(torch.zeros(4, 3, 32, 32)).shape
    (64, torch.Size([4, 64]))
    """
    if library_of(name):
        network = build_network(name, image_size, options or {})
        return network, _feature_length(name, network, image_size)
    found = find_backbone(name)
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
    shape = [2, 3, image_size, image_size]  # two images, so that a missing batch dimension is noticed
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


class Model(nn.Module):
    """A backbone and its joint classifier.

    backbone, image_size, options: as in `build_backbone`. classes: C. classifier: a key of JOINT.

    The attribute `frozen` holds the names of the parts of the backbone that `freeze` or `freeze_before` froze, such as
    "layer1"; "" is the whole backbone.
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
        self.backbone_name, self.image_size, self.classifier_kind = backbone, image_size, classifier
        self.backbone_options = dict(options or {})
        self.backbone, length = build_backbone(backbone, image_size, options)
        self.classifier = JOINT[classifier](length, classes)

    def forward(self, images: Tensor, with_features: bool = False) -> Any:
        """Returns logits (or cosines) [N, C] of float images [N, 3, H, W]; with_features: (logits, features [N, D])."""
        features = self.backbone(images)
        logits = self.classifier(features)
        return (logits, features) if with_features else logits

    def train(self, mode: bool = True) -> Self:
        """Sets training mode or, with mode=False, eval mode. Frozen parts stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.backbone.get_submodule(name).eval()
        return self


def build_model(
    backbone: str,
    classes: int,
    seed: int,
    image_size: int = IMAGE_SIZE,
    classifier: str = "linear",
    head_start: str = "uniform",
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Returns a Model with random weights from a seed, without changing torch's global random generator.

    backbone, classes, image_size, classifier, options: as in Model.
    head_start: initial weights of a linear joint classifier: `uniform` within 1 / sqrt(D), as in PyTorch, or
        `kaiming_normal` with standard deviation sqrt(2 / D) (He et al. 2015), as in LDAM-DRW's code.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(backbone, classes, image_size, classifier, options)
        if head_start == "kaiming_normal" and classifier == "linear":
            nn.init.kaiming_normal_(model.classifier.weight)
    return model


def freeze(model: Model) -> None:
    """Freezes the backbone, so that only the classifier is trained.

    Its parameters get requires_grad=False, and it stays in eval mode.
    """
    model.backbone.requires_grad_(False)
    model.frozen = ("",)
    model.train(model.training)


def freeze_before(model: Model, part: str) -> None:
    """Freezes the part of the backbone before `part`, so that only `part`, what follows it and the classifier train.

    part: name of a submodule of the backbone, such as "layer4" (which the paper uses on Places-LT) or "layers.10".

    Submodules are ordered as they were registered, which for the networks here is the order of the forward pass. Those
    before `part` get requires_grad=False and stay in eval mode whatever `model.train()` says, so their batch norm keeps
    its running statistics. The paper's code leaves frozen layers in training mode, where the statistics drift towards
    those of the sampler. Parameters that belong directly to a module around a frozen part, such as the class token and
    the position embeddings of a transformer, are frozen as well.

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
        for parameter in _held_around(model, name):
            parameter.requires_grad_(False)
    model.frozen = tuple(dict.fromkeys((*model.frozen, *before)))
    model.train(model.training)


def thaw(model: Model) -> None:
    """Unfreezes all frozen parts. All their parameters are trained then, even those that never were."""
    for name in model.frozen:
        model.backbone.get_submodule(name).requires_grad_(True)
        for parameter in _held_around(model, name):
            parameter.requires_grad_(True)
    model.frozen = ()
    model.train(model.training)


def _held_around(model: Model, part: str) -> list[nn.Parameter]:
    """Returns the parameters that belong directly to the modules around a part of the backbone, not to a child."""
    names = part.split(".")
    around = [".".join(names[:depth]) for depth in range(len(names))] if part else []
    return [value for name in around for value in model.backbone.get_submodule(name).parameters(recurse=False)]


def last_block(model: Model) -> str:
    """Returns the name of the backbone's last block, for `freeze_before`.

    It is the last child that has weights of more than one dimension, such as layer4 of torchvision's ResNets. If that
    child is called `blocks` or `stages`, as in timm's transformers, it is the last block within it. For a CifarResNet
    it is the first of the blocks with 64 channels. Raises UserError if no child has such weights.
    """
    if isinstance(model.backbone, CifarResNet):
        return f"layers.{2 * len(model.backbone.layers) // 3}"
    names = [name for name, child in model.backbone.named_children() if any(p.ndim > 1 for p in child.parameters())]
    if not names:
        raise UserError(f"backbone={model.backbone_name} has no last block: no part of it has parameters")
    inner = [name for name, _ in model.backbone.get_submodule(names[-1]).named_children()]
    return f"{names[-1]}.{inner[-1]}" if names[-1] in ("blocks", "stages") and inner else names[-1]


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """Returns, by name of a parameter, the number of layers after the layer that it belongs to; 0 for the last layer.

    A layer is a child of the backbone that has parameters, or each member of a child that is an nn.Sequential or an
    nn.ModuleList. Parameters of the backbone itself, such as a class token, belong to the first layer.

    >>> depths = layer_depths(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    >>> depths["0.weight"], depths["2.weight"]
    (1, 0)
    """
    layers: list[str] = []
    for name, child in backbone.named_children():
        parts = isinstance(child, nn.Sequential | nn.ModuleList) and len(child)
        inner = [f"{name}.{part}" for part, _ in child.named_children()] if parts else [name]
        layers += [one for one in inner if any(True for _ in backbone.get_submodule(one).parameters())]
    behind = {name: len(layers) - 1 - number for number, name in enumerate(layers)}

    def of(parameter: str) -> int:
        parts = parameter.split(".")
        first = max(len(layers) - 1, 0)  # none, if all parameters are the backbone's own
        return next((behind[name] for n in (2, 1) if (name := ".".join(parts[:n])) in behind), first)

    return {name: of(name) for name, _ in backbone.named_parameters()}


def parameters(model: nn.Module) -> int:
    """Returns the number of parameters of a module, frozen ones included."""
    return sum(p.numel() for p in model.parameters())
