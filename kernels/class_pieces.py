"""Cuts rows in class order into pieces of work for threads or GPU blocks. The cuts depend on the class counts only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pieces:
    """The rows in class order, cut where a class ends and after at most `size` rows.

    labels: the class of each piece.
    begins, stops: piece i consists of the rows begins[i] to stops[i] - 1.
    multiple: the classes that were cut into several pieces, whose partial sums must be joined.
    slots: class multiple[k] has the partial sums numbered slots[k] to slots[k + 1] - 1.
    part: the number of each piece's partial sum, or -1 if the piece is a whole class.
    """

    labels: NDArray[np.int64]
    begins: NDArray[np.int64]
    stops: NDArray[np.int64]
    part: NDArray[np.int64]
    multiple: NDArray[np.int64]
    slots: NDArray[np.int64]


def cut(counts: NDArray[np.int64], size: int) -> Pieces:
    """Cuts classes with `counts` rows, int64 [C], into pieces of at most `size` rows."""
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
