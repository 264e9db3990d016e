"""Cross-entropy, optionally with label smoothing: the baseline of all other losses."""

from functools import partial

from torch import Tensor

from fastlt.longtail.losses.base import Loss, check, entropy


def make(counts: Tensor, progress: float, smoothing: float = 0.0) -> Loss:
    """Returns the cross-entropy -sum_c q_c log p_c, p the softmax of the logits.

    smoothing: share of the target that is spread evenly over all C classes, in [0, 1) (Szegedy et al. 2016, section 7):
        q_c = smoothing / C for each class, plus 1 - smoothing for the sample's own.
    counts, progress: not used.
    """
    check(0 <= smoothing < 1, "smoothing", smoothing, "in [0, 1)")
    return partial(entropy, smoothing=smoothing)
