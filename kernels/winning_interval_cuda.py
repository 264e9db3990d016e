"""Winning intervals on a GPU: one block a row, its threads over the classes.

Float64 logarithms are dear there, so the first sweep bounds tau in float32 and the second asks float64 only about the
classes that reach this bound.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numba import float32, float64
from numba.cuda import libdevice
from torch import Tensor

from fastlt.kernels import gpu
from fastlt.kernels.gpu import SIMULATED, THREADS, cu

_INF = np.inf
_NONE = np.float32(-np.inf)  # no bound yet
# Two float32 logarithms of 2^-22 each (relative, to base 2), their difference, its quotient by the slope, and what the
# second sweep makes of that: all their roundings together are below 1.4e-4.
_MARGIN = np.float32(2e-4)
_ROUGH_LOG: Any = math.log if SIMULATED else libdevice.fast_logf
_ROUGH_QUOTIENT: Any = operator.truediv if SIMULATED else libdevice.fast_fdividef  # slopes are below 2^126
_FLAT = np.float32(1e-30)  # a slope below it could push a float32 bound to infinity
_STEP = np.uint64(THREADS)  # unsigned, so that Numba does not test every index for being negative
_ZERO, _ONE = np.float32(0), np.float32(1)

# What a row holds at most: a class whose score is not positive counts as zero if its norm is zero.
_NEGATIVE, _NULL, _POSITIVE, _NOT_FINITE = (np.float32(level) for level in range(4))


def intervals(scores: Tensor, log_norm: Tensor, labels: Tensor, lo: Tensor, hi: Tensor, finite: Tensor) -> None:
    """Fills lo, hi (float64 [n]) and finite (bool [n], whether a row is) from scores float32 [n, C] of some rows."""
    blocks = gpu.blocks_for(len(scores), scores.device)
    _intervals.launch(blocks, scores, log_norm, labels, lo, hi, finite)


def intervals_additive(
    scores: Tensor, log_prior: Tensor, labels: Tensor, lo: Tensor, hi: Tensor, finite: Tensor
) -> None:
    """The same for z_c - tau log p_c, in float64 throughout."""
    blocks = gpu.blocks_for(len(scores), scores.device)
    _intervals_additive.launch(blocks, scores, log_prior, labels, lo, hi, finite)


@gpu.device_function
def _level(score, norm):
    """Which of the levels one class puts its row on."""
    if not abs(score) < np.float32(_INF):
        return _NOT_FINITE
    if score > _ZERO and norm > -_INF:
        return _POSITIVE
    return _NULL if score >= _ZERO or norm == -_INF else _NEGATIVE


@gpu.device_function
def _store(i, never, lower, higher, lo, hi):
    """One thread writes the interval, in the one form that `nowhere` has; 0.0 has no sign."""
    if cu.threadIdx.x == 0:
        lo[i] = _INF if never or lower > higher else lower + 0.0
        hi[i] = -_INF if never or lower > higher else higher + 0.0


@gpu.device_function
def _limits(row, log_norm, y, own, sign, scratch):
    """(level of the row, bound of tau from below, negated bound from above), by the whole block.

    The bounds never pass those that all classes together set, and lie within the margin of them.
    """
    level, from_below, from_above = _NEGATIVE, _NONE, _NONE
    log_own = _ROUGH_LOG(abs(own)) if sign != _ZERO else _ZERO
    for c in range(np.uint64(cu.threadIdx.x), np.uint64(row.size), _STEP):
        level = max(level, _level(row[c], log_norm[c]))
        if row[c] * sign > _ZERO and log_norm[c] > -_INF:
            gap = sign * (_ROUGH_LOG(abs(row[c])) - log_own) - _MARGIN
            slope = sign * np.float32(log_norm[c] - log_norm[y])
            if slope > _FLAT:
                from_below = max(from_below, _ROUGH_QUOTIENT(gap, slope))
            elif slope < -_FLAT:
                from_above = max(from_above, _ROUGH_QUOTIENT(-gap, slope))
    level = gpu.block_max(level, scratch)
    from_below = gpu.block_max(from_below, scratch)
    return level, from_below, gpu.block_max(from_above, scratch)


@gpu.device_function
def _exact(row, log_norm, y, own, sign, least, most, scratch):
    """The interval by the whole block, in float64, of the classes that reach the bounds `least` and `most`.

    The logarithm of a ratio is exact to the last bits where scores tie.
    """
    lower, higher = -_INF, _INF
    log_own = _ROUGH_LOG(abs(own))
    for c in range(np.uint64(cu.threadIdx.x), np.uint64(row.size), _STEP):
        if row[c] * sign > _ZERO and log_norm[c] > -_INF:
            gap = sign * (_ROUGH_LOG(abs(row[c])) - log_own) + _MARGIN
            slope = sign * (log_norm[c] - log_norm[y])
            needed = 0.0
            if slope != 0:
                needed = slope * (least if slope > 0 else most)
            if gap >= needed:
                exact = float64(sign) * math.log(float64(row[c]) / float64(own))
                if slope > 0:
                    lower = max(lower, exact / slope)
                elif slope < 0:
                    higher = min(higher, exact / slope)
                elif exact > 0:
                    lower, higher = _INF, -_INF
    lower = gpu.block_max(lower, scratch)
    return lower, -gpu.block_max(-higher, scratch)


@gpu.kernel("float32[:, ::1], float64[::1], int64[::1], float64[::1], float64[::1], boolean[::1]")
def _intervals(scores, log_norm, labels, lo, hi, finite):
    scratch32 = cu.shared.array(THREADS, float32)
    scratch64 = cu.shared.array(THREADS, float64)  # a line of its own: the simulator tells arrays apart by line
    for i in range(cu.blockIdx.x, scores.shape[0], cu.gridDim.x):
        row, y = scores[i], labels[i]
        own, sign = row[y], _ZERO
        if log_norm[y] > -_INF:
            sign = _ONE if own > _ZERO else -_ONE if own < _ZERO else _ZERO
        level, from_below, from_above = _limits(row, log_norm, y, own, sign, scratch32)
        if cu.threadIdx.x == 0:
            finite[i] = level < _NOT_FINITE
        if sign == _ZERO:
            _store(i, level >= _POSITIVE, -_INF, _INF, lo, hi)
        elif level == _NOT_FINITE or (sign < _ZERO and level > _NEGATIVE):
            _store(i, True, -_INF, _INF, lo, hi)
        else:
            least, most = float64(from_below), -float64(from_above)
            lower, higher = _exact(row, log_norm, y, own, sign, least, most, scratch64)
            _store(i, False, lower, higher, lo, hi)


@gpu.kernel("float32[:, ::1], float64[::1], int64[::1], float64[::1], float64[::1], boolean[::1]")
def _intervals_additive(scores, log_prior, labels, lo, hi, finite):
    scratch32 = cu.shared.array(THREADS, float32)
    scratch64 = cu.shared.array(THREADS, float64)  # a line of its own: the simulator tells arrays apart by line
    for i in range(cu.blockIdx.x, scores.shape[0], cu.gridDim.x):
        row, y = scores[i], labels[i]
        level, lower, higher = _NEGATIVE, -_INF, _INF
        for c in range(cu.threadIdx.x, row.size, THREADS):
            level = max(level, _level(row[c], 0.0))
            gap = float64(row[c]) - float64(row[y])
            slope = log_prior[c] - log_prior[y]
            if slope > 0:
                lower = max(lower, gap / slope)
            elif slope < 0:
                higher = min(higher, gap / slope)
            elif gap > 0:
                lower, higher = _INF, -_INF
        level = gpu.block_max(level, scratch32)
        lower = gpu.block_max(lower, scratch64)
        higher = -gpu.block_max(-higher, scratch64)
        if cu.threadIdx.x == 0:
            finite[i] = level < _NOT_FINITE
        _store(i, level == _NOT_FINITE, lower, higher, lo, hi)
