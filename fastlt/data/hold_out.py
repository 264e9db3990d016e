"""Training images kept apart, to choose hyper-parameters on."""

from itertools import pairwise

import numpy as np

from fastlt.core.errors import UserError


def hold_out(class_start: np.ndarray, members: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the samples of every class: (kept for training, held out), int64 ids in class order.

    share: of each class, rounded, but at least one image of a class of three or more, and never the last of a class.
    class_start, members: as in the index.
    """
    if not 0 <= share < 1:
        raise UserError(f"hold_out={share}: it must be in [0, 1)")
    kept, held = [], []
    for j, (a, b) in enumerate(pairwise(class_start)):
        size = b - a
        count = min(max(round(share * size), int(size >= 3)), size - 1) if share else 0
        order = np.random.default_rng([seed, j]).permutation(members[a:b])
        held.append(np.sort(order[:count]))
        kept.append(np.sort(order[count:]))
    return np.concatenate(kept), np.concatenate(held)
