"""LDAM: label-distribution-aware margins, which are larger for rarer classes."""

import math

import torch
from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, entropy, full, sizes


def make(counts: Tensor, progress: float, max_margin: float = 0.5, scale: float = 30.0) -> Loss:
    """Returns the cross-entropy of scale * z', where z' is z with m_y subtracted at the sample's class y.

    (Cao et al. 2019, equations 12 and 13.) The logits z are cosines in [-1, 1], of a CosineClassifier.

    max_margin: margin of the smallest class; the margins m_j are proportional to n_j^(-1/4).
    scale: factor on the cosines.
    progress: not used.

    A class without images has the margin of the smallest class that has some.
    """
    check(0 <= max_margin < math.inf, "max_margin", max_margin, "0 or more")
    check(0 < scale < math.inf, "scale", scale, "greater than 0")
    n = sizes(counts)
    margins = (max_margin * (n / n.min()) ** -0.25).float()
    classes = torch.arange(len(counts), device=counts.device)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        own = classes == labels[..., None]
        return entropy(scale * (full(logits) - margins * own), labels)

    return loss
