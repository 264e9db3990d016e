"""Focal loss: samples that are classified well have less weight."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.longtail.losses.base import Loss, check, entropy, full


def make(counts: Tensor, progress: float, gamma: float = 2.0, sigmoid: float = 0.0) -> Loss:
    """Returns the focal loss -(1 - p_y)^gamma log p_y (Lin et al. 2017, section 3.2).

    gamma: 0 or more; 0 is cross-entropy.
    sigmoid: 0 takes p from a softmax over the classes. 1 takes one sigmoid per class, as that paper does, and sums the
        binary focal losses over the classes. The code of LDAM-DRW has the softmax with gamma = 1, that of
        BagofTricks-LT the sigmoids.
    counts, progress: not used.
    """
    check(0 <= gamma < math.inf, "gamma", gamma, "0 or more")
    check(sigmoid in (0, 1), "sigmoid", sigmoid, "0 or 1")

    def focused(losses: Tensor) -> Tensor:
        """Returns -(1 - p)^gamma log p of values -log p."""
        # expm1 is exact for p near 1. The lower bound keeps the gradient of a power below 1 finite at p = 1.
        missing = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
        return missing**gamma * losses

    def each_class(logits: Tensor, labels: Tensor) -> Tensor:
        own = functional.one_hot(labels, logits.shape[-1]).bool()
        return focused(functional.softplus(torch.where(own, -full(logits), full(logits)))).sum(-1)

    return each_class if sigmoid else lambda logits, labels: focused(entropy(logits, labels))
