"""Class means on the CPU: the compiled loops of `class_mean`.

Rows come as float32, or as the bits of a 16-bit float: uint16 is float16, int16 is bfloat16 (see arrays.py).

The mean of all rows is one read of them, front to back. The second read, in the order of the classes, does the rest:
eight rows at a time, which stay in the cache between their norms and the sums. Where nothing is lost by it, the
products of eight rows are added in float32 before they go into the float64 sums; else all of it is float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import overload
from numpy.typing import NDArray

from fastlt.kernels import class_mean_lanes as lanes
from fastlt.kernels.class_pieces import Pieces, cut

# Sums in another order than written: the order is fixed by the compiled code, so the bits do not depend on threads.
_REORDER = {"reassoc", "contract", "nsz"}
_TASKS = 64
_MIN_PIECE = 256
# float32 serves rows of many columns, each a small part of the norm, with squares of norms within these bounds.
_MIN_COLUMNS = 128
_LEAST, _MOST = 1e-20, 1e30
_GROUP = 8
_AHEAD = 2  # rows


def _tasks(pieces: Pieces, count: int) -> NDArray[np.int64]:
    """Bounds of runs of pieces with about as many rows each, one run a task."""
    tasks = min(_TASKS, pieces.labels.size)
    return np.searchsorted(pieces.begins, np.arange(tasks + 1) * count // tasks)


def mean_of_rows(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of all rows, [D]; not finite if one of them is not."""
    totals = np.empty((min(_TASKS, len(rows)), rows.shape[1]))
    _sum_rows(rows, totals)
    with np.errstate(invalid="ignore"):
        return totals.sum(axis=0) / len(rows)


