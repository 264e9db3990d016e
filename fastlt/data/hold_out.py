"""Holds out training images on which hyperparameters are chosen."""

from itertools import pairwise

import numpy as np

from fastlt.core.errors import UserError
from fastlt.longtail.whole_groups import divide_groups


def hold_out(
    class_start: np.ndarray, members: np.ndarray, share: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divides the training samples of every class; returns (ids kept for training, ids held out), int64 in class order.

    class_start: int64 [C + 1]. members: int64 [N]. Class j has the samples members[class_start[j]:class_start[j + 1]].
    share: the share of each class to hold out, in [0, 1). It is rounded, but a class of three or more samples gives at
    least one, and no class gives its last one. 0 holds out nothing.
    seed: which samples are held out is a function of it and of the class.
    groups: int64 [N], the group of each sample id, from 0 to G - 1, such as its patient. With them, whole groups are
        held out, the shares of classes are met as nearly as groups allow, and each class keeps its largest group.

    Raises UserError if `share` is out of range, or greater than 0 and holds out nothing.

    Example:

        >>> kept, held = hold_out(np.array([0, 4, 6]), np.arange(6), share=0.5, seed=0)
        >>> len(kept), len(held)
        (3, 3)
    """
    if not 0 <= share < 1:
        raise UserError(f"hold_out={share}: it must be in [0, 1)")
    if share and groups is not None:
        labels = np.repeat(np.arange(len(class_start) - 1), np.diff(class_start))
        draws = np.random.default_rng([seed, len(labels)]).random(groups.max() + 1)
        out = divide_groups(labels, groups[members], (1 - share, share), draws, every_class_first=True) == 1
        if not out.any():
            raise UserError(f"hold_out={share}: no group of training images can be spared: leave it out, or give more")
        return members[~out], members[out]
    kept, held = [], []
    for j, (a, b) in enumerate(pairwise(class_start)):
        size = b - a
        count = min(max(round(share * size), int(size >= 3)), size - 1) if share else 0
        order = np.random.default_rng([seed, j]).permutation(members[a:b])
        held.append(np.sort(order[:count]))
        kept.append(np.sort(order[count:]))
    if share and not sum(map(len, held)):
        raise UserError(
            f"hold_out={share}: no class has enough training images to spare one: leave it out, or give a larger share"
        )
    return np.concatenate(kept), np.concatenate(held)
