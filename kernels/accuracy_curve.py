"""Computes accuracy as an exact step function of tau.

The input is, for every sample, the interval of tau in which it is classified correctly (see `winning_interval`). The
accuracies of Kang et al. 2020 (all, many, medium, few) change only at the ends of these intervals. Sorting the ends
therefore gives each accuracy on the whole real line, and the best tau is found without a grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from fastlt.kernels.arrays import Array, check_labels, dtype_name, host, take, tensor

Floats = NDArray[np.float64]
CRITERIA = ("all", "mean_class", "many", "medium", "few")
EQUAL = 1e-9
"""Accuracies, in percent, that differ by less than this count as equal: they are sums of the same fractions in
different orders."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Runs PyTorch on one thread: in many short operations, threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, eq=False)
class AccuracyCurve:
    """The accuracies of a classifier as step functions of tau, in percent.

    Piece k is the open interval of tau from breakpoint k - 1 to breakpoint k; the first piece begins at -inf, the last
    one ends at inf. All fields are tensors on the device of the intervals:

    breakpoints: float64 [K], strictly increasing.
    all: float64 [K + 1], the share of correct samples, one value per piece.
    mean_class: float64 [K + 1], the mean of the class accuracies over all classes that have samples.
    many, medium, few: float64 [K + 1], the same mean over the classes of one group; NaN if none has samples.
    at_breakpoints: float64 [5, K], the values exactly at the breakpoints, rows in the order of `CRITERIA`. At a
    breakpoint the intervals that end there and those that begin there both count.
    """

    breakpoints: torch.Tensor
    all: torch.Tensor
    mean_class: torch.Tensor
    many: torch.Tensor
    medium: torch.Tensor
    few: torch.Tensor
    at_breakpoints: torch.Tensor

    def at(self, taus: Any) -> dict[str, Floats]:
        """Returns the accuracies at the given taus: {criterion: float64 array in the shape of `taus`}.

        taus: a number or an array; inf and -inf give the limits. Exactly at a breakpoint a tie counts as correct, so
        the value there is never below the values of the two pieces beside it. Raises ValueError for NaN.
        """
        wanted = tensor(host(take(taus), np.float64).reshape(np.shape(taus)), self.breakpoints.device)
        if wanted.isnan().any():
            raise ValueError("taus has a NaN; allowed are numbers, inf and -inf")
        piece = torch.searchsorted(self.breakpoints, wanted)
        on_breakpoint = pad(self.breakpoints, (0, 1), value=math.nan)[piece] == wanted
        ties = pad(self.at_breakpoints, (0, 1))[:, piece]
        between = torch.stack([getattr(self, name)[piece] for name in CRITERIA])
        return dict(zip(CRITERIA, torch.where(on_breakpoint, ties, between).cpu().numpy(), strict=True))

    @_one_thread()
    def best(self, criterion: str = "mean_class") -> tuple[float, tuple[float, float], float]:
        """Finds the tau with the highest accuracy and returns (tau, (lo, hi), accuracy in percent).

        criterion: one of `CRITERIA`.

        (lo, hi) is the widest open interval on which the criterion stays at its maximum over all pieces. Among equally
        wide intervals the one nearest to 0 is taken, and of two equally near ones the left. Breakpoints themselves,
        where ties count as correct, are not considered.

        tau is the midpoint of the interval, rounded to as few decimals as keep it in the middle half. If one end is
        infinite, tau is 0 where 0 lies at least 1 inside the finite end, else the number about 1 inside that end. If
        both ends are infinite, tau is 0.

        Raises ValueError for an unknown criterion or for a group without samples.
        """
        values = getattr(self, CRITERIA[criterion_index(criterion)])
        if values.isnan().any():
            raise ValueError(f"criterion {criterion!r} is undefined: no sample belongs to this group")
        ends = _between(-math.inf, self.breakpoints, math.inf)
        reachable = ends[:-1].nextafter(ends[-1]) < ends[1:]  # two adjacent float64 numbers have no tau between them
        top = reachable & (values >= values.where(reachable, -math.inf).max() - EQUAL)
        edges = pad(top.byte(), (1, 1)).diff().nonzero().ravel()  # alternately where a run of `top` begins and ends
        lo, hi = ends[edges[::2]], ends[edges[1::2]]
        width, from_zero = hi - lo, torch.maximum(lo, -hi).clamp_min(0)
        widest = width == width.max()
        chosen = from_zero.where(widest, math.inf).argmin()[None]  # argmin returns the first of equal values
        low, high = torch.cat([lo[chosen], hi[chosen]]).tolist()
        interval = low, high
        tau = self._inside(*interval)
        return tau, interval, float(self.at(tau)[criterion])

    def _inside(self, lo: float, hi: float) -> float:
        """Returns a tau well inside the interval that has few decimals and is no breakpoint."""
        wanted, reach = middle(lo, hi)
        for decimals in range(17):
            tau = round(wanted, decimals) + 0.0
            if abs(tau - wanted) <= reach and lo < tau < hi and not (self.breakpoints == tau).any():
                return tau
        inner = self.breakpoints[(self.breakpoints > lo) & (self.breakpoints < hi)]
        if len(inner):  # every short number is a breakpoint: take the widest piece of the interval
            ends = _between(lo, inner, hi)
            widest = int(ends.diff().argmax())
            return self._inside(float(ends[widest]), float(ends[widest + 1]))
        return wanted if lo < wanted < hi else float(np.nextafter(lo, hi))


