"""LDAM-DRW: label-distribution-aware margins, and late in a training weights."""

import math

import torch
from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, entropy, full, sizes
from fastlt.longtail.losses.class_balanced import class_weights, weights_of


def make(
    counts: Tensor,
    progress: float,
    max_margin: float = 0.5,
    scale: float = 30.0,
    beta: float = 0.9999,
    drw_from: float = 0.8,
    weighted_mean: float = 0.0,
) -> Loss:
    """w_y times the cross-entropy of scale * (z - m_y on the sample's class) (Cao et al. 2019, equations 12 and 13).

    z: cosines in [-1, 1], of a CosineClassifier. m_j is proportional to n_j^(-1/4), and max_margin for the smallest
    class. Deferred re-weighting (their algorithm 1): w = 1 until `progress`, the share of the epochs that are done, is
    drw_from; from then on the weights of `class_weights` with beta. weighted_mean: as in `weights_of`; the authors'
    code has 1. A class without images has the margin and the weight of the smallest one that has some.
    """
    check(0 <= max_margin < math.inf, "max_margin", max_margin, "0 or more")
    check(0 < scale < math.inf, "scale", scale, "greater than 0")
    check(0 <= drw_from <= 1, "drw_from", drw_from, "in [0, 1]; 1 is never")
    weights = class_weights(counts, beta)
    if progress < drw_from:
        weights = torch.ones_like(weights)
    weigh = weights_of(weights, weighted_mean)
    n = sizes(counts)
    margins = (max_margin * (n / n.min()) ** -0.25).float()
    classes = torch.arange(len(counts), device=counts.device)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        own = classes == labels[..., None]
        return weigh(labels) * entropy(scale * (full(logits) - margins * own), labels)

    return loss
