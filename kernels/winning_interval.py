"""For which tau is a sample classified right? Tau-normalisation (Kang et al. 2020, section 4) for all tau at once.

Class y wins at tau if z_y ||w_y||^-tau >= z_c ||w_c||^-tau for every class c, z = Wx without bias. With z_y, z_c > 0
and b = log ||w|| this is tau (b_c - b_y) >= log(z_c / z_y): a bound on tau from below where b_c > b_y, from above
where b_c < b_y. So the winning taus are one closed interval. Logit adjustment after training, z_c - tau log p_c, gives
tau (log p_c - log p_y) >= z_c - z_y, the same without logarithms.
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
"""Fills the intervals of some rows, such as winning_interval_cpu.intervals."""

_MAX_LOG_NORM = 1000.0  # log of any positive float64 is in -746..710


def reference(scores: NDArray[Any], log_norm: NDArray[np.float64], labels: NDArray[np.int64]) -> Interval:
    """The definition in NumPy and float64, one row at a time."""
    alive = np.isfinite(log_norm)
    z_all = np.where(alive, scores.astype(np.float64), 0.0)
    lo, hi = np.full(len(labels), np.inf), np.full(len(labels), -np.inf)
    for i, (z, y) in enumerate(zip(z_all, labels, strict=True)):
        sign = np.sign(z[y])
        if (sign == 0 and z.max() > 0) or (sign < 0 and z.max() >= 0):
            continue
        rivals = np.sign(z) == sign if sign != 0 else np.zeros(len(z), bool)
        gap = sign * np.log(z[rivals] / z[y])
        slope = sign * (log_norm[rivals] - log_norm[y])
        lo[i], hi[i] = _intersect(gap, slope)
    return lo, hi


def reference_additive(scores: NDArray[Any], log_prior: NDArray[np.float64], labels: NDArray[np.int64]) -> Interval:
    """The same for z_c - tau log p_c."""
    lo, hi = np.full(len(labels), np.inf), np.full(len(labels), -np.inf)
    for i, (z, y) in enumerate(zip(scores.astype(np.float64), labels, strict=True)):
        lo[i], hi[i] = _intersect(z - z[y], log_prior - log_prior[y])
    return lo, hi


def _intersect(gap: NDArray[np.float64], slope: NDArray[np.float64]) -> tuple[float, float]:
    """All tau with tau * slope >= gap, as (lo, hi); (inf, -inf) if there is none."""
    up, down = slope > 0, slope < 0
    lo = np.max(gap[up] / slope[up], initial=-np.inf)
    hi = np.min(gap[down] / slope[down], initial=np.inf)
    never = lo > hi or np.any(gap[slope == 0] > 0)
    return (np.inf, -np.inf) if never else (lo + 0.0, hi + 0.0)


def reference_linear(features: NDArray[Any], weight: NDArray[np.float32], labels: NDArray[np.int64]) -> Interval:
    """From features and weights, all in float64."""
    rows = weight.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1)
    log_norm = np.log(norm, out=np.full(len(norm), -np.inf), where=norm > 0)
    return reference(features.astype(np.float64) @ rows.T, log_norm, labels)


def reference_linear_additive(
    features: NDArray[Any],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    log_prior: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> Interval:
    """The same for z_c - tau log p_c."""
    return reference_additive(features.astype(np.float64) @ weight.astype(np.float64).T + bias, log_prior, labels)


def cpu(scores: torch.Tensor, log_norm: torch.Tensor, labels: torch.Tensor) -> Tensors:
    """One pass over the scores with float32 logarithms finds the few classes that can bound tau; float64 decides."""
    return _over([(slice(None), scores)], log_norm, labels, winning_interval_cpu.intervals)


def cpu_additive(scores: torch.Tensor, log_prior: torch.Tensor, labels: torch.Tensor) -> Tensors:
    """One pass over the scores in float64."""
    return _over([(slice(None), scores)], log_prior, labels, winning_interval_cpu.intervals_additive)


def cuda(scores: torch.Tensor, log_norm: torch.Tensor, labels: torch.Tensor) -> Tensors:
    """As `cpu`, one block a row."""
    return _over([(slice(None), scores)], log_norm, labels, winning_interval_cuda.intervals)


def cuda_additive(scores: torch.Tensor, log_prior: torch.Tensor, labels: torch.Tensor) -> Tensors:
    """As `cpu_additive`, one block a row."""
    return _over([(slice(None), scores)], log_prior, labels, winning_interval_cuda.intervals_additive)


def linear(features: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, fill: Fill) -> Tensors:
    """Tile by tile, so that the scores are read where the matrix product left them: in the cache."""
    log_norm = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64).log()
    return _over(score_tiles(features, weight), log_norm, labels, fill)


def linear_additive(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    log_prior: torch.Tensor,
    labels: torch.Tensor,
    fill: Fill,
) -> Tensors:
    """The same for z_c - tau log p_c."""
    tiles = ((rows, scores.add_(bias)) for rows, scores in score_tiles(features, weight))
    return _over(tiles, log_prior, labels, fill)


def _over(
    tiles: Iterable[tuple[slice, torch.Tensor]], per_class: torch.Tensor, labels: torch.Tensor, fill: Fill
) -> Tensors:
    lo, hi = (torch.empty(len(labels), dtype=torch.float64, device=labels.device) for _ in range(2))
    finite = torch.empty(len(labels), dtype=torch.bool, device=labels.device)
    for rows, scores in tiles:
        fill(scores, per_class, labels[rows], lo[rows], hi[rows], finite[rows])
    if not finite.all():  # once, for it makes the host wait for a GPU
        wrong = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"scores row {wrong} has a NaN or infinite value; only finite values are allowed")
    return lo, hi


def winning_interval(scores: Any, log_norm: Any, labels: Any) -> tuple[Array, Array]:
    """The closed interval of tau in which argmax_c z_c exp(-tau log_norm_c) is the label.

    scores: float32 [N, C], z = Wx without bias, finite. log_norm: floats [C], log ||w_c||, in -1000..1000 or -inf.
    labels: integers [N] in 0..C-1. Returns lo, hi float64 [N], of the kind and on the device of `scores`; a label that
    wins at no tau has lo = inf, hi = -inf, one that wins at every tau has lo = -inf, hi = inf. So may ends beyond 1e30.

    Ties count as wins: they are the ends of the intervals, and whole rows where equal norms tie equal scores. A score
    of 0 stays 0 at every tau, and so does the score of a class with ||w|| = 0 (log_norm -inf), whatever `scores` says:
    such a label wins everywhere if no score is positive, else nowhere. A negative label wins only where every score is
    negative, with the inequality turned round.
    Raises ValueError for wrong shapes or dtypes, labels out of range, scores or norms that are NaN or infinite.
    """
    scores = _scores(scores)
    norms = _per_class(log_norm, "log_norm", scores)
    allowed = (np.abs(norms) <= _MAX_LOG_NORM) | (norms == -np.inf)
    if not allowed.all():
        wrong = np.argmin(allowed)
        raise ValueError(f"log_norm[{wrong}] is {norms[wrong]}; allowed are -1000 to 1000 and -inf")
    return _answer(scores, norms, labels, cuda if on_gpu(scores) else cpu)


def winning_interval_additive(scores: Any, log_prior: Any, labels: Any) -> tuple[Array, Array]:
    """The closed interval of tau in which argmax_c z_c - tau log_prior_c is the label (logit adjustment).

    As `winning_interval`, with the log of the class frequencies [C], finite, in the place of the norms; scores are
    logits and may contain a bias. A class without training images has no finite log: give it a prior of your choice.
    """
    scores = _scores(scores)
    priors = _finite_prior(log_prior, scores)
    return _answer(scores, priors, labels, cuda_additive if on_gpu(scores) else cpu_additive)


def winning_interval_linear(features: Any, weight: Any, labels: Any) -> tuple[Array, Array]:
    """`winning_interval` of the scores `features @ weight.T`, which never lie in memory as a whole.

    features: float32, float16 or bfloat16 [N, D]. weight: float32 [C, D]; its norms are taken in float64. labels:
    integers [N] in 0..C-1. Returns lo, hi float64 [N], of the kind and on the device of `features`.
    Raises ValueError for wrong shapes or dtypes, labels out of range, weights or scores that are NaN or infinite.
    """
    features, weights, classes = _linear_inputs(features, weight, labels)
    fill = winning_interval_cuda.intervals if on_gpu(features) else winning_interval_cpu.intervals
    return _kind(linear(tensor(features), weights, classes, fill), features)


def winning_interval_linear_additive(
    features: Any, weight: Any, bias: Any, log_prior: Any, labels: Any
) -> tuple[Array, Array]:
    """`winning_interval_additive` of the scores `features @ weight.T + bias`, which never lie in memory as a whole.

    As `winning_interval_linear`; bias: floats [C]. log_prior: floats [C], finite.
    """
    features, weights, classes = _linear_inputs(features, weight, labels)
    priors = tensor(_finite_prior(log_prior, weights.T), weights.device)
    offsets = tensor(_per_class(bias, "bias", weights.T), weights.device, torch.float32)
    fill = winning_interval_cuda.intervals_additive if on_gpu(features) else winning_interval_cpu.intervals_additive
    return _kind(linear_additive(tensor(features), weights, offsets, priors, classes, fill), features)


def _scores(scores: Any) -> Array:
    scores = take(scores)
    if dtype_name(scores) != "float32" or scores.ndim != 2 or scores.shape[1] == 0:
        shape = tuple(scores.shape)
        raise ValueError(f"scores are {dtype_name(scores)} {shape}; allowed is float32 [N, C] with C at least 1")
    return scores


def _per_class(values: Any, name: str, scores: Array) -> NDArray[np.float64]:
    values, classes = take(values), scores.shape[1]
    if tuple(values.shape) != (classes,) or not dtype_name(values).startswith("float"):
        shape = tuple(values.shape)
        raise ValueError(f"{name} is {dtype_name(values)} {shape}; allowed are floats of shape ({classes},)")
    return host(values, np.float64)


def _finite_prior(log_prior: Any, scores: Array) -> NDArray[np.float64]:
    priors = _per_class(log_prior, "log_prior", scores)
    if not np.isfinite(priors).all():
        wrong = np.argmin(np.isfinite(priors))
        raise ValueError(f"log_prior[{wrong}] is {priors[wrong]}; allowed are finite values")
    return priors


def _linear_inputs(features: Any, weight: Any, labels: Any) -> tuple[Array, torch.Tensor, torch.Tensor]:
    """Features as they are, weight and labels as tensors where the features lie."""
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


def _answer(scores: Array, per_class: NDArray[np.float64], labels: Any, function: Callable[..., Tensors]) -> Any:
    labels = take(labels)
    check_labels(labels, len(scores), scores.shape[1])
    rows = tensor(scores)
    result = function(rows, tensor(per_class, rows.device), tensor(labels, rows.device, torch.int64))
    return _kind(result, scores)


def _kind(interval: Tensors, model: Array) -> tuple[Array, Array]:
    """An interval in the kind of the array it was computed from."""
    lo, hi = interval
    return (lo, hi) if isinstance(model, torch.Tensor) else (lo.numpy(), hi.numpy())