def middle(lo: float, hi: float) -> tuple[float, float]:
    """Returns (tau that represents an interval before rounding, how far the rounded tau may lie from it)."""
    if math.isinf(lo) or math.isinf(hi):
        end = next((end for end in (lo, hi) if not math.isinf(end)), 0.0)
        step = max(1.0, 1e-6 * abs(end))  # far from 0 a step of 1 would be lost in rounding
        return min(max(0.0, lo + step), hi - step), step / 2
    return lo + (hi / 2 - lo / 2), hi / 4 - lo / 4


def criterion_index(criterion: str) -> int:
    """Returns the position of a criterion in `CRITERIA`. Raises ValueError for an unknown one."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion is {criterion!r}; allowed are {', '.join(CRITERIA)}")
    return CRITERIA.index(criterion)


def _between(first: float, values: torch.Tensor, last: float) -> torch.Tensor:
    return torch.cat([values.new_tensor([first]), values, values.new_tensor([last])])


def reference(lo: Floats, hi: Floats, labels: NDArray[np.int64], groups: NDArray[np.int8]) -> AccuracyCurve:
    """The definition of `accuracy_curve`: counts the correct samples anew for every piece and every breakpoint."""
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
    percent = torch.from_numpy(100 * np.array(values).T)
    return AccuracyCurve(torch.from_numpy(points), *percent[:, : len(left)], at_breakpoints=percent[:, len(left) :])


@_one_thread()
def cpu(lo: torch.Tensor, hi: torch.Tensor, labels: torch.Tensor, groups: Array) -> AccuracyCurve:
    """Computes the curve by sorting the interval ends and taking running sums.

    The sums are integers, so that equal sets of correct samples give exactly equal accuracies. PyTorch does the sorting
    and summing on every device, deterministically on a GPU as well.

    lo, hi: float64 [N]. labels: int64 [N].
    """
    wins = ((lo <= hi) & (lo < math.inf) & (hi > -math.inf)).nonzero().ravel()
    ends, order = _sorted(torch.cat([lo.index_select(0, wins), hi.index_select(0, wins)]) + 0.0)
    first, stop = int((ends == -math.inf).sum()), int((ends < math.inf).sum())
    finite = ends[first:stop]
    # Positions of the last end at each breakpoint: equal ends follow each other.
    last = pad(finite[1:] != finite[:-1], (0, 1), value=True)[: len(finite)].nonzero().ravel()
    below = pad(last + 1, (1, 0)) + first  # how many ends lie below each piece
    # The running sums must start with 0, so a class of weight 0 is put before the sorted ends.
    classes = pad(labels.index_select(0, wins).repeat(2).index_select(0, order), (1, 0), value=len(groups))
    begun = pad((order < len(wins)).long(), (1, 0))
    ended = 1 - begun
    sizes = torch.bincount(labels, minlength=len(groups)).cpu().numpy()
    weights, totals = criterion_weights(sizes, host(groups, np.int8))
    scales = [[float(max(total, 1)), 100.0 if total else math.nan] for total in totals]
    totals, percents = torch.tensor(scales, dtype=torch.float64).to(lo.device).T[:, :, None]
    weights = pad(tensor(weights, lo.device), (0, 1))
    pieces, ties = [], []
    # A GPU spends its time on the number of calls, so it takes all criteria at once; a CPU spends it on memory traffic.
    together = len(CRITERIA) if lo.is_cuda else 1
    for some, total, percent in zip(*(one.split(together) for one in (weights, totals, percents)), strict=True):
        weight = some.index_select(1, classes)
        gained = _running_sums(weight * begun).index_select(1, below)
        lost = _running_sums(weight * ended).index_select(1, below)
        pieces.append((gained - lost).double() / total * percent)
        ties.append((gained[:, 1:] - lost[:, :-1]).double() / total * percent)
    return AccuracyCurve(finite.index_select(0, last), *torch.cat(pieces), at_breakpoints=torch.cat(ties))


def _running_sums(rows: torch.Tensor) -> torch.Tensor:
    """Returns the running sums of each row. Rows must begin with 0.

    All rows are summed as one long row, which is much faster on a GPU; integer overflow cancels in the difference.
    """
    sums = rows.ravel().cumsum(0).view(rows.shape)
    return sums - sums[:, :1]


cuda = cpu


def _sorted(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if values.is_cuda:
        return values.sort()
    order = torch.from_numpy(np.argsort(values.numpy()))  # NumPy sorts many times faster than PyTorch on a CPU
    return values.index_select(0, order), order


def criterion_weights(sizes: NDArray[np.int64], groups: NDArray[np.int8]) -> tuple[NDArray[np.int64], list[int]]:
    """Returns, per criterion, the integer weight of a sample of each class [5, C] and the sum over all samples [5].

    sizes: int64 [C], the number of samples of each class. groups: int8 [C]. The value of a criterion is the weight of
    the correct samples divided by that sum; the sum is 0 where the criterion is undefined.
    """
    every = np.ones(len(groups), bool)
    members = [every, *(groups == group for group in range(3))]
    weights, totals = zip(*(_class_weights(sizes, one) for one in members), strict=True)
    return np.stack([every.astype(np.int64), *weights]), [int(sizes.sum()), *totals]


def _class_weights(sizes: NDArray[np.int64], members: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Returns (integer weights [C] of one sample of each class, chosen so that all classes weigh the same; their sum).

    The weights are exact if the class sizes have a small common multiple, as on balanced splits. Otherwise they are
    rounded to 2^-62 of the sum, an error below 1e-9 percent for up to 10^8 samples.
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


def accuracy_curve(lo: Any, hi: Any, labels: Any, groups: Any) -> AccuracyCurve:
    """Computes accuracy, in percent, as a step function of tau on the whole real line, in O(N log N).

    lo, hi: floats [N], the closed interval of tau in which each sample is correct; lo > hi means that it never is.
    labels: integers [N] in 0..C-1.
    groups: integers [C], the group of each class: 0 many, 1 medium, 2 few (see `fastlt.class_groups`).

    Sample i is correct at tau if lo_i <= tau <= hi_i. The accuracy of a group is the mean of its class accuracies, over
    the classes that have samples. The computation runs on the device of `lo`.

    Returns an `AccuracyCurve`. Raises ValueError for wrong shapes, no samples, NaN, labels or groups out of range.

    Example:

        lo, hi = winning_interval(features, weight, labels)
        tau, interval, accuracy = accuracy_curve(lo, hi, labels, groups).best("mean_class")
    """
    return cpu(*checked(lo, hi, labels, groups))


def checked(
    lo: Any, hi: Any, labels: Any, groups: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, NDArray[np.int8]]:
    """Converts the arguments of `accuracy_curve` to what `cpu` takes. Raises the ValueErrors named there."""
    lo, hi, labels, groups = (take(one) for one in (lo, hi, labels, groups))
    shapes = [tuple(one.shape) for one in (lo, hi, labels)]
    if len(shapes[0]) != 1 or shapes[0] == (0,) or len(set(shapes)) > 1:
        raise ValueError(f"lo, hi, labels have shapes {', '.join(map(str, shapes))}; allowed is one [N], N >= 1")
    if groups.ndim != 1 or not dtype_name(groups).startswith(("int", "uint")):
        raise ValueError(f"groups are {dtype_name(groups)} {tuple(groups.shape)}; allowed are integers [C]")
    groups = host(groups, np.int64)
    wrong = groups[(groups < 0) | (groups > 2)]
    if wrong.size:
        raise ValueError(f"group {wrong[0]} is unknown; allowed are 0 (many), 1 (medium), 2 (few)")
    check_labels(labels, len(lo), len(groups))
    lo = tensor(lo, dtype=torch.float64)
    hi, labels = tensor(hi, lo.device, torch.float64), tensor(labels, lo.device, torch.int64)
    unclear = lo.isnan() | hi.isnan()
    if unclear.any():
        i = int(unclear.byte().argmax())
        raise ValueError(
            f"interval {i} is {float(lo[i])} to {float(hi[i])}; NaN is not allowed, lo > hi means at no tau"
        )
    return lo, hi, labels, groups.astype(np.int8)
