"""Accuracy as an exact step function of tau, from the interval of tau in which each sample is classified right.

Every accuracy of Kang et al. 2020, section 5.1 (all, many, medium, few) changes only at the ends of the intervals of
`winning_interval`, so sorting the ends gives it on the whole real line: no grid of tau is needed to choose the best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CRITERIA = ("all", "mean_class", "many", "medium", "few")
_EQUAL = 1e-9  # accuracies, in percent, that differ by less are the same: different sums of the same fractions


@dataclass(frozen=True, eq=False)
class AccuracyCurve:
    """Step functions of tau, in percent. Piece k is the open interval from breakpoint k - 1 to breakpoint k.

    breakpoints: float64 [K], rising, without repeats. all (over samples), mean_class (over classes that have samples),
    many, medium, few (over the classes of a group that have samples, NaN if there are none): float64 [K + 1], one value
    per piece; the first piece begins at -inf, the last ends at inf. at_breakpoints: float64 [5, K], rows in the order
    of `CRITERIA`; there the intervals that end at a breakpoint and those that begin at it both count.
    """

    breakpoints: Floats
    all: Floats
    mean_class: Floats
    many: Floats
    medium: Floats
    few: Floats
    at_breakpoints: Floats

    def at(self, taus: ArrayLike) -> dict[str, Floats]:
        """Accuracies at any tau, one array per criterion in the shape of taus; inf and -inf mean the limits.

        Exactly at a breakpoint the closed intervals count, that is a tie is a win: the value there is never below
        those of the two pieces beside it. Raises ValueError for NaN.
        """
        taus = np.asarray(taus, dtype=np.float64)
        if np.isnan(taus).any():
            raise ValueError("taus has a NaN; allowed are numbers, inf and -inf")
        piece = np.searchsorted(self.breakpoints, taus, side="left")
        on_breakpoint = np.append(self.breakpoints, np.nan)[piece] == taus
        ties = np.append(self.at_breakpoints, np.zeros((len(CRITERIA), 1)), axis=1)[:, piece]
        return {name: np.where(on_breakpoint, ties[i], getattr(self, name)[piece]) for i, name in enumerate(CRITERIA)}

    def best(self, criterion: str = "mean_class") -> tuple[float, tuple[float, float], float]:
        """The tau with the highest accuracy: (tau, (lo, hi), accuracy in percent).

        (lo, hi) is the widest open interval on which the criterion stays at its maximum over all pieces, the one
        nearest to 0 if several are as wide, and the left one of those. Single points where ties count are no pieces.
        tau is the midpoint, with as few decimals as leave it in the middle half of the interval. If one end is infinite
        tau is 0 where that lies at least 1 inside the finite end, else the number about 1 inside it; 0 if both are.
        Raises ValueError for an unknown criterion or a group without samples.
        """
        if criterion not in CRITERIA:
            raise ValueError(f"criterion is {criterion!r}; allowed are {', '.join(CRITERIA)}")
        values = getattr(self, criterion)
        if np.isnan(values).any():
            raise ValueError(f"criterion {criterion!r} is undefined: no sample belongs to this group")
        ends = np.concatenate([[-np.inf], self.breakpoints, [np.inf]])
        reachable = np.nextafter(ends[:-1], np.inf) < ends[1:]  # between two neighbouring numbers there is no tau
        top = (values >= values[reachable].max() - _EQUAL) & reachable
        edges = np.flatnonzero(np.diff(np.concatenate([[False], top, [False]]).astype(np.int8)))
        lo, hi = ends[edges[::2]], ends[edges[1::2]]
        from_zero = np.maximum(0.0, np.maximum(lo, -hi))
        chosen = np.lexsort((lo, from_zero, lo - hi))[0]
        tau = self._inside(float(lo[chosen]), float(hi[chosen]))
        return tau, (float(lo[chosen]), float(hi[chosen])), float(self.at(tau)[criterion])

    def _inside(self, lo: float, hi: float) -> float:
        """A tau well inside an interval, short to write, and on no breakpoint."""
        if math.isinf(lo) or math.isinf(hi):
            end = next((end for end in (lo, hi) if not math.isinf(end)), 0.0)
            step = max(1.0, 1e-6 * abs(end))  # far from 0 a step of 1 would be lost in rounding
            wanted, reach = min(max(0.0, lo + step), hi - step), step / 2
        else:
            wanted, reach = lo + (hi / 2 - lo / 2), hi / 4 - lo / 4
        for decimals in range(17):
            tau = round(wanted, decimals) + 0.0
            if abs(tau - wanted) <= reach and lo < tau < hi and not np.isin(tau, self.breakpoints):
                return tau
        inner = self.breakpoints[(self.breakpoints > lo) & (self.breakpoints < hi)]
        if inner.size:  # in the way of every short number: take the widest piece of the interval
            ends = np.concatenate([[lo], inner, [hi]])
            widest = int(np.argmax(np.diff(ends)))
            return self._inside(float(ends[widest]), float(ends[widest + 1]))
        return wanted if lo < wanted < hi else float(np.nextafter(lo, hi))


def reference(lo: Floats, hi: Floats, labels: NDArray[np.int64], groups: NDArray[np.int8]) -> AccuracyCurve:
    """The definition: count the right samples anew for every piece and every breakpoint."""
    wins = (lo <= hi) & (lo < np.inf) & (hi > -np.inf)
    ends = np.concatenate([lo[wins], hi[wins]])
    points = np.unique(ends[np.isfinite(ends)]) + 0.0
    left, right = np.append(-np.inf, points), np.append(points, np.inf)
    values = []
    for a, b in [*zip(left, right, strict=True), *zip(points, points, strict=True)]:
        right_class = labels[wins & (lo <= a) & (b <= hi)]
        sizes = np.bincount(labels, minlength=len(groups)).astype(np.float64)
        per_class = np.bincount(right_class, minlength=len(groups)) / np.where(sizes > 0, sizes, np.nan)
        members = [sizes > 0, *((sizes > 0) & (groups == group) for group in range(3))]
        means = [per_class[m].mean() if m.any() else np.nan for m in members]
        values.append([len(right_class) / len(labels), *means])
    percent = 100 * np.array(values).T
    return AccuracyCurve(points, *percent[:, : len(left)], at_breakpoints=percent[:, len(left) :])


def cpu(lo: Floats, hi: Floats, labels: NDArray[np.int64], groups: NDArray[np.int8]) -> AccuracyCurve:
    """Sorts the ends and takes running sums of integers, so that equal sets of right samples give equal values.

    NumPy sorts about as fast as a kernel of our own would, so there is none.
    """
    wins = (lo <= hi) & (lo < np.inf) & (hi > -np.inf)
    begin, end, winners = lo[wins], hi[wins], labels[wins]
    ends = np.concatenate([begin, end])
    points = np.unique(ends[np.isfinite(ends)]) + 0.0
    by_begin, by_end = np.argsort(begin), np.argsort(end)
    begun = np.searchsorted(begin[by_begin], np.append(-np.inf, points), side="right")
    ended = np.searchsorted(end[by_end], np.append(-np.inf, points), side="right")
    ended_before = np.searchsorted(end[by_end], points, side="left")
    pieces, ties = [], []
    sizes = np.bincount(labels, minlength=len(groups))
    all_samples = np.ones(len(groups), np.int64), len(labels)
    of_groups = [_class_weights(sizes, groups == group) for group in range(3)]
    for weights, total in [all_samples, _class_weights(sizes, np.ones(len(groups), bool)), *of_groups]:
        gained = np.append(0, np.cumsum(weights[winners[by_begin]]))
        lost = np.append(0, np.cumsum(weights[winners[by_end]]))
        scale = 100.0 if total else np.nan
        pieces.append((gained[begun] - lost[ended]) / max(total, 1) * scale)
        ties.append((gained[begun[1:]] - lost[ended_before]) / max(total, 1) * scale)
    return AccuracyCurve(points, *pieces, at_breakpoints=np.array(ties))


def _class_weights(sizes: NDArray[np.int64], members: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Integer weight of one sample of each class so that every class weighs the same, and the sum of all weights.

    Exact where a common multiple of the sizes is small, as on balanced splits; else rounded to 2^-62 of the sum, which
    is below 1e-9 percent up to 10^8 samples.
    """
    members = members & (sizes > 0)
    classes = int(members.sum())
    weights = np.zeros(len(sizes), np.int64)
    if classes == 0:
        return weights, 0
    unit = math.lcm(*np.unique(sizes[members]).tolist())
    if unit * classes > 2**53:
        unit = 2**62 // classes
    weights[members] = (unit + sizes[members] // 2) // sizes[members]
    return weights, unit * classes


def accuracy_curve(lo: ArrayLike, hi: ArrayLike, labels: ArrayLike, groups: ArrayLike) -> AccuracyCurve:
    """Accuracy in percent as a step function of tau on the whole real line, in O(N log N).

    lo, hi: float64 [N], the closed interval of tau where each sample is right; lo > hi means at no tau. labels:
    integers [N] in 0..C-1. groups: int8 [C], 0 many, 1 medium, 2 few. Sample i counts as right at tau if
    lo_i <= tau <= hi_i; the accuracy of a group is the mean over its classes with samples of the share that is right.
    Raises ValueError for wrong shapes, no samples, NaN, labels or groups out of range.
    """
    lo, hi = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    labels, groups = np.asarray(labels), np.asarray(groups)
    if lo.ndim != 1 or lo.size == 0 or hi.shape != lo.shape or labels.shape != lo.shape:
        raise ValueError(
            f"lo, hi, labels have shapes {lo.shape}, {hi.shape}, {labels.shape}; allowed is one [N], N >= 1"
        )
    if np.isnan(lo).any() or np.isnan(hi).any():
        wrong = np.argmax(np.isnan(lo) | np.isnan(hi))
        raise ValueError(f"interval {wrong} is {lo[wrong]} to {hi[wrong]}; NaN is not allowed, lo > hi means at no tau")
    if groups.ndim != 1 or groups.dtype.kind not in "iu" or labels.dtype.kind not in "iu":
        raise ValueError(f"labels, groups are {labels.dtype}, {groups.dtype} {groups.shape}; allowed are integers, [C]")
    wrong = groups[(groups < 0) | (groups > 2)]
    if wrong.size:
        raise ValueError(f"group {wrong[0]} is unknown; allowed are 0 (many), 1 (medium), 2 (few)")
    wrong = labels[(labels < 0) | (labels >= len(groups))]
    if wrong.size:
        raise ValueError(f"label {wrong[0]} is out of range; allowed is 0 to {len(groups) - 1}")
    return cpu(lo, hi, labels.astype(np.int64), groups.astype(np.int8))
