"""Estimates how certain a choice of tau is, by the bootstrap of Efron (1979) over the samples it was chosen on.

Samples are drawn with replacement within each class, which keeps the class sizes and with them the meaning of every
criterion of `accuracy_curve`. A bootstrap sample is the original set with a multiplicity for each sample. The interval
ends are therefore sorted only once, and the curve of each bootstrap sample is one pass over them with integer sums.
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
from fastlt.kernels.threads import start_threads

Floats = NDArray[np.float64]
QUANTILES = (0.05, 0.5, 0.95)
_PURPOSE = 0xB007  # part of the Philox counter, so that no other use of the same seed shares random numbers


@dataclass(frozen=True, eq=False)
class ChoiceConfidence:
    """How much a chosen tau and its accuracy vary over bootstrap samples.

    tau: the tau chosen on the original samples.
    taus: float64 [draws], the tau that each bootstrap sample would choose (the middle of its widest best interval).
    quantiles: float64 [3], the 5, 50 and 95 % quantiles of `taus`.
    accuracies: float64 [draws], in percent, the accuracy of `tau` on each bootstrap sample.
    gap: the mean of `accuracies` minus the best accuracy of the same bootstrap sample; never above 0.
    accuracy_se: the standard error of the accuracy of `tau`.
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
    """The definition: computes a curve for every bootstrap sample.

    Returns (taus, accuracies at `tau`, best accuracies), each float64 [draws].
    """
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
    """Sorts the interval ends once, then passes over them once for each bootstrap sample. Returns as `reference`."""
    members, starts = _by_class(labels, len(groups))
    weights, totals = criterion_weights(np.diff(starts), groups)
    which = criterion_index(criterion)
    weight = weights[which][labels]
    wins = np.flatnonzero((lo <= hi) & (lo < np.inf) & (hi > -np.inf))
    ends = np.concatenate([lo[wins], hi[wins]])
    order = np.argsort(ends)
    order = order[: np.searchsorted(ends[order], np.inf)]  # an interval up to infinity changes nothing at its end
    change = np.concatenate([weight[wins], -weight[wins]])[order]
    right = np.where((lo <= tau) & (tau <= hi), weight, 0)
    sample = np.concatenate([wins, wins])[order]
    sums = np.empty(draws), np.empty(draws)
    intervals = np.empty((draws, 2))
    scale = float(totals[which])
    start_threads()
    _walks(ends[order], sample, change, right, scale, members, starts, np.uint64(seed), intervals, *sums)
    taus = np.array([middle(*interval)[0] for interval in intervals.tolist()])
    return taus, *sums


def choice_confidence(
    lo: Any, hi: Any, labels: Any, groups: Any, criterion: str = "mean_class", draws: int = 200, seed: int = 0
) -> ChoiceConfidence:
    """Estimates how much the best tau and its accuracy would vary over other samples of the same classes.

    lo, hi, labels, groups: as `accuracy_curve` takes them; GPU tensors are copied to the host.
    criterion: one of `CRITERIA`.
    draws: the number of bootstrap samples, at least 2.
    seed: 0 to 2^64 - 1; the result depends on it alone, not on the number of threads.

    Returns a `ChoiceConfidence`. Raises ValueError as `accuracy_curve` and `AccuracyCurve.best` do, and for draws or a
    seed out of range.
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
    """Returns (sample numbers sorted by class [N], position at which each class starts [C + 1])."""
    sizes = np.bincount(labels, minlength=classes)
    return np.argsort(labels, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])


@njit(cache=True)
def _resample(members, starts, seed, draw, times):
    """Draws as many samples of each class as it has, with replacement, and adds to times[i] how often sample i came.

    Position p of the sorted samples uses word p % 4 of the random number with the counter (p // 4, draw). The bias for
    a class of n samples is below n / 2^32.
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
    """Computes the curve of one bootstrap sample and returns its number of pieces.

    Fills edges [pieces + 1], from -inf to inf, and values [pieces], in percent.
    """
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
    return np.nextafter(edges[piece], np.inf) < edges[piece + 1]  # else no float64 lies inside the piece


@njit(cache=True)
def _best(edges, values, pieces):
    """Returns (lo, hi, highest value), the interval being chosen as `AccuracyCurve.best` does."""
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
