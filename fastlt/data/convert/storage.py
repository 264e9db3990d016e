"""Class-aware storage: chooses the images that are stored as raw pixels.

Class-balanced sampling draws an image of class j with probability 1 / (C n_j). Images of small classes are drawn so
often that decoding them each time is most of the work. Stored as raw pixels they take more disk but no decoding.
"""

import numpy as np

from fastlt.longtail.sampler import class_probabilities


def raw_choice(labels: np.ndarray, fraction: float, counts: np.ndarray | None = None) -> np.ndarray:
    """Chooses the images that class-balanced sampling draws most often; returns bool [N].

    labels: int64 [N]. fraction: the share of the images to choose.
    counts: images of each class, int64 [C], if there are more than these N.

    All images of a class are drawn equally often. Classes are therefore taken whole, the rarest first; of the last one
    only as many images as the share allows, in the order of the source.

    Example:

        >>> raw_choice(np.array([0, 0, 0, 1, 1, 2]), 0.5).tolist()
        [False, False, False, True, True, True]
    """
    counts = np.bincount(labels) if counts is None else counts
    # The rarest class first, of equally rare ones that with the lower index; within a class the order of the source.
    order = np.lexsort((np.arange(len(labels)), labels, counts[labels]))
    chosen = np.zeros(len(labels), bool)
    chosen[order[: round(fraction * len(labels))]] = True
    return chosen


def draws_served(labels: np.ndarray, raw: np.ndarray, law: str) -> float:
    """Returns the share of a sampler's draws that need no decoding, 0 to 1.

    labels: int64 [N]. raw: bool [N], the images stored as raw pixels. law: the name of the sampler, such as `class`.
    """
    counts = np.bincount(labels)
    share = np.bincount(labels, raw, minlength=len(counts)) / np.maximum(counts, 1)
    return float((class_probabilities(counts, law) * share).sum())
