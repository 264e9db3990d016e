"""Class-aware storage: which images are worth keeping as pixels, because class-aware sampling draws them over and over.

Under class-balanced sampling an image of class j is drawn with probability 1 / (C n_j): those of small classes so often
that decoding them anew each time is most of the work. Raw, they cost disk and no decoding.
"""

import numpy as np

from fastlt.longtail.sampler import class_probabilities


def raw_choice(labels: np.ndarray, fraction: float) -> np.ndarray:
    """bool [N]: the share `fraction` of the images that class-balanced sampling draws most often.

    All images of a class are drawn equally often, so whole classes are taken, rarest first, and of the last one only so
    many as the share allows, in the order of the source. labels: int64 [N].
    """
    counts = np.bincount(labels)
    # Rarest class first, of equal ones the first; within a class the order of the source.
    order = np.lexsort((np.arange(len(labels)), labels, counts[labels]))
    chosen = np.zeros(len(labels), bool)
    chosen[order[: round(fraction * len(labels))]] = True
    return chosen


def draws_served(labels: np.ndarray, raw: np.ndarray, law: str) -> float:
    """Share of a sampler's draws that need no decoding. labels: int64 [N]; raw: bool [N]."""
    counts = np.bincount(labels)
    share = np.bincount(labels, raw, minlength=len(counts)) / np.maximum(counts, 1)
    return float((class_probabilities(counts, law) * share).sum())
