"""Balanced softmax: the softmax of a training on n_j images of class j."""

from torch import Tensor

from fastlt.longtail.losses import logit_adjusted
from fastlt.longtail.losses.base import Loss


def make(counts: Tensor, progress: float) -> Loss:
    """Cross-entropy of z + log n (Ren et al. 2020, section 3): the logit-adjusted loss with tau = 1, for a constant in
    all logits changes nothing. A class without images counts as the smallest one that has some."""
    return logit_adjusted.make(counts, progress, tau=1.0)
