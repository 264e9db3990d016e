"""Class means on the CPU: the compiled loops of `class_mean`.

Rows are float32 or the bits of a 16-bit float: uint16 stands for float16, int16 for bfloat16 (see arrays.py).

The first read, front to back, gives the mean of all rows. The second read, in class order, gives norms and class sums
together: it takes eight rows at a time, which stay in the cache between their norms and the sums. Where no accuracy is
lost, the products of eight rows are added in float32 before they go into the float64 sums; otherwise all is float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import overload
from numpy.typing import NDArray

from fastlt.kernels import class_mean_simd as simd
from fastlt.kernels.class_pieces import Pieces, cut
from fastlt.kernels.threads import start_threads

# LLVM may reorder these sums. The order is fixed once compiled, so the bits still do not depend on threads.
_REORDER = {"reassoc", "contract", "nsz"}
_TASKS = 64
_MIN_PIECE = 256  # rows
# float32 sums are accurate enough for rows of many columns, where each column is a small part of the norm, and for
# squared norms within these bounds.
_MIN_COLUMNS = 128
_LEAST, _MOST = 1e-20, 1e30
_GROUP = 8  # rows that are added together
_AHEAD = 2  # rows to prefetch


def _tasks(pieces: Pieces, count: int) -> NDArray[np.int64]:
    """Returns the bounds that divide the pieces into tasks with about equally many rows."""
    tasks = min(_TASKS, pieces.labels.size)
    return np.searchsorted(pieces.begins, np.arange(tasks + 1) * count // tasks)


def mean_of_rows(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the mean of all rows, float64 [D]. It is not finite if a row is not."""
    totals = np.empty((min(_TASKS, len(rows)), rows.shape[1]))
    start_threads()
    _sum_rows(rows, totals)
    with np.errstate(invalid="ignore"):
        return totals.sum(axis=0) / len(rows)


def class_means(
    rows: NDArray[Any], labels: NDArray[np.int64], num_classes: int, mean: NDArray[np.float64]
) -> tuple[NDArray[Any], ...]:
    """Returns (counts int64 [C], un, l2n, cl2n float32 [C, D]) of rows [N, D] whose mean is `mean` [D].

    How the rows are cut into pieces depends only on the class counts, and the partial sums of the pieces are added in
    order. The bits are therefore the same for any number of threads.
    """
    count, dim = rows.shape
    start_threads()
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


def first_not_finite(rows: NDArray[Any]) -> int:
    """Returns the number of the first row with a NaN or infinite value, or -1."""
    finite = np.empty(len(rows), np.bool_)
    start_threads()
    _are_finite(rows, finite)
    return -1 if finite.all() else int(finite.argmin())


