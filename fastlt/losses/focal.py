"""Focal loss: samples that are classified well count less."""

import math

import torch
from torch import Tensor

from fastlt.losses.base import Loss, check, entropy


def make(counts: Tensor, progress: float, gamma: float = 2.0) -> Loss:
    """-(1 - p_y)^gamma log p_y (Lin et al. 2017, section 3.2), p of a softmax over the classes where theirs is of a
    sigmoid for each. gamma = 0 is cross-entropy. Class sizes do not matter."""
    check(0 <= gamma < math.inf, "gamma", gamma, "0 or more")

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        losses = entropy(logits, labels)
        # Exact for p near 1. The bound is for gradients: a power below 1 has none at 0, where the loss is 0 anyway.
        missing = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
        return missing**gamma * losses

    return loss
