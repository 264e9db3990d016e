"""Class means of features for the nearest-class-mean classifier (Kang et al. 2020, section 4.1, "NCM").

Means of three kinds of features: as they are (`un`), L2-normalised (`l2n`), and centred by the mean of all rows, then
L2-normalised (`cl2n`). The means themselves are not normalised again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import overload
from numpy.typing import NDArray

# Sums in another order than written: the order is fixed by the compiled code, so the bits do not depend on threads.
_REORDER = {"reassoc", "contract", "nsz"}
_MAX_CHUNKS = 128
_MIN_CHUNK_ROWS = 64


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """counts int64 [C]; un, l2n, cl2n float32 [C, D]; global_mean float32 [D]. An empty class has zero rows."""

    counts: NDArray[np.int64]
    un: NDArray[np.float32]
    l2n: NDArray[np.float32]
    cl2n: NDArray[np.float32]
    global_mean: NDArray[np.float32]


def reference(features: NDArray[Any], labels: NDArray[np.int64], num_classes: int) -> ClassMeans:
    """The definition in NumPy and float64."""
    raw = features.astype(np.float64)
    mean = raw.mean(axis=0)
    kinds = [raw, _normalised(raw), _normalised(raw - mean)]
    means = np.zeros((3, num_classes, raw.shape[1]))
    for label in np.unique(labels):
        for kind, rows in enumerate(kinds):
            means[kind, label] = rows[labels == label].mean(axis=0)
    un, l2n, cl2n = means.astype(np.float32)
    return ClassMeans(np.bincount(labels, minlength=num_classes), un, l2n, cl2n, mean.astype(np.float32))


def _normalised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def cpu(features: NDArray[Any], labels: NDArray[np.int64], num_classes: int) -> ClassMeans:
    """Two passes over the features: sums, then sums of the centred rows, both in float64.

    The rows, sorted by class, are cut into chunks whose number depends on the number of rows only; each chunk is summed
    in order and the parts of a class that spans chunks are added in order. So the bits are the same for any number of
    threads, and rows that come sorted by class are read front to back.
    """
    rows = features.view(np.uint16) if features.dtype == np.float16 else features
    count, dim = rows.shape
    starts, order = _sort_by_class(labels, num_classes)
    chunks = min(_MAX_CHUNKS, max(1, count // _MIN_CHUNK_ROWS))
    bounds = np.arange(chunks + 1, dtype=np.int64) * count // chunks
    first_labels = np.searchsorted(starts, bounds[:-1], side="right") - 1
    last_labels = np.searchsorted(starts, bounds[1:] - 1, side="right") - 1
    un, l2n, cl2n = (np.empty((num_classes, dim), np.float32) for _ in range(3))
    totals, scales, parts = np.zeros((chunks, dim)), np.empty(count), np.empty((chunks, 2, 2 * dim))

    def run(mean: NDArray[np.float64], first: bool, one: NDArray[np.float32], two: NDArray[np.float32]) -> None:
        _sum_chunks(rows, order, starts, bounds, first_labels, mean, scales, first, totals, parts, one, two)
        _join_parts(starts, bounds, last_labels, parts, one, two)

    run(np.zeros(dim), True, un, cl2n)  # the first pass fills un only; cl2n is overwritten by the second
    mean = totals.sum(axis=0) / count
    if not np.isfinite(mean).all():
        bad = next(i for i in range(count) if not np.isfinite(features[i]).all())
        raise ValueError(f"features row {bad} has a NaN or infinite value; only finite values have a mean")
    run(mean, False, l2n, cl2n)
    counts = np.diff(starts)
    for means in (un, l2n, cl2n):
        means[counts == 0] = 0
    return ClassMeans(counts, un, l2n, cl2n, mean.astype(np.float32))


def class_mean(features: NDArray[Any], labels: NDArray[Any], num_classes: int) -> ClassMeans:
    """Means per class of raw, L2-normalised, and centred then L2-normalised features.

    For class c with rows x_i, i in I_c, and m the mean of all rows:
    un_c = mean x_i, l2n_c = mean x_i / ||x_i||, cl2n_c = mean (x_i - m) / ||x_i - m||. A row of norm zero counts as
    the zero vector; a class without rows has count 0 and means of zero.

    features: float32 or float16 [N, D], finite; fastest C-contiguous and sorted by class. labels: integers [N] in
    0..num_classes-1. Returns `ClassMeans`, float32 means from float64 sums, the same bits for any number of threads.
    Raises ValueError for wrong shapes or dtypes, labels out of range, NaN or infinite features.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if features.dtype not in (np.float32, np.float16):
        raise ValueError(f"features have dtype {features.dtype}; allowed are float32 and float16")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"features have shape {features.shape}; allowed is [N, D] with N and D at least 1")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} {labels.shape}; allowed are integers of shape {features.shape[:1]}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"label {wrong} is out of range; allowed is 0 to {num_classes - 1}")
    return cpu(np.ascontiguousarray(features), np.ascontiguousarray(labels, dtype=np.int64), num_classes)


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
def _sum_chunks(rows, order, starts, bounds, labels, mean, scales, first, totals, parts, one, two):
    for chunk in prange(labels.size):
        _sum_chunk(rows, order, starts, bounds, labels, mean, scales, first, totals, parts, one, two, chunk)


