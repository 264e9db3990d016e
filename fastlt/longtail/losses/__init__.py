"""Losses for long-tailed training: one file each, one function `make(counts, progress, **options) -> Loss`; this table
names them."""

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor

from fastlt.core.errors import UserError
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


def make_loss(name: str, counts: Tensor, progress: float = 0.0, options: Mapping[str, float] | None = None) -> Loss:
    """A loss: logits [..., C] and labels int64 [...] to one value per sample, [...], differentiable, in float32.

    name: a key of LOSSES. counts: training images per class, int64 [C], on the device of the logits; classes without
    images are allowed. progress: share of the epochs that are done, in [0, 1). options: the loss's own, by name; the
    papers' values where none is given. A loss never waits for the device. Raises UserError if name, an option's name or
    its value is not allowed.
    """
    if name not in LOSSES:
        raise UserError(f"loss={name} is unknown: allowed are {', '.join(LOSSES)}")
    allowed = list(inspect.signature(LOSSES[name]).parameters)[2:]
    for option, value in (options or {}).items():
        if option not in allowed:
            raise UserError(
                f"loss_options.{option}={value} is unknown to loss={name}: allowed are {', '.join(allowed) or 'none'}"
            )
    return LOSSES[name](counts, progress, **(options or {}))


def classifier_of(name: str) -> str:
    """What makes the logits of a loss: `linear`, or `cosine` where it wants cosines in [-1, 1]."""
    return "cosine" if name in _ON_COSINES else "linear"
