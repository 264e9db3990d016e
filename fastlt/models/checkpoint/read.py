"""Reads files of weights of fastlt and of other projects, without ever running code from a file."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.core.torch_file import AsksToRun, Unreadable, read_torch_file, reason
from fastlt.models.backbones import BACKBONES
from fastlt.models.checkpoint.harmless import HARMLESS
from fastlt.models.checkpoint.heads import Head, joint_classifier, split_fc, split_head
from fastlt.models.checkpoint.networks import number_blocks
from fastlt.models.heads import JOINT
from fastlt.registry import is_own, library_of

# Keys under which training scripts store a state dict. If a file has two of them, the first one here is taken.
WRAPPERS = ("state_dict_best", "state_dict", "state_dict_model", "model_state_dict", "model", "feat_model")
# Formats that store several state dicts side by side: the keys of backbone, classifier, learned scales and last block,
# and a name. BALMS is built on the code of the paper. MiSLAS stores the last block separately on Places-LT.
PAIRS = (
    ("feat_model", "classifier", "", "", "checkpoint of the paper's authors or of BALMS"),
    (
        "state_dict_model",
        "state_dict_classifier",
        "state_dict_lws_model",
        "state_dict_block",
        "checkpoint of MiSLAS",
    ),
)
KIND_BAGS, BAGS = "checkpoint of BagofTricks-LT", {"state_dict", "best_result", "best_epoch"}
PREFIXES = ("module.", "_orig_mod.", "model.")  # prefixes of names by DataParallel, torch.compile and trainers
KIND_OURS = "checkpoint of fastlt"
OURS = {"schema", "key", "settings", "epoch", "model"}  # keys of every checkpoint of fastlt


@dataclass(frozen=True)
class Weights:
    """The contents of a file of weights.

    kind: what the file is, in words.
    backbone: tensors by the backbone's own names, float32 or integer, on the CPU.
    classifier: (weight [C, D], bias [C]), float32, with a bias of None for a cosine classifier; None without one.
    backbone_name: the name of the backbone, if the file has it.
    notes: what was left out or changed, one line each.
    """

    kind: str
    backbone: dict[str, Tensor]
    classifier: tuple[Tensor, Tensor | None] | None
    backbone_name: str | None = None
    notes: tuple[str, ...] = ()


def load_state(path: Path) -> tuple[Any, dict[str, str]]:
    """Returns the contents of a file of torch.save or a .safetensors file on the CPU, and the metadata of the latter.

    `read_torch_file` reads files of torch.save: only tensors and plain values, with checksums compared, and without
    running code. NumPy values are left out. Raises UserError if the file is missing or damaged, or holds other things.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: give a file of weights (.pth, .pt or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return read_torch_file(path, HARMLESS), {}
    except AsksToRun as error:
        remedy = "have its author save the state dict alone, which is tensors by name"
        raise UserError(f"{path} {error}: {remedy}") from None
    except Unreadable as error:
        raise UserError(
            f"{path} {error}: give another copy of it; allowed are whole files of torch.save (tensors and plain "
            "values) and .safetensors"
        ) from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors raises exceptions of its own
        raise Unreadable(f"is damaged, or no file of safetensors: {reason(error)}") from None


def checkpoint_path(path: Path) -> Path:
    """Returns the path of the checkpoint in a run folder, or a path that is not a folder unchanged."""
    return path / "checkpoint.pt" if path.is_dir() else path


def open_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the state in a checkpoint of fastlt, see `Trainer.state` for its keys.

    path: the file, or a run folder. Raises UserError if it is anything else.
    """
    path = checkpoint_path(path)
    state, _ = load_state(path)
    if not is_ours(state):
        raise UserError(
            f"{path} is no checkpoint of fastlt: make one of it with "
            f"python -m fastlt.checkpoint import {path} --out NEW.pt"
        )
    return state


def is_ours(state: Any) -> bool:
    """Returns whether a loaded state is a checkpoint of fastlt."""
    return (
        isinstance(state, dict)
        and state.keys() >= OURS
        and isinstance(state["settings"], dict)
        and isinstance(state["model"], dict)
        and "classifier.weight" in state["model"]
        and classifier_kind(state) in JOINT
    )


def classifier_kind(state: Mapping[str, Any]) -> str:
    """Returns the kind of classifier in a checkpoint of fastlt, a key of JOINT; `linear` if an old one lacks it."""
    return str(state.get("classifier", "linear"))


def read_weights(path: Path, own: Collection[str] = (), classifier: str | None = None) -> Weights:
    """Reads the backbone and the classifier from a file of weights.

    path: a file of the paper's authors, BALMS, MiSLAS, LDAM-DRW or BagofTricks-LT, of torchvision or timm (a state
        dict, bare or within a dict), or of fastlt itself.
    own: names that belong to the backbone even if they look like a classifier's.
    classifier: `linear` or `cosine`, what a classifier without bias is; None leaves that to the file.

    A classifier of another kind is left out, with a note. Raises UserError if the file cannot be read or does not hold
    a state dict.
    """
    state, metadata = load_state(path)
    if is_ours(state):
        tensors = _tensors(state["model"], path)
        joint = tensors.pop("classifier.weight"), tensors.pop("classifier.bias", None)
        backbone = {name.removeprefix("backbone."): value for name, value in tensors.items()}
        return Weights(KIND_OURS, backbone, joint, _name(state["settings"]))
    kind, parts = _unwrapped(state, path)
    if len(parts) > 1:
        backbone, head, notes = _pair(parts, path, own)
    else:
        tensors = _tensors(parts[0], path, own)
        if any(name.startswith("backbone.") and name not in own for name in tensors):
            tensors = {name.removeprefix("backbone."): value for name, value in tensors.items()}
        (backbone, head), notes = split_head(tensors, own), ()
    joint = None
    if head:
        # All linear classifiers of BagofTricks-LT have a bias.
        without_bias = classifier or metadata.get("classifier") or ("cosine" if kind == KIND_BAGS else None)
        try:
            joint, more = joint_classifier(head, without_bias)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        notes += more
    return Weights(kind, number_blocks(backbone, own), joint, _name(metadata), notes)


def _unwrapped(state: Any, path: Path) -> tuple[str, list[Mapping[Any, Any]]]:
    """Returns what the file is, in words, and its state dict, or its state dicts for one of the formats PAIRS."""
    kind = "state dict" if path.suffix != ".safetensors" else "safetensors file"
    for _ in range(len(WRAPPERS)):
        if not isinstance(state, Mapping):
            raise UserError(f"{path} holds a {type(state).__name__}: allowed are tensors by name, or a dict with them")
        for *places, name in PAIRS:
            parts = [part if isinstance(part := state.get(place), Mapping) else {} for place in places]
            if parts[0] and parts[1]:
                return name, parts
        kind = KIND_BAGS if state.keys() >= BAGS else kind
        inner = next((name for name in WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        state = state[inner]
    return kind, [state]


def _pair(
    parts: list[Mapping[Any, Any]], path: Path, own: Collection[str]
) -> tuple[dict[str, Tensor], Head, tuple[str, ...]]:
    backbone, classifier, scales, block = parts
    tensors = _tensors(backbone, path, own)
    if block:  # the last block of layer4, which is stored separately
        place = len({name.split(".")[1] for name in tensors if name.startswith("layer4.")})
        tensors |= {f"layer4.{place}.{name}": value for name, value in _tensors(block, path).items()}
    # The backbones of these projects may contain a classifier that their forward pass does not use.
    unused = [name for name in tensors if name.startswith("fc.") and name not in own]
    notes = [f"the backbone's own {', '.join(unused)} is not used"] if unused else []
    found = _tensors({**classifier, **scales}, path)
    head = split_fc(found)
    if not head:
        notes.append(f"its classifier of {', '.join(found)} is not linear, and is left out")
    return {name: value for name, value in tensors.items() if name not in unused}, head, tuple(notes)


def _name(about: Mapping[str, Any]) -> str | None:
    """Returns the name of the backbone in a file's settings, or None if that is not a valid name."""
    name = about.get("backbone")
    return name if isinstance(name, str) and (name in BACKBONES or library_of(name) or is_own(name)) else None


def _tensors(state: Any, path: Path, own: Collection[str] = ()) -> dict[str, Tensor]:
    """Returns the tensors of a mapping, with PREFIXES removed from their names, and floats as float32."""
    found = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not found:
        raise UserError(f"{path} holds no tensors by name: its keys are {', '.join(map(str, list(state)[:6]))}")
    while not any(name in own for name in found):
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return {name: _plain(name, value, path) for name, value in found.items()}


def _plain(name: str, value: Tensor, path: Path) -> Tensor:
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        raise UserError(
            f"{path}: {name} is a {value.layout} tensor on {value.device}: allowed are plain, dense tensors"
        )
    value = value.detach()
    if value.is_floating_point():
        value = value.float()
        if not value.isfinite().all():
            raise UserError(
                f"{path}: {name} holds values that are not finite: the file is damaged, or its training was"
            )
    return value.contiguous()