def class_means(
    rows: NDArray[Any], labels: NDArray[np.int64], num_classes: int, mean: NDArray[np.float64]
) -> tuple[NDArray[Any], ...]:
    """counts [C], un, l2n, cl2n [C, D] of rows whose mean is `mean`.

    The rows are cut into pieces by their number and the counts alone, and parts are added in order: the bits are the
    same for any number of threads.
    """
    count, dim = rows.shape
    starts, order = _sort_by_class(labels, num_classes)
    counts = np.diff(starts)
    pieces = cut(counts, max(_MIN_PIECE, -(-count // _TASKS)))
    parts = np.empty((pieces.slots[-1], 3, dim))
    means = np.empty((3, num_classes, dim), np.float32)
    where = pieces.labels, pieces.begins, pieces.stops, pieces.part
    _sum_pieces(rows, order, *where, _tasks(pieces, count), mean, parts, means)
    _join(pieces.multiple, pieces.slots, counts, parts, means)
    means[:, counts == 0] = 0
    return counts, means[0], means[1], means[2]


def add(
    rows: NDArray[Any], labels: NDArray[np.int64], sums: NDArray[np.float64], mean: NDArray[np.float64] | None
) -> None:
    """Adds a batch to sums: of x and x / ||x|| [2, C, D]; or, with the mean, of (x - m) / ||x - m|| [1, C, D]."""
    starts, order = _sort_by_class(labels, sums.shape[1])
    pieces = cut(np.diff(starts), len(rows))  # a class is one piece, so no two threads add to one sum
    where = pieces.labels, pieces.begins, pieces.stops, _tasks(pieces, len(rows))
    if mean is None:
        _add_plain(rows, order, *where, sums[0], sums[1])
    else:
        _add_centred(rows, order, *where, mean, sums[0])


def first_not_finite(rows: NDArray[Any]) -> int:
    """The first row with a NaN or infinite value, or -1."""
    finite = np.empty(len(rows), np.bool_)
    _are_finite(rows, finite)
    return -1 if finite.all() else int(finite.argmin())


@njit(cache=True)
def _sort_by_class(labels, num_classes):
    """Stable counting sort: starts [C + 1] and the row numbers in class order [N]."""
    starts = np.zeros(num_classes + 1, np.int64)
    for label in labels:
        starts[label + 1] += 1
    for label in range(num_classes):
        starts[label + 1] += starts[label]
    order = np.empty(labels.size, np.int64)
    following = starts.copy()
    for row in range(labels.size):
        order[following[labels[row]]] = row
        following[labels[row]] += 1
    return starts, order


@njit(parallel=True, cache=True)
def _sum_rows(rows, totals):
    """totals[task] = sum of the task's share of the rows."""
    tasks = len(totals)
    for task in prange(tasks):
        sums = totals[task]
        sums[:] = 0
        begin, stop = len(rows) * task // tasks, len(rows) * (task + 1) // tasks
        fours = stop - (stop - begin) % 4
        for row in range(begin, fours, 4):
            _add_four(rows, row, sums)
        for row in range(fours, stop):
            _add(rows, row, sums)


@njit(parallel=True, cache=True)
def _sum_pieces(rows, order, labels, begins, stops, part, tasks, mean, parts, means):
    for task in prange(tasks.size - 1):
        sums = np.empty((3, mean.size))
        centre, rest, least = _split(mean)
        for piece in range(tasks[task], tasks[task + 1]):
            label, begin, stop = labels[piece], begins[piece], stops[piece]
            total = 0.0
            for row in range(begin, stop, _GROUP):
                end = min(row + _GROUP, stop)
                total += _add_group(rows, order, row, end, row == begin, mean, centre, least, sums)
            if total > 0:
                for j in range(mean.size):
                    sums[2, j] -= rest[j] * total
            if part[piece] >= 0:
                parts[part[piece]] = sums
            else:
                for kind in range(3):
                    _scale(sums[kind], 1 / (stop - begin), means[kind, label])


@njit(parallel=True, cache=True)
def _join(multiple, slots, counts, parts, means):
    """Means of the classes that lie in several pieces, their parts added in order."""
    for k in prange(multiple.size):
        sums = parts[slots[k]]
        for slot in range(slots[k] + 1, slots[k + 1]):
            for kind in range(3):
                for j in range(sums.shape[1]):
                    sums[kind, j] += parts[slot, kind, j]
        for kind in range(3):
            _scale(sums[kind], 1 / counts[multiple[k]], means[kind, multiple[k]])


@njit(cache=True)
def _split(mean):
    """The mean as float32, the rest of it, and the least ||x - m||^2 that the rest changes by less than 1e-7."""
    centre = np.empty(mean.size, np.float32)
    rest = np.empty(mean.size)
    square = 0.0
    for j in range(mean.size):
        centre[j] = mean[j]
        rest[j] = mean[j] - centre[j]
        square += rest[j] * rest[j]
    return centre, rest, max(_LEAST, 1e14 * square)


@njit(cache=True)
def _add_group(rows, order, begin, stop, first, mean, centre, least, sums):
    """Adds x, x / ||x|| and (x - m) / ||x - m|| over the sorted rows begin..stop, at most _GROUP.

    In float64; or, if the rows are wide and no norm is out of bounds, in float32 with `centre` for m. Then the sum of
    1 / ||x - m|| is returned, so many times the rest of m is still to be subtracted; else 0.
    """
    dim, number = mean.size, stop - begin
    un, l2n, cl2n = sums[0], sums[1], sums[2]
    plain, centred = np.empty(_GROUP, np.float32), np.empty(_GROUP, np.float32)
    total = 0.0
    for i in range(number):
        p, c = _squares(rows, order[begin + i], order[min(begin + i + _AHEAD, order.size - 1)], centre)
        if dim < _MIN_COLUMNS or not _LEAST <= p <= _MOST or not least <= c <= _MOST:
            if first:
                sums[:] = 0
            for row in range(begin, stop):
                _add_exactly(rows, order[row], mean, un, l2n, cl2n)
            return 0.0
        plain[i], centred[i] = 1 / np.sqrt(p), 1 / np.sqrt(c)
        total += centred[i]
    here = np.empty(_GROUP, np.int64)
    for i in range(number):
        here[i] = order[begin + i] * dim
    pair = dim - dim % (2 * lanes.LANES)
    for j in range(0, pair, 2 * lanes.LANES):  # two vectors, to find the rows less often
        a0 = b0 = c0 = a1 = b1 = c1 = lanes.zeros()
        m0, m1 = lanes.load(centre, j), lanes.load(centre, j + lanes.LANES)
        for i in range(np.uint64(number)):  # unsigned: an index is not asked for its sign
            x0, x1 = lanes.load(rows, here[i] + j), lanes.load(rows, here[i] + j + lanes.LANES)
            p, q = lanes.fill(plain, i), lanes.fill(centred, i)
            a0, a1 = lanes.add(a0, x0), lanes.add(a1, x1)
            b0, b1 = lanes.multiply_add(b0, x0, p), lanes.multiply_add(b1, x1, p)
            c0 = lanes.multiply_add(c0, lanes.subtract(x0, m0), q)
            c1 = lanes.multiply_add(c1, lanes.subtract(x1, m1), q)
        if first:
            lanes.put(un, j, a0)
            lanes.put(l2n, j, b0)
            lanes.put(cl2n, j, c0)
            lanes.put(un, j + lanes.LANES, a1)
            lanes.put(l2n, j + lanes.LANES, b1)
            lanes.put(cl2n, j + lanes.LANES, c1)
        else:
            lanes.add_to(un, j, a0)
            lanes.add_to(l2n, j, b0)
            lanes.add_to(cl2n, j, c0)
            lanes.add_to(un, j + lanes.LANES, a1)
            lanes.add_to(l2n, j + lanes.LANES, b1)
            lanes.add_to(cl2n, j + lanes.LANES, c1)
    for j in range(pair, dim):
        if first:
            un[j] = l2n[j] = cl2n[j] = 0.0
        for i in range(number):
            x = _value(rows, order[begin + i], j)
            un[j] += x
            l2n[j] += x * plain[i]
            cl2n[j] += (x - centre[j]) * centred[i]
    return total


@njit(cache=True)
def _squares(rows, row, ahead, centre):
    """||x||^2 and ||x - centre||^2, in float32 over 512 columns at most, so that nothing drifts.

    Asks the memory for the row `ahead` meanwhile, whose place it cannot guess.
    """
    dim = centre.size
    whole = dim - dim % lanes.LANES
    plain = centred = 0.0
    for start in range(0, whole, 512):
        p = c = lanes.zeros()
        q = d = lanes.zeros()
        for j in range(start, min(start + 512, whole), lanes.LANES):
            lanes.prefetch(rows, ahead * dim + j)
            x = lanes.load(rows, row * dim + j)
            y = lanes.subtract(x, lanes.load(centre, j))
            p, q = q, lanes.multiply_add(p, x, x)  # two sums in turn, for neither has to wait for itself
            c, d = d, lanes.multiply_add(c, y, y)
        plain += lanes.total(lanes.add(p, q))
        centred += lanes.total(lanes.add(c, d))
    for j in range(whole, dim):
        x = np.float64(_value(rows, row, j))
        plain += x * x
        centred += (x - centre[j]) * (x - centre[j])
    return plain, centred


@njit(cache=True)
def _add_exactly(rows, row, mean, un, l2n, cl2n):
    """One row, all in float64."""
    _add(rows, row, un)
    _add_scaled(rows, row, _inverse_root(_exact_square(rows, row)), l2n)
    _add_centred_scaled(rows, row, mean, _inverse_root(_exact_centred_square(rows, row, mean)), cl2n)


@njit(parallel=True, cache=True)
def _add_plain(rows, order, labels, begins, stops, tasks, un, l2n):
    for task in prange(tasks.size - 1):
        for piece in range(tasks[task], tasks[task + 1]):
            for i in range(begins[piece], stops[piece]):
                factor = _inverse_root(_exact_square(rows, order[i]))
                _add(rows, order[i], un[labels[piece]])
                _add_scaled(rows, order[i], factor, l2n[labels[piece]])


@njit(parallel=True, cache=True)
def _add_centred(rows, order, labels, begins, stops, tasks, mean, cl2n):
    for task in prange(tasks.size - 1):
        for piece in range(tasks[task], tasks[task + 1]):
            for i in range(begins[piece], stops[piece]):
                factor = _inverse_root(_exact_centred_square(rows, order[i], mean))
                _add_centred_scaled(rows, order[i], mean, factor, cl2n[labels[piece]])


@njit(parallel=True, cache=True)
def _are_finite(rows, finite):
    for row in prange(len(rows)):
        finite[row] = np.isfinite(_total(rows, row))


@njit(cache=True, fastmath=_REORDER)
def _total(rows, row):
    total = 0.0
    for j in range(rows.shape[1]):
        total += np.float64(_value(rows, row, j))
    return total


@njit(cache=True, fastmath=_REORDER)
def _exact_square(rows, row):
    total = 0.0
    for j in range(rows.shape[1]):
        x = np.float64(_value(rows, row, j))
        total += x * x
    return total


@njit(cache=True, fastmath=_REORDER)
def _exact_centred_square(rows, row, mean):
    total = 0.0
    for j in range(mean.size):
        difference = _value(rows, row, j) - mean[j]
        total += difference * difference
    return total


@njit(cache=True)
def _add_scaled(rows, row, factor, sums):
    for j in range(sums.size):
        sums[j] += _value(rows, row, j) * factor


@njit(cache=True)
def _add_centred_scaled(rows, row, mean, factor, sums):
    for j in range(sums.size):
        sums[j] += (_value(rows, row, j) - mean[j]) * factor


@njit(cache=True)
def _inverse_root(square):
    return 1 / np.sqrt(square) if square > 0 else 0.0


@njit(cache=True)
def _add(rows, row, sums):
    whole = sums.size - sums.size % lanes.LANES
    for j in range(0, whole, lanes.LANES):
        lanes.add_to(sums, j, lanes.load(rows, row * sums.size + j))
    for j in range(whole, sums.size):
        sums[j] += _value(rows, row, j)


@njit(cache=True)
def _add_four(rows, row, sums):
    """Adds four rows, to load and store the sums less often."""
    dim = sums.size
    whole = dim - dim % lanes.LANES
    for j in range(0, whole, lanes.LANES):
        at = row * dim + j
        a, b = lanes.load(rows, at), lanes.load(rows, at + dim)
        c, d = lanes.load(rows, at + 2 * dim), lanes.load(rows, at + 3 * dim)
        lanes.add_four_to(sums, j, a, b, c, d)
    for i in range(4):
        for j in range(whole, dim):
            sums[j] += _value(rows, row + i, j)


@njit(cache=True)
def _scale(sums, factor, mean):
    for j in range(sums.size):
        mean[j] = sums[j] * factor


def _value(rows, row, column):
    """An element as float32."""
    raise NotImplementedError


@overload(_value)
def _value_overload(rows, row, column):
    if rows.dtype == types.float32:
        return lambda rows, row, column: rows[row, column]

    def from_half(rows, row, column):
        bits = np.uint32(rows[row, column])
        wide = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))  # exponent and fraction in float32's places
        if bits & np.uint32(0x7C00) == np.uint32(0x7C00):  # infinite or NaN
            wide |= np.uint32(0x7F800000)
        value = np.uint32(wide).view(np.float32) * np.float32(2.0**112)  # from the exponent bias 15 to 127
        return -value if bits & np.uint32(0x8000) else value

    def from_brain(rows, row, column):
        return np.uint32(np.uint32(np.uint16(rows[row, column])) << np.uint32(16)).view(np.float32)

    return from_half if rows.dtype == types.uint16 else from_brain
