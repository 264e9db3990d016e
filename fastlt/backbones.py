"""Backbones: images -> pooled features. torchvision's building blocks, and the ResNet-32 of CIFAR."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.errors import UserError


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


def _torchvision(block: str, layers: list[int], **options: Any) -> nn.Module:
    from torchvision.models import resnet  # here: its import costs as long as torch's own

    network = resnet.ResNet(getattr(resnet, block), layers, **options)
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network


# name -> (constructor, length of the feature)
BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet32": (partial(CifarResNet, 5), 64),
    "resnet10": (partial(_torchvision, "BasicBlock", [1, 1, 1, 1]), 512),
    "resnet18": (partial(_torchvision, "BasicBlock", [2, 2, 2, 2]), 512),
    "resnet50": (partial(_torchvision, "Bottleneck", [3, 4, 6, 3]), 2048),
    "resnext50": (partial(_torchvision, "Bottleneck", [3, 4, 6, 3], groups=32, width_per_group=4), 2048),
}


class Model(nn.Module):
    """A backbone and its joint linear classifier."""

    def __init__(self, backbone: str, classes: int):
        super().__init__()
        if backbone not in BACKBONES:
            raise UserError(f"backbone={backbone} is unknown: allowed are {', '.join(BACKBONES)}")
        construct, length = BACKBONES[backbone]
        self.backbone = construct()
        self.classifier = nn.Linear(length, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of float images [N, 3, H, W]."""
        return self.classifier(self.backbone(images))


def build_model(backbone: str, classes: int, seed: int) -> Model:
    """A model with seeded random weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(backbone, classes)


def parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters())
