"""Folds a classifier of stage 2 into one layer, if it is linear in the features or in their directions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.stage2.classifiers import CLASSIFIERS, find_classifier
from fastlt.stage2.classifiers.base import linear_scores
from fastlt.stage2.classifiers.cosine import scores as cosine_scores
from fastlt.stage2.classifiers.ncm import middle_of


@dataclass(frozen=True)
class Head:
    """A classifier with the logits W n(x - centre) + b for features x [N, D] of the backbone.

    weight, bias: W float32 [C, D] and b float32 [C]. centre: [D]; None for 0.
    directions: whether n divides features by their norm; otherwise n does nothing.
    """

    weight: Tensor
    bias: Tensor
    directions: bool = False
    centre: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the classifier is a linear layer on the features, with which any network can end."""
        return not self.directions and self.centre is None


class HeadLayer(nn.Module):
    """A Head as a module."""

    def __init__(self, head: Head):
        super().__init__()
        self.directions = head.directions
        self.centre: Tensor | None
        self.register_buffer("centre", head.centre)
        self.linear = nn.Linear(head.weight.shape[1], len(head.weight))
        self.linear.load_state_dict({"weight": head.weight, "bias": head.bias})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits, float32 [N, C], of features [N, D]."""
        x = x if self.centre is None else x - self.centre
        return self.linear(functional.normalize(x, dim=1) if self.directions else x)


@torch.no_grad()
def fold(name: str, tensors: Mapping[str, Tensor], temperature: float = 1.0, scale: float = 1.0) -> Head:
    """Folds a fitted classifier into one layer. The softmax of its logits gives the confidences of fastlt.predict.

    name: the classifier. tensors: as its `scores` takes them; they already include tau, scales and priors.
    temperature: of its confidences. scale: what features are divided by before the classifier.

    The logits are its scores divided by the temperature. Those of nearest class means by L2 lack the squared distance
    of the feature to the middle of all means, which is the same for all classes. Raises UserError for a classifier that
    is no such layer.
    """
    kept = {key: value.double() for key, value in tensors.items()}
    scores = find_classifier(name).scores
    if "cosine" in kept:  # a joint classifier that was trained as a cosine classifier
        return _head(kept["cosine"], None, temperature, directions=True)
    if scores is cosine_scores:
        return _head(kept["weight"], None, temperature, directions=True)
    if scores is linear_scores or name == "joint":
        return _head(kept["weight"] / scale, kept.get("bias"), temperature)
    if isinstance(scores, partial) and "mean" in kept:
        return _of_means(kept, **scores.keywords, temperature=temperature, scale=scale)
    linear = [one for one, entry in CLASSIFIERS.items() if not one.startswith("mlp")]
    raise UserError(
        f"--classifier={name} is no linear layer and cannot be folded into one: allowed are {', '.join(linear)}"
    )


def _of_means(kept: dict[str, Tensor], kind: str, distance: str, temperature: float, scale: float) -> Head:
    """Folds nearest class means (stage2/classifiers/ncm.py).

    With the middle s of all means, -|z - m|^2 equals 2 z (m - s) - |m - s|^2 - 2 s (m - s) less |z - s|^2.
    """
    mean, none = kept["mean"], kept["none"]
    centre = kept["centre"] * scale if kind == "cl2n" else None
    if distance == "cosine":
        return _head(functional.normalize(mean, dim=1), none, temperature, True, centre)
    if distance == "authors_cos":
        return _head(mean / mean.shape[1], none, temperature, True, centre)
    middle = middle_of(mean, none)
    apart = mean - middle
    bias = none - apart.square().sum(1) - 2 * apart @ middle
    if kind == "un":
        return _head(2 * apart / scale, bias, temperature)
    return _head(2 * apart, bias, temperature, True, centre)


def _head(
    weight: Tensor, bias: Tensor | None, temperature: float, directions: bool = False, centre: Tensor | None = None
) -> Head:
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    weight, bias = weight / temperature, (bias / temperature).clamp_min(torch.finfo(torch.float32).min)
    return Head(weight.float(), bias.float(), directions, None if centre is None else centre.float())
