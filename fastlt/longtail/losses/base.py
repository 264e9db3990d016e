"""What all losses share: their form, the sizes of classes, checks of options."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.errors import UserError

# logits [..., C], labels int64 [...] -> one loss per sample [...], float32 (float64 for logits in float64)
Loss = Callable[[Tensor, Tensor], Tensor]


def entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of every sample, a share `smoothing` of its target spread evenly over all classes.

    logits: [..., C]. labels: int64 [...]. Returns [...].
    """
    flat = full(logits).reshape(-1, logits.shape[-1])
    losses = functional.cross_entropy(flat, labels.reshape(-1), reduction="none", label_smoothing=smoothing)
    return losses.reshape(labels.shape)


def full(logits: Tensor) -> Tensor:
    """Logits of half precision as float32; others as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def sizes(counts: Tensor) -> Tensor:
    """Images per class as float64 [C], all above 0: a class without images counts as the smallest one that has some."""
    present = torch.where(counts > 0, counts, counts.max())
    return torch.maximum(counts, present.min().clamp_min(1)).double()


def check(allowed: bool, option: str, value: float, must: str) -> None:
    """Raises UserError, which says what `option` must be, if `value` is not allowed."""
    if not allowed:
        raise UserError(f"loss_options.{option}={value}: it must be {must}")
