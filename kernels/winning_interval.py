"""Finds the values of tau at which each sample is classified correctly, for all tau at once.

In tau-normalization (Kang et al. 2020, section 4), class y wins at tau if z_y ||w_y||^-tau >= z_c ||w_c||^-tau for
every class c, where z = Wx without bias. With z_y, z_c > 0 and b = log ||w|| this is the same as
tau (b_c - b_y) >= log(z_c / z_y): a lower bound of tau if b_c > b_y, an upper bound if b_c < b_y. The values of tau at
which y wins therefore form one closed interval.

Post-hoc logit adjustment, z_c - tau log p_c, gives tau (log p_c - log p_y) >= z_c - z_y, which is the same inequality
without logarithms of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastlt.kernels import winning_interval_cpu, winning_interval_cuda
from fastlt.kernels.arrays import Array, check_labels, check_rows, dtype_name, host, on_gpu, take, tensor
from fastlt.kernels.tiles import score_tiles

Interval = tuple[NDArray[np.float64], NDArray[np.float64]]
Tensors = tuple[torch.Tensor, torch.Tensor]
Fill = Callable[..., None]
"""A function that fills the intervals of a tile of rows, such as winning_interval_cpu.intervals."""


def reference(scores: NDArray[Any], log_norm: NDArray[np.float64], labels: NDArray[np.int64]) -> Interval:
    """The definition in NumPy and float64: scores [N, C], log ||w|| [C] and labels [N] give (lo [N], hi [N])."""
    alive = np.isfinite(log_norm)
    z_all = np.where(alive, scores.astype(np.float64), 0.0)
    lo, hi = np.full(len(labels), np.inf), np.full(len(labels), -np.inf)
    for i, (z, y) in enumerate(zip(z_all, labels, strict=True)):
        sign = np.sign(z[y])
        if (sign == 0 and (z.max() > 0 or np.any(z[:y] == 0))) or (sign < 0 and z.max() >= 0):
            continue
        rivals = np.sign(z) == sign if sign != 0 else np.zeros(len(z), bool)
        gap = sign * np.log(z[rivals] / z[y])
        slope = sign * (log_norm[rivals] - log_norm[y])
        lo[i], hi[i] = _intersect(gap, slope, np.flatnonzero(rivals) < y)
    return lo, hi


def reference_additive(scores: NDArray[Any], log_prior: NDArray[np.float64], labels: NDArray[np.int64]) -> Interval:
    """The same as `reference`, for z_c - tau log p_c."""
    lo, hi = np.full(len(labels), np.inf), np.full(len(labels), -np.inf)
    for i, (z, y) in enumerate(zip(scores.astype(np.float64), labels, strict=True)):
        lo[i], hi[i] = _intersect(z - z[y], log_prior - log_prior[y], np.arange(len(z)) < y)
    return lo, hi


def _intersect(gap: NDArray[np.float64], slope: NDArray[np.float64], before: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns (lo, hi), the interval of tau with tau * slope >= gap for every class; (inf, -inf) if it is empty.

    before: bool, the classes before the label, which win where they tie with it at every tau.
    """
    up, down = slope > 0, slope < 0
    lo = np.max(gap[up] / slope[up], initial=-np.inf)
    hi = np.min(gap[down] / slope[down], initial=np.inf)
    level = slope == 0
    never = lo > hi or np.any(gap[level] > 0) or np.any(gap[level & before] == 0)
    return (np.inf, -np.inf) if never else (lo + 0.0, hi + 0.0)


def winning_interval(features: Any, weight: Any, labels: Any, log_length: Any = None) -> tuple[Array, Array]:
    """Computes, for each sample, the closed interval of tau in which argmax_c (w_c . x) / ||w_c||^tau is its label.

    features: float32, float16 or bfloat16 [N, D].
    weight: float32 [C, D]; its norms are computed in float64.
    labels: integers [N] in 0..C-1.
    log_length: floats [C], finite, in place of log ||w_c||, such as log p_c for (w_c . x) / p_c^tau.

    Returns (lo, hi), float64 [N], in the type and on the device of `features`. A label that wins at no tau has lo = inf
    and hi = -inf; one that wins at every tau has lo = -inf and hi = inf. Ends beyond 1e30 may become infinite as well.
    The N x C scores are never in memory as a whole.

    Ties at the ends of the intervals count as wins. Classes with equal norms and equal scores tie at every tau; of
    these the first wins, as in argmax. A score of 0, such as that of a class with ||w|| = 0, is 0 at every tau: a label
    with score 0 wins everywhere if no score is positive and none before its own is 0, else nowhere. A label with a
    negative score wins only if every score is negative; the inequality is then reversed.

    Raises ValueError for wrong shapes or dtypes, labels out of range, weights or scores that are NaN or infinite.

    Example:

        lo, hi = winning_interval(features, weight, labels)
        accuracy_at_one = ((lo <= 1) & (1 <= hi)).mean()
    """
    features, weights, classes = _inputs(features, weight, labels)
    fill = winning_interval_cuda.intervals if on_gpu(features) else winning_interval_cpu.intervals
    if log_length is None:
        log_norm = torch.linalg.vector_norm(weights, dim=1, dtype=torch.float64).log()
    else:
        log_norm = tensor(_finite_per_class(log_length, "log_length", weights), weights.device)
    return _kind(intervals(score_tiles(tensor(features), weights), log_norm, classes, fill), features)


