"""Class-balanced loss: each class is weighted by the inverse of its effective number of images."""

from torch import Tensor

from fastlt.longtail.losses import focal
from fastlt.longtail.losses.base import Loss, check
from fastlt.longtail.losses.reweighting import Reweighting


def make(
    counts: Tensor,
    progress: float,
    beta: float = 0.9999,
    gamma: float = 0.0,
    sigmoid: float = 0.0,
    weighted_mean: float = 0.0,
) -> Loss:
    """Returns the focal loss times the weight w_y of the sample's class (Cui et al. 2019, section 4).

    beta: of the weights, as in Reweighting; they have mean 1 over the classes.
    gamma, sigmoid: of the focal loss; with both at 0 it is cross-entropy.
    weighted_mean: 0 or 1, as in `weights_of`. The code of LDAM-DRW, and that of BagofTricks-LT for its weighted
        cross-entropy, corresponds to 1; BagofTricks-LT's weighted focal loss corresponds to sigmoid = 1 and 0 here.
    progress: not used.

    A class without images has the weight of the smallest class that has some.
    """
    each = focal.make(counts, progress, gamma, sigmoid)
    return effective_number(0.0, beta, weighted_mean).of_loss(each, counts, progress)


def effective_number(after: float, beta: float, weighted_mean: float) -> Reweighting:
    """Returns the Reweighting that options of a loss ask for. weighted_mean: 0 or 1. The rest as in Reweighting."""
    check(0 <= beta < 1, "beta", beta, "in [0, 1), such as 0.9999")
    check(weighted_mean in (0, 1), "weighted_mean", weighted_mean, "0 or 1")
    return Reweighting(weights="effective_number", after=after, beta=beta, weighted_mean=bool(weighted_mean))
