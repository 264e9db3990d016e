"""Losses for long-tailed training: one file each, one function `make(counts, progress, **options) -> Loss`; this table
names them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fastlt.longtail.losses import (
    balanced_softmax,
    class_balanced,
    cross_entropy,
    focal,
    label_aware_smoothing,
    ldam_drw,
    logit_adjusted,
)
from fastlt.longtail.losses.base import Loss
from fastlt.registry import call_part, find_part

LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy.make,
    "focal": focal.make,
    "class_balanced": class_balanced.make,
    "ldam_drw": ldam_drw.make,
    "balanced_softmax": balanced_softmax.make,
    "logit_adjusted": logit_adjusted.make,
    "label_aware_smoothing": label_aware_smoothing.make,
}
_ON_COSINES = frozenset({"ldam_drw"})


def make_loss(name: str, counts: Tensor, progress: float = 0.0, options: Mapping[str, Any] | None = None) -> Loss:
    """A loss: logits [..., C] and labels int64 [...] to one value per sample, [...], differentiable, in float32.

    name: a key of LOSSES, or `package.module:NAME` of the user's own: a function or class that is called with counts,
    progress and options and gives such a loss; one that gives the mean of the batch will do for stage 1. counts:
    training images per class, int64 [C], on the device of the logits; classes without images are allowed. progress:
    share of the epochs that are done, in [0, 1). options: the loss's own, by name; the papers' values where none is
    given. A loss never waits for the device. Raises UserError if name, an option's name or its value is not allowed.
    """
    return call_part("loss", name, find_part("loss", name, LOSSES), options or {}, counts, progress)


def classifier_of(name: str) -> str:
    """What makes the logits of a loss: `linear`, or `cosine` where it wants cosines in [-1, 1].

    An own loss says so by an attribute `on_cosines = True`.
    """
    on_cosines = name in _ON_COSINES or getattr(find_part("loss", name, LOSSES), "on_cosines", False)
    return "cosine" if on_cosines else "linear"
