"""Class-balanced loss: classes weigh by the inverse of their effective number of images."""

import torch
from torch import Tensor

from fastlt.losses import focal
from fastlt.losses.base import Loss, check, sizes


def make(counts: Tensor, progress: float, beta: float = 0.9999, gamma: float = 0.0) -> Loss:
    """w_y times the focal loss with `gamma`, which is cross-entropy at 0 (Cui et al. 2019, section 4).

    The weights have mean 1 over the classes, and a batch's loss is meant to be the plain mean over its samples. In
    instance-balanced batches most samples are of large classes, whose weights are below 1: gradients are smaller there
    than by the weighted mean of torch's cross_entropy(weight=), which divides by the sum of the batch's weights. A
    class without images weighs as the smallest one that has some.
    """
    weights = class_weights(counts, beta)
    each = focal.make(counts, progress, gamma)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return weights[labels] * each(logits, labels)

    return loss


def class_weights(counts: Tensor, beta: float) -> Tensor:
    """1 / E_j scaled to mean 1, with E_j = (1 - beta^n_j) / (1 - beta) (Cui et al. 2019, proposition 1); float32 [C].

    beta = 0: all classes weigh the same; beta -> 1: they weigh 1 / n_j. Raises UserError if beta is not in [0, 1).
    """
    check(0 <= beta < 1, "beta", beta, "in [0, 1), such as 0.9999")
    weights = 1 / (1 - torch.pow(beta, sizes(counts)))
    return (weights / weights.mean()).float()
