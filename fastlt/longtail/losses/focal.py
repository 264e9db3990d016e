"""Focal loss: samples that are classified well count less."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.longtail.losses.base import Loss, check, entropy, full


def make(counts: Tensor, progress: float, gamma: float = 2.0, sigmoid: float = 0.0) -> Loss:
    """-(1 - p_y)^gamma log p_y (Lin et al. 2017, section 3.2), p of a softmax over the classes. gamma = 0 is
    cross-entropy. Class sizes do not matter.

    sigmoid = 1: p of a sigmoid for each class, as in the paper, and the sum over the classes of the focal loss of "is
    of this class or not". LDAM-DRW's code has the softmax and gamma 1, that of BagofTricks-LT the sigmoids.
    """
    check(0 <= gamma < math.inf, "gamma", gamma, "0 or more")
    check(sigmoid in (0, 1), "sigmoid", sigmoid, "0 or 1")

    def focused(losses: Tensor) -> Tensor:
        """(1 - p)^gamma -log p, of values -log p."""
        # Exact for p near 1. The bound is for gradients: a power below 1 has none at 0, where the loss is 0 anyway.
        missing = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
        return missing**gamma * losses

    def each_class(logits: Tensor, labels: Tensor) -> Tensor:
        own = functional.one_hot(labels, logits.shape[-1]).bool()
        return focused(functional.softplus(torch.where(own, -full(logits), full(logits)))).sum(-1)

    return each_class if sigmoid else lambda logits, labels: focused(entropy(logits, labels))
