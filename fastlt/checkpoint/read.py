"""Reads files of weights by whoever wrote them. Nothing that a file contains is ever run."""

import argparse
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastlt.backbones import BACKBONES, JOINT, is_own
from fastlt.errors import UserError

# Where training codes put a state dict, the better one first where there are two.
WRAPPERS = ("state_dict_best", "state_dict", "state_dict_model", "model_state_dict", "model", "feat_model")
# Backbone, classifier and learned scales side by side: the paper's authors; MiSLAS.
PAIRS = (
    ("feat_model", "classifier", "", "checkpoint of the paper's authors"),
    ("state_dict_model", "state_dict_classifier", "state_dict_lws_model", "checkpoint of MiSLAS"),
)
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile and trainers
HEADS = ("fc", "head.fc", "classifier", "head")  # names of the last linear layer in torchvision and timm
SCALES = ("scales", "learned_norm")  # of LWS, one for each class
KIND_OURS = "checkpoint of fastlt"
OURS = {"schema", "key", "settings", "epoch", "model"}  # keys of every checkpoint of fastlt


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    kind: what the file is, in words. backbone: tensors under the backbone's own names, float32 or integer, on the CPU.
    classifier: weight [C, D] and bias [C], float32, or None; no bias where it compares by cosine. backbone_name: only
    where the file says it. notes: what was left out or changed, a line each.
    """

    kind: str
    backbone: dict[str, Tensor]
    classifier: tuple[Tensor, Tensor | None] | None
    backbone_name: str | None = None
    notes: tuple[str, ...] = ()


def load_state(path: Path) -> tuple[Any, dict[str, str]]:
    """What a .safetensors file or a file of torch.save holds, on the CPU, and the metadata of the first.

    Files of torch.save are read with weights_only=True: tensors and plain values, and nothing that runs. Raises
    UserError if the file is missing, damaged, or asks for more.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: give a file of weights (.pth, .pt or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        # Namespace: reference scripts of torchvision and timm keep their arguments in one. It only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:  # damage shows as nearly any error of pickle, zipfile, torch or safetensors
        if match := re.search(r"\bGLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} asks to run {match[1]} when it is read, and was not read: have its author save the state dict "
                "alone, which is tensors by name"
            ) from error
        raise UserError(
            f"{path} cannot be read as weights ({reason(error)}): allowed are whole files of torch.save (tensors and "
            "plain values) and .safetensors"
        ) from error


def reason(error: BaseException) -> str:
    """The first line of an error, in brief; its kind if it says nothing."""
    # Torch's preamble recommends weights_only=False, which nobody should do to a file that was just refused.
    text = re.sub(r"^Weights only load failed.*?(trusted source\.|WeightsUnpickler error:)", "", str(error), flags=re.S)
    text = re.sub(r"^\s*Please file an issue.*?WeightsUnpickler error:", "", text, flags=re.S)
    lines = text.strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def checkpoint_path(path: Path) -> Path:
    """The checkpoint of a run folder; a file is one itself."""
    return path / "checkpoint.pt" if path.is_dir() else path


def open_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint of fastlt: a file, or a run folder that has one. See representation/ for its keys.

    Raises UserError if it is anything else.
    """
    path = checkpoint_path(path)
    state, _ = load_state(path)
    if not is_ours(state):
        raise UserError(f"{path} is no checkpoint of fastlt: python -m fastlt.checkpoint import {path} makes one of it")
    return state


def is_ours(state: Any) -> bool:
    """Whether a loaded state is a checkpoint of fastlt."""
    return (
        isinstance(state, dict)
        and state.keys() >= OURS
        and isinstance(state["settings"], dict)
        and isinstance(state["model"], dict)
        and "classifier.weight" in state["model"]
        and classifier_kind(state) in JOINT
    )


def classifier_kind(state: Mapping[str, Any]) -> str:
    """What the joint classifier of a checkpoint of fastlt is, a key of JOINT; older ones do not say it."""
    return str(state.get("classifier", "linear"))


def read_weights(path: Path, own: Collection[str] = ()) -> Weights:
    """Backbone and classifier of a file: of the paper's authors, of torchvision or timm (a state dict, bare or
    wrapped), of MiSLAS, or of fastlt itself.

    own: names that belong to the backbone even if they look like a classifier's. Raises UserError if the file cannot be
    read or holds no such thing.
    """
    state, metadata = load_state(path)
    if is_ours(state):
        tensors = _tensors(state["model"], path)
        classifier = tensors.pop("classifier.weight"), tensors.pop("classifier.bias", None)
        backbone = {name.removeprefix("backbone."): value for name, value in tensors.items()}
        return Weights(KIND_OURS, backbone, classifier, _name(state["settings"]))
    kind = "state dict" if path.suffix != ".safetensors" else "safetensors file"
    for _ in range(len(WRAPPERS)):
        if not isinstance(state, Mapping):
            raise UserError(f"{path} holds a {type(state).__name__}: allowed are tensors by name, or a dict with them")
        for *places, name in PAIRS:
            backbone, classifier, scales = (state.get(place) for place in places)
            if isinstance(backbone, Mapping) and isinstance(classifier, Mapping):
                return _pair(backbone, classifier, scales if isinstance(scales, Mapping) else {}, name, path, own)
        inner = next((name for name in WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:
            break
        state = state[inner]
    return _single(_tensors(state, path, own), kind, metadata, own)


def _pair(backbone: Any, classifier: Any, scales: Any, kind: str, path: Path, own: Collection[str]) -> Weights:
    tensors = _tensors(backbone, path, own)
    # Their networks may carry a classifier of their own, which their forward pass does not use.
    unused = [name for name in tensors if name.startswith("fc.") and name not in own]
    notes = [f"the backbone's own {', '.join(unused)} is not used"] if unused else []
    head = _tensors({**classifier, **scales}, path)
    factor = next((head.pop(name) for name in SCALES if name in head), None)
    # Not just any weight: that of a cosine classifier looks the same but for its name.
    if set(head) not in ({"fc.weight", "fc.bias"}, {"fc.weight"}) or head["fc.weight"].ndim != 2:
        raise UserError(
            f"{path}: the classifier holds {', '.join(head) or 'nothing'}: only a linear one can be imported, "
            "fc.weight and fc.bias, perhaps with the scales of LWS"
        )
    weight, bias = head["fc.weight"], head.get("fc.bias")
    if bias is None:
        notes.append(_NO_BIAS)
        bias = torch.zeros(len(weight))
    if factor is not None:
        if factor.numel() != len(weight):
            raise UserError(f"{path}: {factor.numel()} scales for {len(weight)} classes: there must be one for each")
        # The authors' LWS scales the logits, factor * (W x + b), not the weights alone as the paper's text says.
        factor = factor.flatten()
        weight, bias = factor[:, None] * weight, factor * bias
        notes.append("the scales of LWS are folded into the classifier")
    kept = {name: value for name, value in tensors.items() if name not in unused}
    return Weights(kind, kept, (weight, bias), None, tuple(notes))


_NO_BIAS = "the classifier has no bias: 0 is taken; one that compares by cosine would need more than that"


def _single(tensors: dict[str, Tensor], kind: str, metadata: dict[str, str], own: Collection[str]) -> Weights:
    if any(name.startswith("backbone.") and name not in own for name in tensors):
        tensors = {name.removeprefix("backbone."): value for name, value in tensors.items()}
    for head in HEADS:
        weight = tensors.get(f"{head}.weight")
        if weight is not None and weight.ndim == 2 and f"{head}.weight" not in own:
            rest = {name: value for name, value in tensors.items() if name not in (f"{head}.weight", f"{head}.bias")}
            bias = tensors.get(f"{head}.bias")
            if bias is None and metadata.get("classifier") == "cosine":
                return Weights(kind, rest, (weight, None), _name(metadata))
            notes = () if bias is not None else (_NO_BIAS,)
            pair = weight, torch.zeros(len(weight)) if bias is None else bias
            return Weights(kind, rest, pair, _name(metadata), notes)
    return Weights(kind, tensors, None, _name(metadata))


def _name(about: Mapping[str, Any]) -> str | None:
    """The backbone that a file says it is of, if that can be a name: anybody may have written it."""
    name = about.get("backbone")
    return name if isinstance(name, str) and (name in BACKBONES or is_own(name)) else None


def _tensors(state: Any, path: Path, own: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a mapping under names without wrappers' prefixes; floats as float32."""
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