@njit(cache=True)
def _sum_chunk(rows, order, starts, bounds, labels, mean, scales, first, totals, parts, one, two, chunk):
    """Class means over one chunk of the sorted rows.

    First pass: one = mean of x; totals[chunk] = sum of x; scales = 1 / ||x|| of every row. Second pass: one = mean of
    x / ||x||, two = mean of (x - mean) / ||x - mean||. Of a class that began in an earlier chunk or goes on in a later
    one only the sums are kept, in parts[chunk, 0] and parts[chunk, 1].
    """
    dim = mean.size
    sums = np.empty(2 * dim)
    buffer = np.empty((4, dim), np.float32)
    label, begin, end = labels[chunk], bounds[chunk], bounds[chunk + 1]
    while begin < end:
        while starts[label + 1] <= begin:
            label += 1
        stop = min(starts[label + 1], end)
        _clear(sums)
        if first:
            _sum_raw(rows, order, begin, stop, sums[:dim], scales, buffer[0])
            _add(totals[chunk], sums[:dim])
        else:
            _sum_scaled(rows, order, begin, stop, scales, mean, sums, buffer)
        if starts[label] < bounds[chunk]:
            _scale(sums, 1.0, parts[chunk, 0])
        elif starts[label + 1] > end:
            _scale(sums, 1.0, parts[chunk, 1])
        else:
            _scale(sums[:dim], 1 / (stop - begin), one[label])
            if not first:
                _scale(sums[dim:], 1 / (stop - begin), two[label])
        begin = stop


@njit(cache=True)
def _join_parts(starts, bounds, last_labels, parts, one, two):
    """Means of the classes that lie in several chunks, their parts added in order."""
    dim = one.shape[1]
    for chunk in range(last_labels.size):
        label = last_labels[chunk]
        begin, end = starts[label], starts[label + 1]
        if begin < bounds[chunk] or end <= bounds[chunk + 1]:
            continue
        sums = parts[chunk, 1]
        later = chunk + 1
        while bounds[later] < end:
            _add(sums, parts[later, 0])
            later += 1
        _scale(sums[:dim], 1 / (end - begin), one[label])
        _scale(sums[dim:], 1 / (end - begin), two[label])


@njit(cache=True)
def _sum_raw(rows, order, begin, stop, sums, scales, buffer):
    """Adds the sorted rows begin..stop row by row, for one stream is what the memory reads fastest."""
    for row in range(begin, stop):
        scales[row] = _inverse_root(_add_raw(_row(rows, order[row], buffer), sums))


@njit(cache=True)
def _sum_scaled(rows, order, begin, stop, scales, mean, sums, buffer):
    """Adds x / ||x|| to the first half of sums, (x - mean) / ||x - mean|| to the second, over rows begin..stop.

    Four rows at a time, to load and store the sums less often; they are still in the cache after their norms. What is
    missing to four has weight 0.
    """
    dim = mean.size
    plain, weights = np.empty(4), np.empty(4)
    total = 0.0
    for row in range(begin, stop, 4):
        for i in range(4):
            plain[i] = weights[i] = 0.0
            if row + i < stop:
                plain[i] = scales[row + i]
                weights[i] = _inverse_root(_centred_square(_row(rows, order[row + i], buffer[i]), mean))
            total += weights[i]
        _add_four_scaled(
            _row(rows, order[row], buffer[0]),
            _row(rows, order[min(row + 1, stop - 1)], buffer[1]),
            _row(rows, order[min(row + 2, stop - 1)], buffer[2]),
            _row(rows, order[min(row + 3, stop - 1)], buffer[3]),
            plain,
            weights,
            sums[:dim],
            sums[dim:],
        )
    for j in range(dim):
        sums[dim + j] -= mean[j] * total


@njit(cache=True)
def _inverse_root(square):
    return 1 / np.sqrt(square) if square > 0 else 0.0


@njit(cache=True, fastmath=_REORDER)
def _centred_square(x, mean):
    total = 0.0
    for j in range(mean.size):
        difference = np.float64(x[j]) - mean[j]
        total += difference * difference
    return total


@njit(cache=True, fastmath=_REORDER)
def _add_raw(x, sums):
    """sums += x; returns ||x||^2."""
    square = 0.0
    for j in range(sums.size):
        value = np.float64(x[j])
        square += value * value
        sums[j] += value
    return square


@njit(cache=True, fastmath={"contract"})
def _add_four_scaled(x0, x1, x2, x3, scales, weights, l2n, cl2n):
    a0, a1, a2, a3 = scales[0], scales[1], scales[2], scales[3]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for j in range(l2n.size):
        v0, v1, v2, v3 = np.float64(x0[j]), np.float64(x1[j]), np.float64(x2[j]), np.float64(x3[j])
        l2n[j] += (v0 * a0 + v1 * a1) + (v2 * a2 + v3 * a3)
        cl2n[j] += (v0 * w0 + v1 * w1) + (v2 * w2 + v3 * w3)


@njit(cache=True)
def _clear(sums):
    for j in range(sums.size):
        sums[j] = 0.0


@njit(cache=True)
def _add(sums, other):
    for j in range(sums.size):
        sums[j] += other[j]


@njit(cache=True)
def _scale(sums, factor, mean):
    for j in range(sums.size):
        mean[j] = sums[j] * factor


def _row(rows, index, buffer):
    """Row as float32. float16 comes as its bits in uint16, for Numba has no float16 on the CPU."""
    raise NotImplementedError


@overload(_row)
def _row_overload(rows, index, buffer):
    if rows.dtype == types.float32:
        return lambda rows, index, buffer: rows[index]

    def from_half(rows, index, buffer):
        for j in range(buffer.size):
            bits = np.uint32(rows[index, j])
            wide = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))  # exponent and fraction in float32's places
            if bits & np.uint32(0x7C00) == np.uint32(0x7C00):  # infinite or NaN
                wide |= np.uint32(0x7F800000)
            value = np.uint32(wide).view(np.float32) * np.float32(2.0**112)  # from the exponent bias 15 to 127
            buffer[j] = -value if bits & np.uint32(0x8000) else value
        return buffer

    return from_half
