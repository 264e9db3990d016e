"""Weights of the tau-normalized classifier (Kang et al. 2020, section 4) for many values of tau at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import float32, float64, njit, prange

from fastlt.kernels import gpu
from fastlt.kernels.arrays import Array, check_rows, host, on_gpu, take, tensor
from fastlt.kernels.gpu import THREADS, cu


def reference(weight: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """The definition in NumPy and float64."""
    weight = weight.astype(np.float64)
    norm = np.linalg.norm(weight, axis=1)
    norm[norm == 0] = 1
    return (weight / norm[:, None] ** np.asarray(taus, np.float64)[:, None, None]).astype(np.float32)


def cpu(weight: torch.Tensor, taus: torch.Tensor) -> torch.Tensor:
    """One read of the weights, one write of the result."""
    result, finite = _space(weight, taus)
    _normalize_rows(weight.numpy(), taus.numpy(), result.numpy(), finite.numpy())
    return _checked(result, finite, taus)


def cuda(weight: torch.Tensor, taus: torch.Tensor) -> torch.Tensor:
    """One block a class."""
    result, finite = _space(weight, taus)
    _normalize_on_gpu.launch(gpu.blocks_for(len(weight), weight.device), weight, taus, result, finite)
    return _checked(result, finite, taus)


def _space(weight: torch.Tensor, taus: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    result = torch.empty((len(taus), *weight.shape), dtype=torch.float32, device=weight.device)
    return result, torch.empty(result.shape[:2], dtype=torch.bool, device=weight.device)


def _checked(result: torch.Tensor, finite: torch.Tensor, taus: torch.Tensor) -> torch.Tensor:
    if not bool(finite.all()):
        one, label = finite.logical_not().nonzero()[0].tolist()
        raise ValueError(
            f"weights of class {label} at tau {taus[one]:g}: not finite in float32; a smaller |tau| may be, if they are"
        )
    return result


def tau_normalize(weight: Any, taus: Any) -> Array:
    """w_c / ||w_c||^tau for every tau: [T, C, D].

    weight: float32 [C, D], finite, one row a class. taus: T finite numbers. Returns float32, norms and powers in
    float64. A class of norm zero keeps its zeros at every tau.
    Raises ValueError for wrong shapes or dtypes, NaN or infinite values, and where a result is beyond float32.
    """
    weight = take(weight)
    check_rows(weight, "weights", "[C, D]", ("float32",))
    taus = np.atleast_1d(host(take(taus), np.float64))
    if taus.ndim != 1 or not np.isfinite(taus).all():
        raise ValueError(f"taus are {taus.tolist()}; allowed are finite numbers [T]")
    rows = tensor(weight)
    result = (cuda if on_gpu(weight) else cpu)(rows, tensor(taus, rows.device))
    return result if isinstance(weight, torch.Tensor) else result.numpy()


@njit(parallel=True, cache=True)
def _normalize_rows(weight, taus, result, finite):
    for label in prange(weight.shape[0]):
        row = weight[label]
        square, largest = 0.0, np.float32(0)
        for j in range(row.size):
            square += np.float64(row[j]) * np.float64(row[j])
            largest = max(largest, abs(row[j]))
        for t in range(taus.size):
            factor = square ** (-0.5 * taus[t]) if square != 0 else 1.0
            finite[t, label] = np.isfinite(square) and np.isfinite(np.float32(largest * factor))
            for j in range(row.size):
                result[t, label, j] = row[j] * factor


@gpu.kernel("float32[:, ::1], float64[::1], float32[:, :, ::1], boolean[:, ::1]")
def _normalize_on_gpu(weight, taus, result, finite):
    maxima = cu.shared.array(THREADS, float32)
    scratch = cu.shared.array(THREADS, float64)
    for label in range(cu.blockIdx.x, weight.shape[0], cu.gridDim.x):
        part, largest = 0.0, float32(0)
        for j in range(cu.threadIdx.x, weight.shape[1], THREADS):
            part += np.float64(weight[label, j]) * np.float64(weight[label, j])
            largest = max(largest, abs(weight[label, j]))
        square = gpu.block_sum(part, scratch)
        largest = gpu.block_max(largest, maxima)
        for t in range(taus.size):
            factor = square ** (-0.5 * taus[t]) if square != 0 else 1.0
            if cu.threadIdx.x == 0:
                finite[t, label] = square < np.inf and float32(largest * factor) < np.inf
            for j in range(cu.threadIdx.x, weight.shape[1], THREADS):
                result[t, label, j] = weight[label, j] * factor
