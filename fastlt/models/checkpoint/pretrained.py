"""Weights from elsewhere, put into a backbone: which one they are of, and whether they fit."""

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.torch_file import Unreadable, read_torch_file, reason
from fastlt.models.backbones import BACKBONES, Model, build_backbone
from fastlt.models.checkpoint.read import Weights, read_weights

PUBLISHED = "torchvision"  # as a source: not a file
# Those that torchvision publishes ImageNet weights of, under its names.
THEIRS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "resnext50": "resnext50_32x4d",
}
COUNTER = "num_batches_tracked"  # of batch norm: unused here, and absent from old files


def load_pretrained(model: Model, source: str) -> None:
    """Puts pretrained weights into the model's backbone, in place; the classifier stays as it is.

    source: `torchvision` for its ImageNet weights of that network (IMAGENET1K_V1; downloaded once, then from
    TORCH_HOME), or a file that `read_weights` reads. A classifier in them is ignored, and a line says so. Raises
    UserError if they cannot be had or do not fit; then the model is as it was.
    """
    if source == PUBLISHED:
        weights = _download(model.backbone_name)
    else:
        weights = read_weights(Path(source), model.backbone.state_dict().keys())
    fill(model.backbone, weights.backbone, f"protocol.pretrained={source}", f"backbone={model.backbone_name}")
    if weights.classifier is not None:
        say(f"protocol.pretrained={source}: its classifier of {len(weights.classifier[0])} classes is ignored")


def pretrained_identity(backbone: str, source: str) -> str:
    """What determines the weights of a source, for a representation's settings: torchvision's name of them, or the
    SHA-256 of the file. Raises UserError if there are none."""
    return str(_published(backbone)) if source == PUBLISHED else f"sha256:{file_digest(Path(source))}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file of weights") from error


def _published(backbone: str) -> Any:
    if backbone not in THEIRS:
        raise UserError(
            f"protocol.pretrained={PUBLISHED}: torchvision publishes no weights of backbone={backbone}, only of "
            f"{', '.join(THEIRS)}: choose one of these, or protocol.pretrained=FILE"
        )
    from torchvision.models import get_model_weights

    return get_model_weights(THEIRS[backbone])["IMAGENET1K_V1"]


def _download(backbone: str) -> Weights:
    published = _published(backbone)
    # As torchvision does it, but an earlier download is checked, too: the name holds the start of its SHA-256.
    name = published.url.rpartition("/")[2]
    digest, path = name.rpartition("-")[2].partition(".")[0], Path(torch.hub.get_dir(), "checkpoints", name)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):  # torch says there what it downloads; stdout is for results
                torch.hub.download_url_to_file(published.url, str(path), digest, progress=sys.stderr.isatty())
    except Exception as error:  # no network, no space: all kinds of errors
        raise UserError(
            f"protocol.pretrained={PUBLISHED}: {published.url} cannot be had ({reason(error)}): check the "
            f"network, put that file into {path.parent}, or give a file, protocol.pretrained=FILE"
        ) from error
    try:
        if not file_digest(path).startswith(digest):
            raise Unreadable("is damaged: its SHA-256 does not begin as its name ends")
        state = read_torch_file(path)
    except Unreadable as error:
        raise UserError(f"protocol.pretrained={PUBLISHED}: {path} {error}: delete it, it is downloaded again") from None
    head = state.pop("fc.weight"), state.pop("fc.bias")
    return Weights("weights of torchvision", state, head)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str, target: str) -> None:
    """Loads tensors into a module under the same names. source, target: what they are, for the message.

    Raises UserError, with the module as it was, if names or shapes differ.
    """
    own = module.state_dict()
    found = misfit({name: tuple(value.shape) for name, value in own.items()}, tensors)
    if found:
        fits = identify(tensors)
        what = f"it fits backbone={fits}, choose that" if fits else "choose another of the two"
        raise UserError(f"{source} does not fit {target}: {found}: {what}")
    module.load_state_dict({**own, **tensors})


def misfit(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> str:
    """How tensors differ from what is expected: how many are missing, unexpected or of another shape, with the first
    name of each. Empty if they fit."""
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
    return f"{len(names)} tensor" + "s" * (len(names) > 1)


@cache
def shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of one of BACKBONES."""
    with torch.device("meta"):  # no memory, no random numbers
        network, _ = build_backbone(backbone)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def identify(tensors: Mapping[str, Tensor]) -> str | None:
    """The backbone that has just these tensors; None if there is none."""
    return next((name for name in BACKBONES if not misfit(shapes(name), tensors)), None)


def closest(tensors: Mapping[str, Tensor]) -> str:
    """The backbone that shares most tensors, by name and shape, with these."""

    def differing(name: str) -> int:
        own = {entry for entry in shapes(name).items() if not entry[0].endswith(COUNTER)}
        return len(own ^ {(key, tuple(value.shape)) for key, value in tensors.items() if not key.endswith(COUNTER)})

    return min(BACKBONES, key=differing)
