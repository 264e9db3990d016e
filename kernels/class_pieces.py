"""Rows in class order, cut into pieces that threads or blocks take: where, depends on the counts alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pieces:
    """The rows in class order, cut at the ends of classes and into at most `size` rows. Depends on the counts only.

    Of piece i: labels[i], its rows begins[i]..stops[i]. multiple: the classes of several pieces, whose partial sums are
    to be joined: class multiple[k] has the parts slots[k]..slots[k + 1], and part[i] is that of piece i, else -1.
    """

    labels: NDArray[np.int64]
    begins: NDArray[np.int64]
    stops: NDArray[np.int64]
    part: NDArray[np.int64]
    multiple: NDArray[np.int64]
    slots: NDArray[np.int64]


def cut(counts: NDArray[np.int64], size: int) -> Pieces:
    """Pieces of at most `size` rows of classes with so many rows, int64 [C]."""
    ends = np.cumsum(counts)
    number = -(-counts // size)
    labels = np.repeat(np.arange(counts.size), number)
    within = np.arange(labels.size) - np.repeat(np.cumsum(number) - number, number)
    begins = (ends - counts)[labels] + within * size
    multiple = np.flatnonzero(number > 1)
    slots = np.concatenate([[0], np.cumsum(number[multiple])])
    part = np.full(labels.size, -1)
    part[number[labels] > 1] = np.arange(slots[-1])
    return Pieces(labels, begins, np.minimum(begins + size, ends[labels]), part, multiple, slots)
