"""Many, medium and few: the groups of classes by their number of training images."""

import numpy as np

GROUPS = ("many", "medium", "few")
MANY, FEW = 100, 20  # many has more than 100 training images, few has less than 20


def class_groups(counts: np.ndarray) -> np.ndarray:
    """Group of every class, int8 [C]: 0 many, 1 medium, 2 few. counts: [C] training images per class."""
    return np.where(counts > MANY, 0, np.where(counts < FEW, 2, 1)).astype(np.int8)


def group_sizes(counts: np.ndarray) -> dict[str, int]:
    """Number of classes in each group."""
    return dict(zip(GROUPS, np.bincount(class_groups(counts), minlength=3).tolist(), strict=True))
