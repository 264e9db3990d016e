"""Loads pretrained weights into a backbone, and finds out which backbone weights belong to and whether they fit."""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import counted
from fastlt.models.backbones import BACKBONES, Model, build_backbone
from fastlt.models.checkpoint.read import read_weights
from fastlt.models.checkpoint.sources import (
    PUBLISHED,
    TORCHVISION,
    file_digest,
    of_torchvision,
    read_published,
    weights_file,
)
from fastlt.registry import library_of

COUNTER = "num_batches_tracked"  # a buffer of batch norm that is not used here and that old files lack


def load_pretrained(model: Model, source: str) -> None:
    """Loads pretrained weights into the model's backbone; its classifier is not changed.

    source: as in `weights_file`. A classifier in the file is ignored, with a message.

    Raises UserError if the weights cannot be read or do not fit; the model is then unchanged.
    """
    path, name = weights_file(model.backbone_name, source), model.backbone_name
    if source == PUBLISHED and library_of(name) == "timm":
        model.backbone.load_state_dict(read_published(name, path, model.image_size, model.backbone_options))
        return
    weights = read_weights(path, model.backbone.state_dict().keys())
    fill(model.backbone, weights.backbone, f"protocol.pretrained={source}", f"backbone={name}")
    if weights.classifier is not None:
        say(
            f"protocol.pretrained={source}: its classifier of {counted(len(weights.classifier[0]), 'class')} is ignored"
        )


def pretrained_identity(backbone: str, source: str) -> str:
    """Returns what determines the weights of a source: torchvision's name for them, or the SHA-256 of the file.

    It is part of the settings of a representation. source: as in `load_pretrained`. Raises UserError if there are none.
    """
    if source == TORCHVISION:
        return str(of_torchvision(backbone, source))
    return f"sha256:{file_digest(weights_file(backbone, source))}"


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str, target: str) -> None:
    """Loads tensors into the parameters and buffers of a module with the same names.

    source, target: what the tensors and the module are, for the error message.

    Raises UserError if names or shapes differ; the module is then unchanged.
    """
    own = module.state_dict()
    found = misfit({name: tuple(value.shape) for name, value in own.items()}, tensors)
    if found:
        fits = identify(tensors)
        what = f"it fits backbone={fits}, choose that" if fits else "choose another of the two"
        raise UserError(f"{source} does not fit {target}: {found}: {what}")
    module.load_state_dict({**own, **tensors})


def misfit(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> str:
    """Returns, in words, how tensors differ from the expected names and shapes, or "" if they fit.

    It counts the tensors that are missing, unexpected or of another shape, with the first name of each kind.
    """
    missing = [name for name in expected if name not in tensors and not name.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in expected]
    other = [name for name in expected if name in tensors and tuple(tensors[name].shape) != expected[name]]
    parts = []
    if missing:
        parts.append(f"{_tensors(missing)} missing, first {missing[0]}")
    if unexpected:
        parts.append(f"{_tensors(unexpected)} unexpected, first {unexpected[0]}")
    if other:
        first, needed = list(tensors[other[0]].shape), list(expected[other[0]])
        parts.append(f"{_tensors(other)} of another shape, first {other[0]} with {first} in place of {needed}")
    return "; ".join(parts)


def _tensors(names: list[str]) -> str:
    return counted(len(names), "tensor")


@cache
def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the tensors of one of BACKBONES."""
    with torch.device("meta"):  # takes no memory and draws no random numbers
        network, _ = build_backbone(backbone)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def identify(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name of the backbone in BACKBONES that these tensors fit, or None."""
    return next((name for name in BACKBONES if not misfit(shapes(name), tensors)), None)


def closest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the name of the backbone in BACKBONES that differs in the fewest tensors, by name and shape."""

    def differing(name: str) -> int:
        own = {entry for entry in shapes(name).items() if not entry[0].endswith(COUNTER)}
        return len(own ^ {(key, tuple(value.shape)) for key, value in tensors.items() if not key.endswith(COUNTER)})

    return min(BACKBONES, key=differing)
