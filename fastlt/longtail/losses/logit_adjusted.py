"""Logit-adjusted loss: the log prior of the classes is added to the logits in training, but not in prediction."""

import math

from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, entropy, full, sizes


def make(counts: Tensor, progress: float, tau: float = 1.0) -> Loss:
    """Returns the cross-entropy of z + tau log p (Menon et al. 2021, equation 10), z the logits.

    p_j = n_j / N is the share of class j among the training images; a class without images gets the share of the
    smallest class that has some. tau: 0 or more. progress: not used.
    """
    check(0 <= tau < math.inf, "tau", tau, "0 or more")
    n = sizes(counts)
    prior = (tau * (n / n.sum()).log()).float()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return entropy(full(logits) + prior, labels)

    return loss
