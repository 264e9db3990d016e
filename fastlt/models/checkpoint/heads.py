"""Finds the classifier (head) in a state dict: a linear layer, one with scales of LWS, or a cosine classifier."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from fastlt.core.words import counted

Head = Mapping[str, Tensor]  # `weight` [C, D] (or `across` [D, C]), perhaps `bias` [C] and `scales` [C]
HEADS = ("fc", "linear", "head.fc", "classifier.fc", "classifier", "head")  # usual names of the last linear layer
SCALES = ("scales", "learned_norm")  # names of the scales of LWS, one for each class
_NO_BIAS = "the classifier has no bias: 0 is taken; if it compares by cosine, import it with --classifier cosine"


def split_head(tensors: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], Head]:
    """Splits a state dict into the tensors of the backbone and the head, which is empty if there is none.

    own: names that belong to the backbone even if they look like a classifier's.

    The head is a layer with one of the names HEADS, or else the last layer of the file.
    """
    last = list(tensors)[-1].rpartition(".")[0]
    for name in (*HEADS, last):
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 2 or f"{name}.weight" in own:
            continue
        beside = name.rpartition(".")[0]
        places = {f"{name}.weight": "weight", f"{name}.bias": "bias"}
        places |= {f"{beside}.{scales}".lstrip("."): "scales" for scales in SCALES}
        rest = {place: value for place, value in tensors.items() if place not in places}
        if name == "linear" and "linear.bias" not in tensors and len(weight) == _length(rest):
            return rest, {"across": weight}  # the cosine classifier of LDAM-DRW, whose weight is [D, C]
        return rest, {part: tensors[place] for place, part in places.items() if place in tensors}
    return dict(tensors), {}


def _length(backbone: Mapping[str, Tensor]) -> int:
    """Returns the number of features of a network that ends in a batch norm."""
    return next((len(value) for value in reversed(list(backbone.values())) if value.ndim == 1), 0)


def split_fc(tensors: Mapping[str, Tensor]) -> Head:
    """Returns the head in a state dict that holds only a classifier: a linear layer `fc`, perhaps with scales.

    It is empty if there is anything else in the state dict. The names are compared because the weight of a cosine
    classifier has the same shape as that of a linear layer.
    """
    parts = {"fc.weight": "weight", "fc.bias": "bias", **dict.fromkeys(SCALES, "scales")}
    head = {parts[name]: value for name, value in tensors.items() if name in parts}
    linear = len(head) == len(tensors) and "weight" in head and head["weight"].ndim == 2
    return head if linear else {}


def joint_classifier(head: Head, kind: str | None) -> tuple[tuple[Tensor, Tensor | None], tuple[str, ...]]:
    """Returns ((weight [C, D], bias [C]), notes) of a head; the bias is None for a cosine classifier.

    kind: `linear` or `cosine`, what a head without bias is; None if that is unknown. notes: what was changed, in words.

    Raises ValueError if the number of scales is not the number of classes.
    """
    if "across" in head:
        return (head["across"].T.contiguous(), None), ()
    weight, bias, notes = head["weight"], head.get("bias"), []
    if bias is None and kind == "cosine":
        return (weight, None), ()
    if bias is None:
        notes += [] if kind else [_NO_BIAS]
        bias = torch.zeros(len(weight))
    if "scales" in head:
        scales = head["scales"].flatten()
        if len(scales) != len(weight):
            raise ValueError(
                f"{counted(len(scales), 'scale')} for {counted(len(weight), 'class')}: there must be one for each"
            )
        # LWS in the paper's code scales the logits W x + b, and not only the weights, as the paper's text says.
        weight, bias = scales[:, None] * weight, scales * bias
        notes.append("the scales of LWS are folded into the classifier")
    return (weight, bias), tuple(notes)
