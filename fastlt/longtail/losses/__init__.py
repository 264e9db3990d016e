"""Losses for long-tailed training.

Each loss is a file with a function `make(counts, progress, **options)` that returns the loss, and a row of the table
LOSSES here.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from fastlt.core.checks import number
from fastlt.core.errors import UserError
from fastlt.longtail.losses import (
    balanced_softmax,
    class_balanced,
    cross_entropy,
    focal,
    label_aware_smoothing,
    ldam,
    ldam_drw,
    logit_adjusted,
)
from fastlt.longtail.losses.base import Loss
from fastlt.registry import call_part, check_options, find_part

LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy.make,
    "focal": focal.make,
    "class_balanced": class_balanced.make,
    "ldam": ldam.make,
    "ldam_drw": ldam_drw.make,
    "balanced_softmax": balanced_softmax.make,
    "logit_adjusted": logit_adjusted.make,
    "label_aware_smoothing": label_aware_smoothing.make,
}
_ON_COSINES = frozenset({"ldam", "ldam_drw"})
REWEIGHTED = frozenset({"class_balanced", "ldam_drw"})  # losses that weight the classes themselves


def make_loss(name: str, counts: Tensor, progress: float = 0.0, options: Mapping[str, Any] | None = None) -> Loss:
    """Returns a loss: a function from logits [..., C] and labels int64 [...] to one float32 value per sample, [...].

    name: a key of LOSSES, or `package.module:NAME` of your own. NAME(counts, progress, **options) returns the loss; for
        stage 1 it may be a loss that returns the mean of the batch.
    counts: training images of each class, int64 [C], on the device of the logits. Classes without images are allowed.
    progress: share of the epochs that are done, in [0, 1).
    options: keyword arguments of the loss; the defaults are the values of its paper.

    A loss never synchronizes with the GPU. Raises UserError for an unknown name, for an option that is unknown or has a
    value that is not allowed, and for an own loss with parameters to train.

    >>> import torch
    >>> loss = make_loss("focal", torch.tensor([90, 10]), options={"gamma": 1.0})
    >>> loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))  # -(1 - p) log p at p = 1/2
    tensor([0.3466, 0.3466, 0.3466])
    """
    part = find_part("loss", name, LOSSES)
    if name in LOSSES:
        check_options("loss", name, part, options or {}, 2)
        for option, value in (options or {}).items():
            number(f"loss_options.{option}", value)
    made = call_part("loss", name, part, options or {}, counts.clone(), progress)  # an own loss may change its counts
    if not callable(made):
        raise UserError(f"loss={name} gives a {type(made).__name__}: it must give a function of logits and labels")
    if isinstance(made, nn.Module) and any(one.requires_grad for one in made.parameters()):
        raise UserError(
            f"loss={name} has parameters, and only those of the network are trained: put them into a backbone of your "
            "own, or let them be buffers"
        )
    return cast(Loss, made)


def classifier_of(name: str) -> str:
    """Returns the kind of classifier that computes the logits for a loss: `linear` or `cosine`.

    It is `cosine`, with logits in [-1, 1], for ldam, ldam_drw and an own loss with an attribute `on_cosines = True`.
    """
    on_cosines = name in _ON_COSINES or getattr(find_part("loss", name, LOSSES), "on_cosines", False)
    return "cosine" if on_cosines else "linear"


def on_features(name: str) -> bool:
    """Returns whether a loss takes features as a third argument: an own one with an attribute `on_features = True`."""
    return bool(getattr(find_part("loss", name, LOSSES), "on_features", False))
