"""LDAM-DRW: LDAM, with deferred re-weighting of the classes late in the training."""

from torch import Tensor

from fastlt.longtail.losses import ldam
from fastlt.longtail.losses.base import Loss, check
from fastlt.longtail.losses.class_balanced import effective_number


def make(
    counts: Tensor,
    progress: float,
    max_margin: float = 0.5,
    scale: float = 30.0,
    beta: float = 0.9999,
    drw_from: float = 0.8,
    weighted_mean: float = 0.0,
) -> Loss:
    """Returns w_y times LDAM's loss (Cao et al. 2019, algorithm 1).

    max_margin, scale: of LDAM.
    drw_from: share of the epochs after which classes are re-weighted. While `progress` is below it, w = 1; from then on
        w are the weights by effective number of a Reweighting with `beta`. 1 never re-weights.
    weighted_mean: 0 or 1, as in `weights_of`; the code of that paper corresponds to 1.

    A class without images has the margin and the weight of the smallest class that has some.
    """
    check(0 <= drw_from <= 1, "drw_from", drw_from, "in [0, 1]; 1 is never")
    each = ldam.make(counts, progress, max_margin, scale)
    return effective_number(drw_from, beta, weighted_mean).of_loss(each, counts, progress)
