"""LDAM-DRW: label-distribution-aware margins, with deferred re-weighting of the classes late in the training."""

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
    """Returns w_y times the cross-entropy of scale * z', where z' is z with m_y subtracted at the sample's class y.

    (Cao et al. 2019, equations 12 and 13.) The logits z are cosines in [-1, 1], of a CosineClassifier.

    max_margin: margin of the smallest class; the margins m_j are proportional to n_j^(-1/4).
    scale: factor on the cosines.
    drw_from: share of the epochs after which classes are re-weighted (their algorithm 1). While `progress` is below it,
        w = 1; from then on w is `class_weights` with `beta`. 1 never re-weights.
    weighted_mean: 0 or 1, as in `weights_of`; the code of that paper corresponds to 1.

    A class without images has the margin and the weight of the smallest class that has some.
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
