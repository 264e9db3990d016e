"""How sure is the choice of tau? The bootstrap of Efron (1979) over the samples that it was chosen on.

Samples are drawn with replacement within each class, so that class sizes stay, and with them the meaning of every
criterion of `accuracy_curve`. A drawn set is the old one with a multiplicity for each sample: the sorted ends of the
intervals serve every draw, and its whole curve is one walk over them with sums of integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange, uint64
from numpy.typing import NDArray

from fastlt.kernels.accuracy_curve import EQUAL, accuracy_curve, checked, criterion_index, criterion_weights, middle
from fastlt.kernels.arrays import host
from fastlt.kernels.philox import philox

Floats = NDArray[np.float64]
QUANTILES = (0.05, 0.5, 0.95)
_PURPOSE = 0xB007  # in the counters: the numbers of no other user of the same seed


@dataclass(frozen=True, eq=False)
class ChoiceConfidence:
    """What `draws` drawn sets say of a tau that was chosen on the samples.

    tau: the choice. taus: float64 [draws], the middle of each drawn set's own widest best interval. quantiles: those of
    taus at 5, 50 and 95 %. accuracies: float64 [draws], in percent, of the choice on each drawn set. gap: mean of these
    less the best accuracy of the drawn set, never above 0. accuracy_se: standard error of the choice's accuracy.
    """

    tau: float
    taus: Floats
    quantiles: Floats
    accuracies: Floats
    gap: float
    accuracy_se: float


def reference(
    lo: Floats,
    hi: Floats,
    labels: NDArray[np.int64],
    groups: NDArray[np.int8],
    criterion: str,
    tau: float,
    draws: int,
    seed: int,
) -> tuple[Floats, Floats, Floats]:
    """The definition: a curve of its own for every drawn set. Returns its taus, accuracies at tau, best accuracies."""
    members, starts = _by_class(labels, len(groups))
    taus, accuracies, best = np.empty(draws), np.empty(draws), np.empty(draws)
    for draw in range(draws):
        times = np.zeros(len(labels), np.int32)
        _resample(members, starts, seed, draw, times)
        drawn = np.repeat(np.arange(len(labels)), times)
        curve = accuracy_curve(lo[drawn], hi[drawn], labels[drawn], groups)
        _, interval, best[draw] = curve.best(criterion)
        taus[draw] = middle(*interval)[0]
        accuracies[draw] = curve.at(tau)[criterion]
    return taus, accuracies, best


def cpu(
    lo: Floats,
    hi: Floats,
    labels: NDArray[np.int64],
    groups: NDArray[np.int8],
    criterion: str,
    tau: float,
    draws: int,
    seed: int,
) -> tuple[Floats, Floats, Floats]:
    """One sort for all, then one walk over the ends for each drawn set."""
    members, starts = _by_class(labels, len(groups))
    weights, totals = criterion_weights(np.diff(starts), groups)
    which = criterion_index(criterion)
    weight = weights[which][labels]
    wins = np.flatnonzero((lo <= hi) & (lo < np.inf) & (hi > -np.inf))
    ends = np.concatenate([lo[wins], hi[wins]])
    order = np.argsort(ends)
    order = order[: np.searchsorted(ends[order], np.inf)]  # what ends at infinity never ends
    change = np.concatenate([weight[wins], -weight[wins]])[order]
    right = np.where((lo <= tau) & (tau <= hi), weight, 0)
    sample = np.concatenate([wins, wins])[order]
    sums = np.empty(draws), np.empty(draws)
    intervals = np.empty((draws, 2))
    scale = float(totals[which])
    _walks(ends[order], sample, change, right, scale, members, starts, np.uint64(seed), intervals, *sums)
    taus = np.array([middle(*interval)[0] for interval in intervals.tolist()])
    return taus, *sums


def choice_confidence(
    lo: Any, hi: Any, labels: Any, groups: Any, criterion: str = "mean_class", draws: int = 200, seed: int = 0
) -> ChoiceConfidence:
    """How far the best tau, and the accuracy there, would vary over other samples of the same classes.

    lo, hi, labels, groups: as `accuracy_curve` takes them; what lies on a GPU is copied from it. criterion: one of
    CRITERIA. draws: at least 2. seed: 0 to 2^64 - 1; the result is a function of it, whatever the number of threads.
    Raises ValueError as `accuracy_curve` and `AccuracyCurve.best` do, and for draws or a seed out of range.
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; it must be at least 2")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; allowed is 0 to 2^64 - 1")
    low, high, labels, groups = checked(lo, hi, labels, groups)
    tau = accuracy_curve(low, high, labels, groups).best(criterion)[0]
    ends = host(low, np.float64), host(high, np.float64)
    taus, accuracies, best = cpu(*ends, host(labels, np.int64), groups, criterion, tau, draws, seed)
    gap, error = float(np.mean(accuracies - best)), float(np.std(accuracies, ddof=1))
    return ChoiceConfidence(tau, taus, np.quantile(taus, QUANTILES), accuracies, gap, error)


