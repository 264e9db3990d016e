"""Class-balanced loss: each class is weighted by the inverse of its effective number of images."""

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
    """Returns the focal loss times the weight w_y of the sample's class (Cui et al. 2019, section 4).

    beta: of the weights, see `class_weights`; they have mean 1 over the classes.
    gamma, sigmoid: of the focal loss; with both at 0 it is cross-entropy.
    weighted_mean: 0 or 1, as in `weights_of`. The code of LDAM-DRW, and that of BagofTricks-LT for its weighted
        cross-entropy, corresponds to 1; BagofTricks-LT's weighted focal loss corresponds to sigmoid = 1 and 0 here.
    progress: not used.

    A class without images has the weight of the smallest class that has some.
    """
    weigh = weights_of(class_weights(counts, beta), weighted_mean)
    each = focal.make(counts, progress, gamma, sigmoid)
    return lambda logits, labels: weigh(labels) * each(logits, labels)


def weights_of(weights: Tensor, weighted_mean: float) -> Callable[[Tensor], Tensor]:
    """Returns a function from labels int64 [..., N] to the weights of these samples, [..., N].

    weights: of the classes, float32 [C].
    weighted_mean: 0 takes the weights as they are, so that the loss of a batch is the plain mean of weighted losses. In
        instance-balanced batches most samples are of large classes, whose weights are below 1, so gradients are small.
        1 divides the weights by their mean over the N samples of the batch (of each rank, and of each part of an
        accumulated batch), as torch's cross_entropy(weight=) does: on CIFAR-100-LT with imbalance 100, gradients are
        4.9 times as large.
    """
    check(weighted_mean in (0, 1), "weighted_mean", weighted_mean, "0 or 1")
    if not weighted_mean:
        return lambda labels: weights[labels]
    return lambda labels: weights[labels] / weights[labels].mean(-1, keepdim=labels.ndim > 0)


def class_weights(counts: Tensor, beta: float) -> Tensor:
    """Returns class weights 1 / E_j, scaled to mean 1, float32 [C], with E_j = (1 - beta^n_j) / (1 - beta).

    E_j is the effective number of images of class j (Cui et al. 2019, proposition 1).

    counts: n, training images of each class, int64 [C].
    beta: in [0, 1). With 0 all weights are equal; towards 1 they approach 1 / n_j.
    """
    check(0 <= beta < 1, "beta", beta, "in [0, 1), such as 0.9999")
    weights = 1 / (1 - torch.pow(beta, sizes(counts)))
    return (weights / weights.mean()).float()
