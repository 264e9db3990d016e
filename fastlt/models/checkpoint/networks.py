"""Recognizes a network by the names and shapes of its tensors."""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

_CIFAR = re.compile(r"layer([123])\.(\d+)\.((conv|bn)[12]\..*)")
_RESNETS: dict[tuple[int, ...], str] = {  # (whether blocks are bottlenecks, number of blocks in each stage)
    (False, 2, 2, 2, 2): "ResNet-18",
    (False, 3, 4, 6, 3): "ResNet-34",
    (True, 3, 4, 6, 3): "ResNet-50",
    (True, 3, 4, 23, 3): "ResNet-101",
    (True, 3, 8, 36, 3): "ResNet-152",
}


def number_blocks(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Returns tensors with the blocks of a ResNet for CIFAR renamed to fastlt's names.

    LDAM-DRW, and code that is built on it, numbers the blocks within each stage (`layer2.2`); fastlt numbers them from
    the first to the last (`layers.7`). The tensors of any other network are returned unchanged.

    own: names of the tensors of the network that is to be filled; nothing is renamed if it has LDAM-DRW's names.
    """
    blocks = _blocks(tensors)
    if not blocks or _blocks(own):
        return dict(tensors)
    place = {f"{stage}.{block}": number for number, (stage, block) in enumerate(blocks)}
    return {
        _CIFAR.sub(lambda found: f"layers.{place[f'{found[1]}.{found[2]}']}.{found[3]}", name): value
        for name, value in tensors.items()
    }


def _blocks(names: Collection[str]) -> list[tuple[int, int]]:
    """Returns (stage, block) of all blocks of a ResNet for CIFAR with the stages layer1 to layer3, else nothing."""
    blocks = sorted({(int(found[1]), int(found[2])) for name in names if (found := _CIFAR.fullmatch(name))})
    beside = any(name.startswith("layer") and not _CIFAR.fullmatch(name) for name in names)
    return blocks if {stage for stage, _ in blocks} == {1, 2, 3} and not beside else []


def seems(tensors: Mapping[str, Tensor]) -> str:
    """Returns, in words, what network these tensors of a backbone seem to be from."""
    stem, first = tensors.get("conv1.weight"), tensors.get("layer1.0.conv1.weight")
    if stem is not None and "layers.0.conv1.weight" in tensors:
        return f"a ResNet-{2 * _count(tensors, 'layers') + 2} for CIFAR with {len(stem)} channels in its first stage"
    if stem is not None and first is not None:
        deep = "layer1.0.conv3.weight" in tensors
        counts = [count for stage in range(1, 5) if (count := _count(tensors, f"layer{stage}"))]
        name = _RESNETS.get((deep, *counts), f"ResNet of {'-'.join(map(str, counts))} blocks")
        size = stem.shape[-1]
        return f"a {name} with a first convolution of {size} x {size} and {len(first)} channels in its first block"
    if any("attn" in name or "attention" in name for name in tensors):
        return "a vision transformer"
    return f"a network of {len(tensors)} tensors from {next(iter(tensors))} to {list(tensors)[-1]}"


def _count(tensors: Mapping[str, Tensor], part: str) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith(f"{part}.")})
