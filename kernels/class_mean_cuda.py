"""Class means on a GPU: the kernels of `class_mean`.

A thread has a column and adds its rows in the order of the classes, in float64 and without atomics, so the bits do not
depend on who comes first. The norms have a kernel of their own: blocks that hold rows between norm and sums would need
more cache than there is for as many blocks as the memory wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import float64

from fastlt.kernels import gpu
from fastlt.kernels.class_pieces import cut
from fastlt.kernels.gpu import SIMULATED, THREADS, cu

_MIN_PIECE = 4 if SIMULATED else 64
_MAX_PIECES = 4096  # of classes with several; each costs 3 D float64


def class_means(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int, mean: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """counts [C], un, l2n, cl2n [C, D] of contiguous rows whose mean is `mean`, float64 [D]."""
    (count, dim), device = features.shape, features.device
    counts = torch.bincount(labels, minlength=num_classes)
    order = torch.argsort(labels, stable=True)
    pieces = cut(counts.numpy(force=True), max(_MIN_PIECE, -(-count // _MAX_PIECES)))
    where = [torch.from_numpy(array).to(device) for array in (pieces.labels, pieces.begins, pieces.stops, pieces.part)]
    multiple, slots = torch.from_numpy(pieces.multiple).to(device), torch.from_numpy(pieces.slots).to(device)
    scales = _scales(features, mean)
    means = torch.zeros((3, num_classes, dim), dtype=torch.float32, device=device)
    parts = torch.empty((int(pieces.slots[-1]), 3, dim), dtype=torch.float64, device=device)
    strips = -(-dim // THREADS)
    blocks = gpu.blocks_for(pieces.labels.size * strips, device)
    _kernels(features).sum_pieces.launch(blocks, features, order, *where, mean, scales, parts, means)
    _join.launch(gpu.blocks_for(pieces.multiple.size * strips, device), multiple, slots, counts, parts, means)
    return counts, means[0], means[1], means[2]


def add(features: torch.Tensor, labels: torch.Tensor, sums: torch.Tensor, mean: torch.Tensor | None) -> None:
    """Adds a batch to sums, float64: of x, x / ||x|| [2, C, D]; or, with the mean, of (x - m) / ||x - m|| [1, C, D]."""
    dim = sums.shape[2]
    present, counts = torch.unique(labels, return_counts=True)
    stops = counts.cumsum(0)
    order = torch.argsort(labels, stable=True)
    centre = torch.zeros(dim, dtype=torch.float64, device=features.device) if mean is None else mean
    blocks = gpu.blocks_for(len(present) * -(-dim // THREADS), features.device)
    _kernels(features).add_rows.launch(
        blocks, features, order, present, stops - counts, stops, centre, _scales(features, centre), sums
    )


def first_not_finite(features: torch.Tensor) -> int:
    """The first row with a NaN or infinite value, or -1."""
    wrong = (~features.isfinite()).any(dim=1).nonzero()
    return int(wrong[0]) if len(wrong) else -1


def _scales(features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """1 / ||x|| and 1 / ||x - m|| of every row, float64 [2, N]; 0 where the norm is."""
    scales = torch.empty((2, len(features)), dtype=torch.float64, device=features.device)
    _kernels(features).norms.launch(gpu.blocks_for(len(features), features.device), features, mean, scales)
    return scales


class _Kernels:
    """The kernels that read features, whose elements become numbers by `number`."""

    def __init__(self, number: Callable[[Any], Any], *dtypes: str):
        @gpu.kernel(*(f"{dtype}[:, ::1], float64[::1], float64[:, ::1]" for dtype in dtypes))
        def norms(features, mean, scales):
            scratch = cu.shared.array(THREADS, float64)
            for row in range(cu.blockIdx.x, features.shape[0], cu.gridDim.x):
                plain, centred = 0.0, 0.0
                for j in range(cu.threadIdx.x, mean.size, THREADS):
                    x = number(features[row, j])
                    plain += x * x
                    centred += (x - mean[j]) * (x - mean[j])
                plain, centred = gpu.block_sum(plain, scratch), gpu.block_sum(centred, scratch)
                if cu.threadIdx.x == 0:
                    scales[0, row] = 1 / math.sqrt(plain) if plain > 0 else 0.0
                    scales[1, row] = 1 / math.sqrt(centred) if centred > 0 else 0.0

        rows = "{}[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], "

        @gpu.kernel(
            *(
                rows.format(dtype) + "int64[::1], float64[::1], float64[:, ::1], float64[:, :, ::1], float32[:, :, ::1]"
                for dtype in dtypes
            )
        )
        def sum_pieces(features, order, labels, begins, stops, part, mean, scales, parts, means):
            strips = (mean.size + THREADS - 1) // THREADS
            for work in range(cu.blockIdx.x, labels.size * strips, cu.gridDim.x):
                piece, j = work // strips, work % strips * THREADS + cu.threadIdx.x
                if j < mean.size:
                    un, l2n, cl2n = 0.0, 0.0, 0.0
                    for i in range(begins[piece], stops[piece]):
                        row = order[i]
                        x = number(features[row, j])
                        un += x
                        l2n += x * scales[0, row]
                        cl2n += (x - mean[j]) * scales[1, row]
                    if part[piece] >= 0:
                        parts[part[piece], 0, j] = un
                        parts[part[piece], 1, j] = l2n
                        parts[part[piece], 2, j] = cl2n
                    else:
                        rows = stops[piece] - begins[piece]
                        means[0, labels[piece], j] = un / rows
                        means[1, labels[piece], j] = l2n / rows
                        means[2, labels[piece], j] = cl2n / rows

        @gpu.kernel(*(rows.format(dtype) + "float64[::1], float64[:, ::1], float64[:, :, ::1]" for dtype in dtypes))
        def add_rows(features, order, labels, begins, stops, mean, scales, sums):
            strips = (mean.size + THREADS - 1) // THREADS
            for work in range(cu.blockIdx.x, labels.size * strips, cu.gridDim.x):
                piece, j = work // strips, work % strips * THREADS + cu.threadIdx.x
                if j < mean.size:
                    for kind in range(sums.shape[0]):
                        total = sums[kind, labels[piece], j]
                        for i in range(begins[piece], stops[piece]):
                            row = order[i]
                            x = number(features[row, j])
                            if sums.shape[0] == 1:
                                x = (x - mean[j]) * scales[1, row]
                            elif kind == 1:
                                x *= scales[0, row]
                            total += x
                        sums[kind, labels[piece], j] = total

        self.norms, self.sum_pieces, self.add_rows = norms, sum_pieces, add_rows


@gpu.device_function
def _as_it_is(value):
    return np.float64(value)


@gpu.device_function
def _from_brain(bits):
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


_PLAIN = _Kernels(_as_it_is, "float32", "float16")
_BRAIN = _Kernels(_from_brain, "int16")


def _kernels(features: torch.Tensor) -> _Kernels:
    return _BRAIN if features.dtype == torch.bfloat16 else _PLAIN


@gpu.kernel("int64[::1], int64[::1], int64[::1], float64[:, :, ::1], float32[:, :, ::1]")
def _join(multiple, slots, counts, parts, means):
    """Means of the classes that lie in several pieces, their parts added in order."""
    dim = parts.shape[2]
    strips = (dim + THREADS - 1) // THREADS
    for work in range(cu.blockIdx.x, multiple.size * strips, cu.gridDim.x):
        k, j = work // strips, work % strips * THREADS + cu.threadIdx.x
        if j < dim:
            for kind in range(3):
                total = 0.0
                for slot in range(slots[k], slots[k + 1]):
                    total += parts[slot, kind, j]
                means[kind, multiple[k], j] = total / counts[multiple[k]]
