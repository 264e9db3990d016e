"""Winning intervals on a GPU: the kernels of `winning_interval`, with one block per row and threads over the classes.

Float64 logarithms are slow on a GPU. A first pass over the classes therefore bounds tau in float32, and a second pass
computes in float64 only the classes that reach this bound.
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
# The sum of all errors is below 1.4e-4: two float32 logarithms with errors of 2^-22 each (relative, to base 2), their
# difference, its quotient by the slope, and the comparison in the second pass.
_MARGIN = np.float32(2e-4)
_ROUGH_LOG: Any = math.log if SIMULATED else libdevice.fast_logf
_ROUGH_QUOTIENT: Any = operator.truediv if SIMULATED else libdevice.fast_fdividef  # slopes are below 2^126
_FLAT = np.float32(1e-30)  # a slope below it could make a float32 bound infinite
_STEP = np.uint64(THREADS)  # unsigned, so that Numba does not test every index for being negative
_ZERO, _ONE = np.float32(0), np.float32(1)

# The highest level among the scores of a row. A score that is not positive counts as zero if the class has norm zero.
_NEGATIVE, _NULL, _POSITIVE, _NOT_FINITE = (np.float32(level) for level in range(4))


def intervals(scores: Tensor, log_norm: Tensor, labels: Tensor, lo: Tensor, hi: Tensor, finite: Tensor) -> None:
    """Fills the winning intervals of a tile of rows.

    scores: float32 [n, C]. log_norm: float64 [C], log ||w||. labels: int64 [n]. lo, hi: float64 [n], written to.
    finite: bool [n], written to: whether all scores of a row are finite.
    """
    blocks = gpu.blocks_for(len(scores), scores.device)
    _intervals.launch(blocks, scores, log_norm, labels, lo, hi, finite)


def intervals_additive(
    scores: Tensor, log_prior: Tensor, labels: Tensor, lo: Tensor, hi: Tensor, finite: Tensor
) -> None:
    """The same as `intervals` for z_c - tau log p_c, all in float64."""
    blocks = gpu.blocks_for(len(scores), scores.device)
    _intervals_additive.launch(blocks, scores, log_prior, labels, lo, hi, finite)


@gpu.device_function
def _level(score, norm):
    """Returns the level of one class, given its score and the logarithm of its norm."""
    if not abs(score) < np.float32(_INF):
        return _NOT_FINITE
    if score > _ZERO and norm > -_INF:
        return _POSITIVE
    return _NULL if score >= _ZERO or norm == -_INF else _NEGATIVE


@gpu.device_function
def _store(i, never, lower, higher, lo, hi):
    """Writes the interval of row i, by one thread. An empty one becomes (inf, -inf), and -0.0 becomes 0.0."""
    if cu.threadIdx.x == 0:
        lo[i] = _INF if never or lower > higher else lower + 0.0
        hi[i] = -_INF if never or lower > higher else higher + 0.0


@gpu.device_function
def _limits(row, log_norm, y, own, sign, scratch):
    """Returns (level of the row, lower bound of tau, negated upper bound of tau) in float32; run by the whole block.

    The bounds are never tighter than the exact ones, and differ from them by at most the margin.
    """
    level, from_below, from_above = _NEGATIVE, _NONE, _NONE
    log_own = _ROUGH_LOG(abs(own)) if sign != _ZERO else _ZERO
    for c in range(np.uint64(cu.threadIdx.x), np.uint64(row.size), _STEP):
        here = _level(row[c], log_norm[c])
        if here == _NULL and sign == _ZERO and c < np.uint64(y):
            here = _POSITIVE  # of classes that tie at every tau, the first wins
        level = max(level, here)
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
    """Returns the interval in float64, from the classes that reach the bounds `least` and `most`.

    It is run by the whole block. It takes the logarithm of a ratio, which is 0 to the last bit where two scores are
    equal, instead of the difference of two logarithms.
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
                elif exact > 0 or (exact == 0 and c < np.uint64(y)):
                    lower, higher = _INF, -_INF
    lower = gpu.block_max(lower, scratch)
    return lower, -gpu.block_max(-higher, scratch)


@gpu.kernel("float32[:, ::1], float64[::1], int64[::1], float64[::1], float64[::1], boolean[::1]")
def _intervals(scores, log_norm, labels, lo, hi, finite):
    scratch32 = cu.shared.array(THREADS, float32)
    scratch64 = cu.shared.array(THREADS, float64)  # on its own line: the simulator identifies shared arrays by line
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
    scratch64 = cu.shared.array(THREADS, float64)  # on its own line: the simulator identifies shared arrays by line
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
            elif gap > 0 or (gap == 0 and c < y):
                lower, higher = _INF, -_INF
        level = gpu.block_max(level, scratch32)
        lower = gpu.block_max(lower, scratch64)
        higher = -gpu.block_max(-higher, scratch64)
        if cu.threadIdx.x == 0:
            finite[i] = level < _NOT_FINITE
        _store(i, level == _NOT_FINITE, lower, higher, lo, hi)
