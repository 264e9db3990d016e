"""Winning intervals on the CPU: the compiled loops of `winning_interval`, which run over rows in parallel.

For each row, fast float32 logarithms find the few classes that can bound tau. Only those are computed in float64.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from torch import Tensor

from fastlt.kernels.threads import start_threads

_BLOCK_ROWS = 16  # rows that share one set of buffers
_BLOCK_CLASSES = 64  # classes tested at once for a possible bound
_MARGIN = np.float32(1e-4)  # larger than any error of the fast logarithms, see _bounds
_HUGE = np.float32(1e30)
_STEEPEST = np.float32(1e38)
_NO_RIVAL = np.float32(-1e36)


def intervals(scores: Tensor, log_norm: Tensor, labels: Tensor, lo: Tensor, hi: Tensor, finite: Tensor) -> None:
    """Fills the winning intervals of a tile of rows.

    scores: float32 [n, C]. log_norm: float64 [C], log ||w||. labels: int64 [n]. lo, hi: float64 [n], written to.
    finite: bool [n], written to: whether all scores of a row are finite.
    """
    start_threads()
    rows = scores.numpy()
    _intervals(rows, rows.view(np.uint32), *(one.numpy() for one in (log_norm, labels, lo, hi, finite)))


def intervals_additive(
    scores: Tensor, log_prior: Tensor, labels: Tensor, lo: Tensor, hi: Tensor, finite: Tensor
) -> None:
    """The same as `intervals` for z_c - tau log p_c, all in float64."""
    start_threads()
    rows = scores.numpy()
    _intervals_additive(rows, rows.view(np.uint32), *(one.numpy() for one in (log_prior, labels, lo, hi, finite)))


@njit(parallel=True, cache=True)
def _intervals(scores, bits, log_norm, labels, lo, hi, finite):
    count, classes = scores.shape
    lo[:], hi[:], finite[:] = np.inf, -np.inf, True
    some_zero_norm = np.isinf(log_norm).any()
    for block in prange((count + _BLOCK_ROWS - 1) // _BLOCK_ROWS):
        upper = np.empty(classes, np.float32)
        for i in range(block * _BLOCK_ROWS, min(count, (block + 1) * _BLOCK_ROWS)):
            row, y = scores[i], labels[i]
            largest, smallest = _magnitudes(bits[i])
            if largest >= 0x7F800000:
                finite[i] = False
            elif row[y] == 0 or np.isinf(log_norm[y]):
                if _zero_wins(row, log_norm, y):
                    lo[i], hi[i] = -np.inf, np.inf
            elif row[y] > 0 or not (some_zero_norm or _any_not_negative(row)):
                if smallest < 0x007FFFFF:  # the fast logarithm is wrong for subnormal numbers
                    lo[i], hi[i] = _every_class(row, log_norm, y)
                else:
                    lo[i], hi[i] = _few_classes(row, bits[i], log_norm, y, upper)


@njit(cache=True)
def _magnitudes(bits):
    """Returns the largest magnitude of a row, and its smallest nonzero magnitude less 1, both as bits of float32."""
    largest, smallest = np.uint32(0), np.uint32(0xFFFFFFFF)
    for c in range(bits.size):
        magnitude = np.uint32(bits[c] & np.uint32(0x7FFFFFFF))
        largest = max(largest, magnitude)
        smallest = min(smallest, np.uint32(magnitude - np.uint32(1)))  # 0 wraps round to the largest number
    return largest, smallest


@njit(cache=True)
def _zero_wins(row, log_norm, y):
    """Returns whether a score of 0 of class y wins: no score is positive, and none of a class before y is 0."""
    for c in range(row.size):
        score = row[c] if log_norm[c] > -np.inf else np.float32(0)
        if score > 0 or (score == 0 and c < y):
            return False
    return True


@njit(cache=True)
def _any_not_negative(row):
    for c in range(row.size):  # noqa: SIM110 (Numba knows no generator)
        if row[c] >= 0:
            return True
    return False


@njit(cache=True)
def _every_class(row, log_norm, y):
    lo, hi = -np.inf, np.inf
    for c in range(row.size):
        lo, hi = _tighten(row, log_norm, y, c, lo, hi)
    return (np.inf, -np.inf) if lo > hi else (lo + 0.0, hi + 0.0)


@njit(cache=True, error_model="numpy")
def _tighten(row, log_norm, y, c, lo, hi):
    """Returns the interval after class c has bounded it, in float64.

    It takes the logarithm of a ratio, which is 0 to the last bit where two scores are equal, instead of the difference
    of two logarithms.
    """
    if c == y or (row[y] > 0 and not (row[c] > 0 and log_norm[c] > -np.inf)):
        return lo, hi
    gap = math.log(np.float64(row[c]) / np.float64(row[y]))
    slope = log_norm[c] - log_norm[y]
    if row[y] < 0:
        gap, slope = -gap, -slope
    if slope > 0:
        lo = max(lo, gap / slope)
    elif slope < 0:
        hi = min(hi, gap / slope)
    elif gap > 0 or (gap == 0 and c < y):  # of classes that tie at every tau, the first wins
        lo, hi = np.inf, -np.inf
    return lo, hi


@njit(cache=True)
def _few_classes(row, bits, log_norm, y, upper):
    """Returns the same as `_every_class`, but computes the exact logarithm only for classes that can bound tau."""
    from_below, from_above, never = _bounds(row, bits, log_norm, y, upper)
    if never or from_below > -from_above:
        return np.inf, -np.inf
    # Bounds beyond these limits are not reliable in float32: all classes above are computed exactly, and those below
    # cannot win against the label.
    from_below = min(max(from_below, -_HUGE), _HUGE)
    from_above = min(max(from_above, -_HUGE), _HUGE)
    lo, hi = -np.inf, np.inf
    for begin in range(0, row.size, _BLOCK_CLASSES):
        end = min(row.size, begin + _BLOCK_CLASSES)
        if _any_reaches(upper[begin:end], log_norm[begin:end], log_norm[y], row[y] > 0, from_below, from_above):
            for c in range(begin, end):
                if upper[c] >= min(from_below, from_above):
                    lo, hi = _tighten(row, log_norm, y, c, lo, hi)
    return (np.inf, -np.inf) if lo > hi else (lo + 0.0, hi + 0.0)


@njit(cache=True, error_model="numpy")
def _bounds(row, bits, log_norm, y, upper):
    """Bounds tau from below and above in float32, less tightly than the exact bounds by a margin.

    Returns (lower bound, negated upper bound, whether the label wins at no tau). Class c bounds tau by gap / |slope|
    from below, or by its negative from above; upper[c] is set to a value that is never below gap / |slope|.

    The margin covers all errors. With r = (m - 1) / (m + 1), log m = 2 (r + r^3 / 3 + r^5 / 5 + ...); the terms that
    `_fast_log` leaves out are below 2e-6 for m in sqrt(1/2)..sqrt(2), and rounding adds at most 6e-5 for any two
    float32 scores.
    """
    negative = row[y] < 0
    sign = np.float32(-1) if negative else np.float32(1)
    log_y, log_norm_y = _fast_log(bits[y]), log_norm[y]
    nothing = _ordered(-np.float32(np.inf))
    from_below = from_above = level = nothing
    for c in range(row.size):
        rival = negative | ((row[c] > 0) & (log_norm[c] > -np.inf))
        gap = sign * (_fast_log(bits[c]) - log_y)
        gap = gap if rival else _NO_RIVAL
        slope = (log_norm[c] - log_norm_y) * sign
        steep = np.float32(1) / np.float32(abs(slope))
        steep = steep if steep < _STEEPEST else _STEEPEST
        steep = steep if rival else np.float32(1)
        upper[c] = (gap + _MARGIN) * steep
        bound = _ordered((gap - _MARGIN) * steep)
        from_below = max(from_below, bound if slope > 0 else nothing)
        from_above = max(from_above, bound if slope < 0 else nothing)
        level = max(level, _ordered(gap) if slope == 0 else nothing)
    return _unordered(from_below), _unordered(from_above), _unordered(level) > _MARGIN


@njit(cache=True)
def _ordered(value):
    """Converts a float32 to an integer with the same order, because LLVM vectorizes the maximum of integers only."""
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@njit(cache=True)
def _unordered(bits):
    return np.int32(bits ^ np.int32(np.int32(bits >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@njit(cache=True, error_model="numpy")
def _fast_log(bits):
    magnitude = np.int32(bits & np.uint32(0x7FFFFFFF))
    exponent = np.int32(np.int32(magnitude - np.int32(0x3F3504F3)) >> np.int32(23))  # 0 from sqrt(1/2) to sqrt(2)
    m = np.int32(magnitude - np.int32(exponent << np.int32(23))).view(np.float32)
    r = (m - np.float32(1)) / (m + np.float32(1))
    square = r * r
    series = np.float32(2) + square * (np.float32(2 / 3) + square * np.float32(2 / 5))
    return np.float32(exponent) * np.float32(math.log(2)) + r * series


@njit(cache=True)
def _any_reaches(upper, log_norm, log_norm_y, positive, from_below, from_above):
    found = False
    for c in range(upper.size):
        from_side = from_below if (log_norm[c] > log_norm_y) == positive else from_above
        found |= upper[c] >= from_side
    return found


@njit(parallel=True, cache=True)
def _intervals_additive(scores, bits, log_prior, labels, lo, hi, finite):
    lo[:], hi[:], finite[:] = np.inf, -np.inf, True
    for i in prange(len(scores)):
        if _magnitudes(bits[i])[0] >= 0x7F800000:
            finite[i] = False
        else:
            lower, higher, never = _bounds_additive(scores[i], log_prior, labels[i])
            if not never and lower <= higher:
                lo[i], hi[i] = lower + 0.0, higher + 0.0


@njit(cache=True, error_model="numpy")
def _bounds_additive(row, log_prior, y):
    lo, hi, never = -np.inf, np.inf, False
    z_y = np.float64(row[y])
    for c in range(row.size):
        gap, slope = np.float64(row[c]) - z_y, log_prior[c] - log_prior[y]
        bound = gap / (slope if slope != 0 else 1.0)
        lo = max(lo, bound if slope > 0 else -np.inf)
        hi = min(hi, bound if slope < 0 else np.inf)
        never |= (slope == 0) & ((gap > 0) | ((gap == 0) & (c < y)))
    return lo, hi, never
