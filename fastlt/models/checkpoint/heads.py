"""Where a state dict keeps its last linear layer, and what that is: linear, scaled by LWS, or compared by cosine."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

Head = Mapping[str, Tensor]  # `weight` [C, D] (or `across` [D, C]), perhaps `bias` [C] and `scales` [C]
HEADS = ("fc", "linear", "head.fc", "classifier.fc", "classifier", "head")  # usual names of the last linear layer
SCALES = ("scales", "learned_norm")  # of LWS, one for each class
_NO_BIAS = "the classifier has no bias: 0 is taken; if it compares by cosine, import it with --classifier cosine"


def split_head(tensors: Mapping[str, Tensor], own: Collection[str] = ()) -> tuple[dict[str, Tensor], Head]:
    """(tensors of the backbone, its head; an empty one if there is none).

    own: names that belong to the backbone even if they look like a classifier's. A head of another name than the usual
    ones is found where it is the last layer of the file.
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
            return rest, {"across": weight}  # LDAM-DRW's classifier of cosines
        return rest, {part: tensors[place] for place, part in places.items() if place in tensors}
    return dict(tensors), {}


def _length(backbone: Mapping[str, Tensor]) -> int:
    """Length of the features of a network that ends in a batch norm."""
    return next((len(value) for value in reversed(list(backbone.values())) if value.ndim == 1), 0)


def split_fc(tensors: Mapping[str, Tensor]) -> Head:
    """The head that is kept in a state dict of its own: `fc`, perhaps with scales; an empty one if it is no such layer.

    Not just any weight: that of a cosine classifier looks the same but for its name.
    """
    parts = {"fc.weight": "weight", "fc.bias": "bias", **dict.fromkeys(SCALES, "scales")}
    head = {parts[name]: value for name, value in tensors.items() if name in parts}
    linear = len(head) == len(tensors) and "weight" in head and head["weight"].ndim == 2
    return head if linear else {}


def joint_classifier(head: Head, kind: str | None = None) -> tuple[tuple[Tensor, Tensor | None], tuple[str, ...]]:
    """((weight [C, D], bias [C]), notes); no bias where the classifier compares by cosine.

    kind: what a head without bias is, `linear` or `cosine`; None where nobody said it. Raises ValueError if there is
    another number of scales than of classes.
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
            raise ValueError(f"{len(scales)} scales for {len(weight)} classes: there must be one for each")
        # The authors' LWS scales the logits, factor * (W x + b), not the weights alone as the paper's text says.
        weight, bias = scales[:, None] * weight, scales * bias
        notes.append("the scales of LWS are folded into the classifier")
    return (weight, bias), tuple(notes)