@njit(cache=True)
def _sort_by_class(labels, num_classes):
    """Sorts rows by class with a stable counting sort; returns (class starts [C + 1], row numbers in order [N])."""
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
    """Sets totals[task] to the sum of the task's share of the rows."""
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
    """Computes the means of classes that were cut into several pieces, adding their partial sums in order."""
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
    """Splits the float64 mean m into float32 `centre` and remainder `rest` = m - centre.

    Returns (centre, rest, least), where `least` is the smallest ||x - m||^2 that leaving out the remainder changes by
    less than 1e-7 of itself.
    """
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
    """Adds x, x / ||x|| and (x - m) / ||x - m|| of the sorted rows begin..stop, at most _GROUP, to `sums` [3, D].

    `first` says that these are the first rows of a piece: `sums` is then overwritten.

    Wide rows whose norms are all within bounds are added in float32, with `centre` in place of m. The function then
    returns the sum of 1 / ||x - m||: the caller still has to subtract this many times the remainder of m (see
    `_split`). Otherwise all is added in float64, and the function returns 0.
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
    pair = dim - dim % (2 * simd.LANES)
    for j in range(0, pair, 2 * simd.LANES):  # two vectors per row, so that row addresses are computed half as often
        a0 = b0 = c0 = a1 = b1 = c1 = simd.zeros()
        m0, m1 = simd.load(centre, j), simd.load(centre, j + simd.LANES)
        for i in range(np.uint64(number)):  # with an unsigned index Numba omits the test for negative indices
            x0, x1 = simd.load(rows, here[i] + j), simd.load(rows, here[i] + j + simd.LANES)
            p, q = simd.fill(plain, i), simd.fill(centred, i)
            a0, a1 = simd.add(a0, x0), simd.add(a1, x1)
            b0, b1 = simd.multiply_add(b0, x0, p), simd.multiply_add(b1, x1, p)
            c0 = simd.multiply_add(c0, simd.subtract(x0, m0), q)
            c1 = simd.multiply_add(c1, simd.subtract(x1, m1), q)
        if first:
            simd.put(un, j, a0)
            simd.put(l2n, j, b0)
            simd.put(cl2n, j, c0)
            simd.put(un, j + simd.LANES, a1)
            simd.put(l2n, j + simd.LANES, b1)
            simd.put(cl2n, j + simd.LANES, c1)
        else:
            simd.add_to(un, j, a0)
            simd.add_to(l2n, j, b0)
            simd.add_to(cl2n, j, c0)
            simd.add_to(un, j + simd.LANES, a1)
            simd.add_to(l2n, j + simd.LANES, b1)
            simd.add_to(cl2n, j + simd.LANES, c1)
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
    """Returns (||x||^2, ||x - centre||^2) of a row x.

    Partial sums are float32 over at most 512 columns each, so that rounding errors do not build up, and are added in
    float64. Meanwhile the row `ahead` is prefetched: rows in class order are scattered, so the hardware cannot guess
    which one comes next.
    """
    dim = centre.size
    whole = dim - dim % simd.LANES
    plain = centred = 0.0
    for start in range(0, whole, 512):
        p = c = simd.zeros()
        q = d = simd.zeros()
        for j in range(start, min(start + 512, whole), simd.LANES):
            simd.prefetch(rows, ahead * dim + j)
            x = simd.load(rows, row * dim + j)
            y = simd.subtract(x, simd.load(centre, j))
            p, q = q, simd.multiply_add(p, x, x)  # two alternating sums: an addition need not wait for the last one
            c, d = d, simd.multiply_add(c, y, y)
        plain += simd.total(simd.add(p, q))
        centred += simd.total(simd.add(c, d))
    for j in range(whole, dim):
        x = np.float64(_value(rows, row, j))
        plain += x * x
        centred += (x - centre[j]) * (x - centre[j])
    return plain, centred


@njit(cache=True)
def _add_exactly(rows, row, mean, un, l2n, cl2n):
    """Adds one row to the three sums, all in float64."""
    _add(rows, row, un)
    _add_scaled(rows, row, _inverse_root(_exact_square(rows, row)), l2n)
    _add_centred_scaled(rows, row, mean, _inverse_root(_exact_centred_square(rows, row, mean)), cl2n)


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
    whole = sums.size - sums.size % simd.LANES
    for j in range(0, whole, simd.LANES):
        simd.add_to(sums, j, simd.load(rows, row * sums.size + j))
    for j in range(whole, sums.size):
        sums[j] += _value(rows, row, j)


@njit(cache=True)
def _add_four(rows, row, sums):
    """Adds four rows at once, so that the sums are loaded and stored less often."""
    dim = sums.size
    whole = dim - dim % simd.LANES
    for j in range(0, whole, simd.LANES):
        at = row * dim + j
        a, b = simd.load(rows, at), simd.load(rows, at + dim)
        c, d = simd.load(rows, at + 2 * dim), simd.load(rows, at + 3 * dim)
        simd.add_four_to(sums, j, a, b, c, d)
    for i in range(4):
        for j in range(whole, dim):
            sums[j] += _value(rows, row + i, j)


@njit(cache=True)
def _scale(sums, factor, mean):
    for j in range(sums.size):
        mean[j] = sums[j] * factor


def _value(rows, row, column):
    """Returns rows[row, column] as float32, from whichever float type the rows have."""
    raise NotImplementedError


@overload(_value)
def _value_overload(rows, row, column):
    if rows.dtype == types.float32:
        return lambda rows, row, column: rows[row, column]

    def from_half(rows, row, column):
        bits = np.uint32(rows[row, column])
        wide = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))  # exponent and fraction moved to float32's bits
        if bits & np.uint32(0x7C00) == np.uint32(0x7C00):  # infinite or NaN
            wide |= np.uint32(0x7F800000)
        value = np.uint32(wide).view(np.float32) * np.float32(2.0**112)  # from the exponent bias 15 to 127
        return -value if bits & np.uint32(0x8000) else value

    def from_brain(rows, row, column):
        return np.uint32(np.uint32(np.uint16(rows[row, column])) << np.uint32(16)).view(np.float32)

    return from_half if rows.dtype == types.uint16 else from_brain
