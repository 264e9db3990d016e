"""Label-aware smoothing: cross-entropy whose label smoothing grows with the size of the class."""

import math

from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, full, sizes


def make(counts: Tensor, progress: float, smoothing_head: float = 0.3, smoothing_tail: float = 0.0) -> Loss:
    """Returns the loss -sum_c q_c log p_c (Zhong et al. 2021, section 3.2), p the softmax of the logits.

    The target q is 1 - eps_y for the sample's class y and eps_y / (C - 1) for every other class, where eps_y rises from
    `smoothing_tail` in the smallest class to `smoothing_head` in the largest:

    eps_y = tail + (head - tail) sin(pi (n_y - n_min) / (2 (n_max - n_min)))

    If all classes have the same size, eps_y is smoothing_tail. A class without images is smoothed as the smallest class
    that has some. progress: not used.

    That paper's code spreads eps_y over all C classes, including the sample's own, which gives (C - 1) / C of the
    smoothing here. It uses head 0.4 and tail 0.1 on CIFAR-100-LT (imbalance 100) and Places-LT, and 0.3 and 0 on
    ImageNet-LT, iNaturalist 2018 and CIFAR-10-LT (imbalance 100).
    """
    check(0 <= smoothing_head < 1, "smoothing_head", smoothing_head, "in [0, 1)")
    must = f"from 0 to smoothing_head={smoothing_head}"
    check(0 <= smoothing_tail <= smoothing_head, "smoothing_tail", smoothing_tail, must)
    n = sizes(counts)
    place = (n - n.min()) / (n.max() - n.min()).clamp_min(1)
    softness = (smoothing_tail + (smoothing_head - smoothing_tail) * (math.pi / 2 * place).sin()).float()
    others = max(len(counts) - 1, 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        surprise = -full(logits).log_softmax(-1)
        own = surprise.gather(-1, labels[..., None])[..., 0]
        eps = softness[labels]
        return (1 - eps) * own + eps / others * (surprise.sum(-1) - own)

    return loss
