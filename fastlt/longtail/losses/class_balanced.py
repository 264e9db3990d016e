"""Class-balanced loss: classes weigh by the inverse of their effective number of images."""

from collections.abc import Callable

import torch
from torch import Tensor

from fastlt.longtail.losses import focal
from fastlt.longtail.losses.base import Loss, check, sizes


def make(
    counts: Tensor,
    progress: float,
    beta: float = 0.9999,
    gamma: float = 0.0,
    sigmoid: float = 0.0,
    weighted_mean: float = 0.0,
) -> Loss:
    """w_y times the focal loss with `gamma` and `sigmoid`, which is cross-entropy at 0 (Cui et al. 2019, section 4).

    The weights have mean 1 over the classes. weighted_mean: as in `weights_of`; the codes of LDAM-DRW and of
    BagofTricks-LT have 1 for their weighted cross-entropy, that of BagofTricks-LT sigmoid = 1 and 0 for its weighted
    focal loss. A class without images weighs as the smallest one that has some.
    """
    weigh = weights_of(class_weights(counts, beta), weighted_mean)
    each = focal.make(counts, progress, gamma, sigmoid)
    return lambda logits, labels: weigh(labels) * each(logits, labels)


def weights_of(weights: Tensor, weighted_mean: float) -> Callable[[Tensor], Tensor]:
    """A function from labels int64 [..., N] to the weights of these samples, [..., N].

    weights: float32 [C]. weighted_mean = 0: as they are, so that the loss of a batch is the plain mean of weighted
    losses. In instance-balanced batches most samples are of large classes, whose weights are below 1, and gradients are
    small. 1: divided by their mean over the N samples of the batch (of each rank, and of each part of an accumulated
    batch), which is torch's cross_entropy(weight=): on CIFAR-100-LT, imbalance 100, gradients are 4.9 times as large.
    """
    check(weighted_mean in (0, 1), "weighted_mean", weighted_mean, "0 or 1")
    if not weighted_mean:
        return lambda labels: weights[labels]
    return lambda labels: weights[labels] / weights[labels].mean(-1, keepdim=labels.ndim > 0)


def class_weights(counts: Tensor, beta: float) -> Tensor:
    """1 / E_j scaled to mean 1, with E_j = (1 - beta^n_j) / (1 - beta) (Cui et al. 2019, proposition 1); float32 [C].

    beta = 0: all classes weigh the same; beta -> 1: they weigh 1 / n_j. Raises UserError if beta is not in [0, 1).
    """
    check(0 <= beta < 1, "beta", beta, "in [0, 1), such as 0.9999")
    weights = 1 / (1 - torch.pow(beta, sizes(counts)))
    return (weights / weights.mean()).float()
