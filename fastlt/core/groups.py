"""The groups many, medium and few: classes by their number of training images."""

import numpy as np

GROUPS = ("many", "medium", "few")
MANY, FEW = 100, 20  # a class of many has more than 100 training images, one of few has fewer than 20


def class_groups(counts: np.ndarray) -> np.ndarray:
    """Returns the group of every class, int8 [C]: 0 many (over 100 images), 1 medium (20 to 100), 2 few (under 20).

    counts: training images of each class, [C].

    >>> class_groups(np.array([500, 100, 20, 5])).tolist()
    [0, 1, 1, 2]
    """
    return np.where(counts > MANY, 0, np.where(counts < FEW, 2, 1)).astype(np.int8)


def group_sizes(counts: np.ndarray) -> dict[str, int]:
    """Returns the number of classes in each group.

    >>> group_sizes(np.array([500, 100, 20, 5]))
    {'many': 1, 'medium': 2, 'few': 1}
    """
    return dict(zip(GROUPS, np.bincount(class_groups(counts), minlength=3).tolist(), strict=True))
