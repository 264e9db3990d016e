"""Cross-entropy, perhaps with label smoothing: the loss that all others are measured against."""

from functools import partial

from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, entropy


def make(counts: Tensor, progress: float, smoothing: float = 0.0) -> Loss:
    """-sum_c q_c log p_c with q = 1 - smoothing on the sample's class and smoothing / C spread over all classes
    (Szegedy et al. 2016, section 7). Class sizes do not matter."""
    check(0 <= smoothing < 1, "smoothing", smoothing, "in [0, 1)")
    return partial(entropy, smoothing=smoothing)
