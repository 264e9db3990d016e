"""Logit-adjusted loss: the prior of the classes is part of the model in training, and left out behind it."""

import math

from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, entropy, full, sizes


def make(counts: Tensor, progress: float, tau: float = 1.0) -> Loss:
    """Cross-entropy of z + tau log p (Menon et al. 2021, equation 10), p_j = n_j / N the share of class j among the
    training images. A class without images has the share of the smallest one that has some."""
    check(0 <= tau < math.inf, "tau", tau, "0 or more")
    n = sizes(counts)
    prior = (tau * (n / n.sum()).log()).float()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return entropy(full(logits) + prior, labels)

    return loss
