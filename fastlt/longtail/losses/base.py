"""The type of a loss, and helpers that all losses share."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.errors import UserError

# A loss: logits [..., C], labels int64 [...] -> one value per sample [...], float32 (float64 for float64 logits).
# One of your own that is `on_features` gets features [..., D] as a third argument.
Loss = Callable[..., Tensor]


def entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Returns the cross-entropy of every sample, [...].

    logits: [..., C]. labels: int64 [...]. smoothing: share of the target that is spread evenly over all C classes.
    """
    flat = full(logits).reshape(-1, logits.shape[-1])
    losses = functional.cross_entropy(flat, labels.reshape(-1), reduction="none", label_smoothing=smoothing)
    return losses.reshape(labels.shape)


def full(logits: Tensor) -> Tensor:
    """Returns logits as float32, except that float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def sizes(counts: Tensor) -> Tensor:
    """Returns counts [C] as float64 [C] greater than 0: a class without images gets the smallest positive count."""
    present = torch.where(counts > 0, counts, counts.max())
    return torch.maximum(counts, present.min().clamp_min(1)).double()


def check(allowed: bool, option: str, value: float, must: str) -> None:
    """Raises UserError unless `allowed`. option, value: of the loss. must: what the value must be, in words."""
    if not allowed:
        raise UserError(f"loss_options.{option}={value}: it must be {must}")
