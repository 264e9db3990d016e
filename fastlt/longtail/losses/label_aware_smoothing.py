"""Label-aware smoothing: the larger a class, the softer its targets."""

import math

from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, full, sizes


def make(counts: Tensor, progress: float, smoothing_head: float = 0.3, smoothing_tail: float = 0.0) -> Loss:
    """-sum_c q_c log p_c with q = 1 - eps_y on the sample's class and eps_y / (C - 1) on every other (Zhong et al.
    2021, section 3.2), eps_y from smoothing_tail in the smallest class to smoothing_head in the largest, concave:

    eps_y = tail + (head - tail) sin(pi (n_y - n_min) / (2 (n_max - n_min)))

    Where all classes are of one size, each is the smallest: eps = smoothing_tail. A class without images is smoothed as
    the smallest one that has some. The authors' code spreads eps_y over all C classes, the sample's own included, which
    is (C - 1) / C of our smoothing. Theirs are 0.4 and 0.1 on CIFAR-100-LT with imbalance 100 and on Places-LT, 0.3 and
    0 on ImageNet-LT, iNaturalist 2018 and CIFAR-10-LT with imbalance 100.
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
