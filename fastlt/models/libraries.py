"""Networks of timm and torchvision as backbones, named `timm:NAME` and `torchvision:NAME`, and their preprocessing."""

import difflib
import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastlt.core.errors import UserError
from fastlt.registry import LIBRARIES, call_part, find_part, is_own, library_of, reason

# Keyword arguments of timm.create_model that load weights. They are refused, as protocol.pretrained is the key for it.
_WEIGHTS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


@dataclass(frozen=True)
class Inputs:
    """The preprocessing of images that a network was trained with.

    image_size: side of the square input in pixels. mean, std: of RGB in 0..1. interpolation: of the resize.
    crop_pct: side of the central crop as a share of the image's short side.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float


def import_library(name: str) -> Any:
    """Imports and returns the package of a backbone `LIBRARY:NAME`. Raises UserError if it is not installed."""
    library = library_of(name)
    try:
        return importlib.import_module({"timm": "timm", "torchvision": "torchvision.models"}[library])
    except ImportError as error:
        raise UserError(
            f"backbone={name} needs the package {library} ({reason(error)}): pip install 'fastlt[{library}]'"
        ) from None


def check_network(name: str) -> None:
    """Raises UserError, with similar names, if the library has no network of a backbone `LIBRARY:NAME`."""
    library, wanted = import_library(name), name.partition(":")[2]
    # torchvision's own list has networks that find objects or outlines, too, in modules of their own.
    known = library.list_models() if library_of(name) == "timm" else library.list_models(module=library)
    plain = wanted.partition(".")[0]  # a name of timm may end in a tag that names the weights: resnet18.a1_in1k
    tagged = wanted in library.list_pretrained() if library_of(name) == "timm" and plain != wanted else True
    if plain not in known or not tagged:
        close = difflib.get_close_matches(wanted, [*known, *(library.list_pretrained() if not tagged else ())], 3, 0.5)
        hint = f"did you mean {' or '.join(close)}? It has" if close else "it has"
        raise UserError(f"backbone={name} is unknown to {library_of(name)}: {hint} {len(known)} networks")


def build_network(name: str, image_size: int, options: Mapping[str, Any]) -> nn.Module:
    """Returns a network of a library with random weights and without its classifier; its output is features [N, D].

    name: `timm:NAME` or `torchvision:NAME`.
    image_size: a network of timm that takes images of one size only is made for this size.
    options: keyword arguments for timm.create_model or torchvision's constructor.

    Raises UserError if the library has no such network or refuses the options.
    """
    check_network(name)
    library, wanted = import_library(name), name.partition(":")[2]
    for option in options:
        if option in (*_WEIGHTS, "weights"):
            raise UserError(f"backbone.options.{option}={options[option]}: weights come by protocol.pretrained")
    if library_of(name) == "torchvision":
        network = call_part("backbone", name, lambda **given: library.get_model(wanted, weights=None, **given), options)
        if getattr(network, "aux_logits", False):
            raise UserError(
                f"backbone={name} has further classifiers, whose outputs are added in training: give "
                "backbone.options.aux_logits=false"
            )
        return _without_classifier(name, network)
    created = timm_arguments(wanted, image_size)
    return call_part("backbone", name, lambda **given: library.create_model(wanted, **{**created, **given}), options)


def timm_arguments(wanted: str, image_size: int) -> dict[str, Any]:
    """Returns keyword arguments of timm.create_model for a network without its classifier, for images of this size."""
    cfg = _timm_cfg(wanted)
    fixed = cfg.get("fixed_input_size") and image_size != cfg["input_size"][-1]
    return {"num_classes": 0, **({"img_size": image_size} if fixed else {})}


def _without_classifier(name: str, network: nn.Module) -> nn.Module:
    """Returns torchvision's network with its last linear layer, the classifier, replaced by the identity."""
    last = [place for place, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not last:
        raise UserError(f"backbone={name} does not end in a linear layer: take another one")
    parent, _, child = last[0].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def inputs_of(name: str, pretrained: str | None = None) -> Inputs | None:
    """Returns the preprocessing of images that a backbone was trained with, or None if that is not known.

    name: as in `build_backbone`. pretrained: the value of protocol.pretrained.

    For networks of timm it is in their `pretrained_cfg`, or in config.json in the folder of pretrained=local-dir:DIR.
    For torchvision it is in the transforms of the default weights. A user's own factory may have an attribute
    `default_cfg`, a dict with timm's keys input_size, mean, std, interpolation and crop_pct.
    """
    if is_own(name):
        cfg = getattr(find_part("backbone", name, {}), "default_cfg", None)
        return None if cfg is None else _inputs(name, cfg)
    if library_of(name) == "timm":
        check_network(name)
        return _inputs(name, {**_timm_cfg(name.partition(":")[2]), **_cfg_beside(pretrained)})
    if library_of(name) == "torchvision":
        check_network(name)
        seen = default_weights(name).transforms()
        size, resized = seen.crop_size[0], seen.resize_size[0]
        return Inputs(size, tuple(seen.mean), tuple(seen.std), seen.interpolation.value, size / resized)
    return None


def _cfg_beside(pretrained: str | None) -> dict[str, Any]:
    """Returns the preprocessing in config.json of a folder of weights; {} unless `pretrained` is local-dir:DIR."""
    if not pretrained or not pretrained.startswith("local-dir:"):
        return {}
    path = Path(pretrained.partition(":")[2], "config.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found.get("pretrained_cfg", {}))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"protocol.pretrained={pretrained}: {path} cannot be read ({reason(error)})") from None


def _inputs(name: str, cfg: Mapping[str, Any]) -> Inputs:
    try:
        _, height, width = cfg["input_size"]
        mean, std = (tuple(float(value) for value in cfg[key]) for key in ("mean", "std"))
        pct = float(cfg.get("crop_pct") or 1.0)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"backbone={name}: what it says of its images is not as timm has it ({reason(error)}); allowed are "
            "input_size [3, H, W], mean, std, interpolation and crop_pct"
        ) from None
    if height != width:
        raise UserError(f"backbone={name} wants images of {height} x {width} pixels: square ones alone can be given")
    # timm rounds the size of the resize down to whole pixels, so the effective share differs from crop_pct.
    return Inputs(height, mean, std, str(cfg.get("interpolation", "bicubic")), height / math.floor(height / pct))


def _timm_cfg(wanted: str) -> dict[str, Any]:
    cfg = import_library("timm:").get_pretrained_cfg(wanted)
    return {} if cfg is None else cfg.to_dict()


def default_weights(name: str) -> Any:
    """Returns torchvision's entry for its default weights of a network, with their `url` and `transforms`."""
    library = import_library(name)
    return library.get_model_weights(name.partition(":")[2]).DEFAULT


def published(name: str) -> Mapping[str, Any]:
    """Returns timm's pretrained_cfg of a network, which says where its weights are published; {} if they are not."""
    return _timm_cfg(name.partition(":")[2])


KINDS = tuple(f"{library}:NAME" for library in LIBRARIES)  # allowed forms of names, for error messages