def winning_interval_additive(
    features: Any, weight: Any, bias: Any, log_prior: Any, labels: Any
) -> tuple[Array, Array]:
    """Computes the closed interval of tau in which argmax_c w_c . x + b_c - tau log p_c is the label.

    This is post-hoc logit adjustment.

    features, weight, labels: as in `winning_interval`.
    bias: floats [C].
    log_prior: floats [C], finite, the logarithms of the class frequencies. For a class without training samples, whose
    frequency has no logarithm, the caller must choose a value.

    Returns and raises as `winning_interval`.
    """
    features, weights, classes = _inputs(features, weight, labels)
    priors = _finite_per_class(log_prior, "log_prior", weights)
    offsets = tensor(_per_class(bias, "bias", weights), weights.device, torch.float32)
    fill = winning_interval_cuda.intervals_additive if on_gpu(features) else winning_interval_cpu.intervals_additive
    tiles = ((rows, scores.add_(offsets)) for rows, scores in score_tiles(tensor(features), weights))
    return _kind(intervals(tiles, tensor(priors, weights.device), classes, fill), features)


def intervals(
    tiles: Iterable[tuple[slice, torch.Tensor]], per_class: torch.Tensor, labels: torch.Tensor, fill: Fill
) -> Tensors:
    """Computes the intervals (lo, hi), float64 [N], of scores that come tile by tile.

    Each tile is used as soon as it is computed, while it is still in the cache.

    tiles: pairs of (rows as a slice, scores float32 [n, C]).
    per_class: float64 [C], log ||w|| or log p.
    labels: int64 [N].
    fill: the function that computes the intervals of a tile, which decides what `per_class` means.

    Raises ValueError for a row of scores that is not finite.
    """
    lo, hi = (torch.empty(len(labels), dtype=torch.float64, device=labels.device) for _ in range(2))
    finite = torch.empty(len(labels), dtype=torch.bool, device=labels.device)
    for rows, scores in tiles:
        fill(scores, per_class, labels[rows], lo[rows], hi[rows], finite[rows])
    if not finite.all():  # tested once at the end, because it makes the host wait for a GPU
        wrong = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"scores row {wrong} has a NaN or infinite value; only finite values are allowed")
    return lo, hi


def _per_class(values: Any, name: str, weight: torch.Tensor) -> NDArray[np.float64]:
    values, classes = take(values), len(weight)
    if tuple(values.shape) != (classes,) or not dtype_name(values).startswith("float"):
        shape = tuple(values.shape)
        raise ValueError(f"{name} is {dtype_name(values)} {shape}; allowed are floats of shape ({classes},)")
    return host(values, np.float64)


def _finite_per_class(values: Any, name: str, weight: torch.Tensor) -> NDArray[np.float64]:
    found = _per_class(values, name, weight)
    if not np.isfinite(found).all():
        wrong = np.argmin(np.isfinite(found))
        raise ValueError(f"{name}[{wrong}] is {found[wrong]}; allowed are finite values")
    return found


def _inputs(features: Any, weight: Any, labels: Any) -> tuple[Array, torch.Tensor, torch.Tensor]:
    """Checks the arguments; returns features unchanged, weight and labels as tensors on the device of the features."""
    features, weight, labels = take(features), take(weight), take(labels)
    check_rows(features, "features", "[N, D]")
    check_rows(weight, "weights", "[C, D]", ("float32",))
    if weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"weights have shape {tuple(weight.shape)}, features {tuple(features.shape)}; allowed is one D"
        )
    check_labels(labels, len(features), len(weight))
    device = features.device if isinstance(features, torch.Tensor) else None
    weights = tensor(weight, device)
    finite = weights.isfinite().all(dim=1)
    if not finite.all():
        wrong = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"weights of class {wrong} have a NaN or infinite value; only finite values are allowed")
    return features, weights, tensor(labels, device, torch.int64)


def _kind(interval: Tensors, model: Array) -> tuple[Array, Array]:
    """Returns intervals as the type (tensor or NumPy array) of `model`, the array they were computed from."""
    lo, hi = interval
    return (lo, hi) if isinstance(model, torch.Tensor) else (lo.numpy(), hi.numpy())