def _by_class(labels: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples sorted by class [N], and where each class starts [C + 1]."""
    sizes = np.bincount(labels, minlength=classes)
    return np.argsort(labels, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])


@njit(cache=True)
def _resample(members, starts, seed, draw, times):
    """Draws as many samples of every class as it has: times[i] is how often sample i came.

    Position p of the sorted samples takes word p % 4 of the counter (p // 4, draw). The bias is below n / 2^32.
    """
    label, words = 0, philox(seed, 0, draw, 0, _PURPOSE)
    for p in range(members.size):
        if p % 4 == 0:
            words = philox(seed, p // 4, draw, 0, _PURPOSE)
        while p >= starts[label + 1]:
            label += 1
        size = uint64(starts[label + 1] - starts[label])
        times[members[starts[label] + np.int64((words[p % 4] * size) >> uint64(32))]] += 1


@njit(cache=True)
def _curve(ends, sample, change, times, scale, edges, values):
    """Pieces of a drawn set: number of them, edges [pieces + 1] from -inf to inf, percent values [pieces]."""
    pieces, total = 0, 0
    edges[0] = -np.inf
    for e in range(ends.size):
        if times[sample[e]] > 0:
            if ends[e] > edges[pieces]:
                values[pieces] = total / scale * 100.0
                pieces += 1
                edges[pieces] = ends[e]
            total += change[e] * times[sample[e]]
    values[pieces] = total / scale * 100.0
    edges[pieces + 1] = np.inf
    return pieces + 1


@njit(cache=True)
def _reachable(edges, piece):
    return np.nextafter(edges[piece], np.inf) < edges[piece + 1]  # else no tau lies in it


@njit(cache=True)
def _best(edges, values, pieces):
    """(lo, hi, highest value) as `AccuracyCurve.best` chooses them."""
    highest = -np.inf
    for k in range(pieces):
        if values[k] > highest and _reachable(edges, k):
            highest = values[k]
    lo, hi, from_zero = 0.0, -np.inf, np.inf
    k = 0
    while k < pieces:
        begin = k
        while k < pieces and values[k] >= highest - EQUAL and _reachable(edges, k):
            k += 1
        if k > begin:
            left, right = edges[begin], edges[k]
            distance = max(0.0, left, -right)
            if right - left > hi - lo or (right - left == hi - lo and distance < from_zero):
                lo, hi, from_zero = left, right, distance
        else:
            k += 1
    return lo, hi, highest


@njit(parallel=True, cache=True)
def _walks(ends, sample, change, right, scale, members, starts, seed, intervals, accuracies, best):
    for draw in prange(best.size):
        times = np.zeros(members.size, np.int32)
        _resample(members, starts, seed, draw, times)
        edges, values = np.empty(ends.size + 2), np.empty(ends.size + 1)
        pieces = _curve(ends, sample, change, times, scale, edges, values)
        intervals[draw, 0], intervals[draw, 1], best[draw] = _best(edges, values, pieces)
        total = 0
        for i in range(right.size):
            total += right[i] * times[i]
        accuracies[draw] = total / scale * 100.0
