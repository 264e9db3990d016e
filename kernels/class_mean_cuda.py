"""Class means on a GPU: the kernels of `class_mean`.

Each thread owns a column and adds its rows in class order, in float64 and without atomics, so the bits do not depend on
the order in which blocks run. Norms are computed by a separate kernel: keeping rows in the cache between their norms
and the sums would allow too few blocks per multiprocessor to use the full memory bandwidth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import float64, uint64
from numpy.typing import NDArray

from fastlt.kernels import gpu
from fastlt.kernels.class_pieces import cut
from fastlt.kernels.gpu import SIMULATED, THREADS, cu

_MIN_PIECE = 4 if SIMULATED else 64
_MAX_PIECES = 4096  # of classes that are cut into several pieces; each piece takes 3 D float64
_SLABS = 4 if SIMULATED else 1024  # groups of rows whose columns are summed in parallel

# Each thread keeps four loads in flight, so that it does not wait for memory after each one. The indices are unsigned:
# Numba tests signed ones for being negative, which takes longer than all the rest.
_ONE, _TWO, _THREE, _FOUR = (np.uint64(rows) for rows in range(1, 5))
_LAST = np.uint64(THREADS - 1)
_COLUMNS = tuple(np.uint64(k * THREADS) for k in range(5))


def mean_of_rows(features: torch.Tensor) -> torch.Tensor:
    """Returns the mean of all rows, float64 [D]; NaN or infinite in columns where features are.

    PyTorch's sum is not used because it would first convert all features to float64.
    """
    (count, dim), device = features.shape, features.device
    parts = torch.empty((min(count, _SLABS), dim), dtype=torch.float64, device=device)
    blocks = gpu.blocks_for(len(parts) * -(-dim // THREADS), device)
    _kernels(features).column_sums.launch(blocks, features, parts)
    return parts.sum(dim=0) / count


def class_means(
    features: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns (counts int64 [C], un, l2n, cl2n float32 [C, D], mean of all rows float64 [D]) of contiguous rows.

    The counts are copied to the host at the beginning; after that the host never waits for the device.
    """
    (count, dim), device = features.shape, features.device
    order, starts = _by_class(labels, num_classes)
    counts = starts.diff()
    pieces = cut(counts.numpy(force=True), max(_MIN_PIECE, -(-count // _MAX_PIECES)))
    mean = mean_of_rows(features)
    scales = _scales(features, mean)
    *where, multiple, slots = _upload(
        [pieces.labels, pieces.begins, pieces.stops, pieces.part, pieces.multiple, pieces.slots], device
    )
    means = torch.zeros((3, num_classes, dim), dtype=torch.float32, device=device)
    parts = torch.empty((int(pieces.slots[-1]), 3, dim), dtype=torch.float64, device=device)
    strips = -(-dim // THREADS)
    blocks = gpu.blocks_for(pieces.labels.size * strips, device)
    _kernels(features).sum_pieces.launch(blocks, features, order, *where, mean, scales, parts, means)
    _join.launch(gpu.blocks_for(pieces.multiple.size * strips, device), multiple, slots, counts, parts, means)
    return counts, means[0], means[1], means[2], mean


def first_not_finite(features: torch.Tensor) -> int:
    """Returns the number of the first row with a NaN or infinite value; there must be one."""
    return int((~features.isfinite()).any(dim=1).nonzero()[0])


def _by_class(labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (row numbers in class order [N], position at which each class starts [C + 1]).

    torch.bincount is not used because it makes the host wait for the device twice.
    """
    in_order, order = labels.sort(stable=True)
    return order, torch.searchsorted(in_order, torch.arange(num_classes + 1, device=labels.device))


def _upload(arrays: list[NDArray[np.int64]], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Copies several arrays to a device in one transfer."""
    together = torch.from_numpy(np.concatenate(arrays)).to(device, non_blocking=True)
    return together.split([array.size for array in arrays])


def _scales(features: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Returns 1 / ||x|| and 1 / ||x - m|| of every row, float64 [2, N]; 0 for a norm of 0, NaN if x is not finite."""
    scales = torch.empty((2, len(features)), dtype=torch.float64, device=features.device)
    _kernels(features).norms.launch(gpu.blocks_for(len(features), features.device), features, mean, scales)
    return scales


class _Kernels:
    """The kernels that read features of the given dtypes; `number` converts an element to float64."""

    def __init__(self, number: Callable[[Any], Any], *dtypes: str):
        @gpu.kernel(*(f"{dtype}[:, ::1], float64[:, ::1]" for dtype in dtypes))
        def column_sums(features, parts):
            """Sums groups of rows: parts[slab] is the sum of the rows of a slab, in float64."""
            strips = (parts.shape[1] + THREADS - 1) // THREADS
            rows = (features.shape[0] + parts.shape[0] - 1) // parts.shape[0]
            for work in range(cu.blockIdx.x, parts.shape[0] * strips, cu.gridDim.x):
                slab, j = work // strips, work % strips * THREADS + cu.threadIdx.x
                if j < parts.shape[1]:
                    column, total = np.uint64(j), 0.0
                    i = np.uint64(min(slab * rows, features.shape[0]))
                    stop = np.uint64(min(slab * rows + rows, features.shape[0]))
                    while i + _THREE < stop:
                        x0, x1 = features[i, column], features[i + _ONE, column]
                        x2, x3 = features[i + _TWO, column], features[i + _THREE, column]
                        total += number(x0) + number(x1) + number(x2) + number(x3)
                        i += _FOUR
                    while i < stop:
                        total += number(features[i, column])
                        i += _ONE
                    parts[slab, j] = total

        @gpu.device_function
        def add_square(plain, centred, x, mean):
            x = number(x)
            return plain + x * x, centred + (x - mean) * (x - mean)

        @gpu.kernel(*(f"{dtype}[:, ::1], float64[::1], float64[:, ::1]" for dtype in dtypes))
        def norms(features, mean, scales):
            """Computes 1 / ||x|| (scales[0]) and 1 / ||x - mean|| (scales[1]) of every row x, with a block per row."""
            scratch = cu.shared.array(THREADS, float64)
            dim = np.uint64(mean.size)
            for row in range(cu.blockIdx.x, features.shape[0], cu.gridDim.x):
                x, j = features[np.uint64(row)], np.uint64(cu.threadIdx.x)
                plain, centred = 0.0, 0.0
                while j + _COLUMNS[3] < dim:
                    x0, x1, x2, x3 = x[j], x[j + _COLUMNS[1]], x[j + _COLUMNS[2]], x[j + _COLUMNS[3]]
                    plain, centred = add_square(plain, centred, x0, mean[j])
                    plain, centred = add_square(plain, centred, x1, mean[j + _COLUMNS[1]])
                    plain, centred = add_square(plain, centred, x2, mean[j + _COLUMNS[2]])
                    plain, centred = add_square(plain, centred, x3, mean[j + _COLUMNS[3]])
                    j += _COLUMNS[4]
                while j < dim:
                    plain, centred = add_square(plain, centred, x[j], mean[j])
                    j += _COLUMNS[1]
                plain, centred = gpu.block_sum(plain, scratch), gpu.block_sum(centred, scratch)
                if cu.threadIdx.x == 0:
                    nothing = plain - plain  # 0, or NaN if the row is not finite
                    scales[0, row] = (1 / math.sqrt(plain) if plain > 0 else 0.0) + nothing
                    scales[1, row] = (1 / math.sqrt(centred) if centred > 0 else 0.0) + nothing

        @gpu.device_function
        def four(features, numbers, k, column):
            a, b, c, d = numbers[k], numbers[k + _ONE], numbers[k + _TWO], numbers[k + _THREE]
            return features[a, column], features[b, column], features[c, column], features[d, column]

        @gpu.device_function
        def add_row(un, l2n, cl2n, x, mean, there, plain, centred):
            x = number(x)
            return un + x * there, l2n + x * plain, cl2n + (x - mean) * centred

        @gpu.kernel(
            *(
                f"{dtype}[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], "
                "float64[:, ::1], float64[:, :, ::1], float32[:, :, ::1]"
                for dtype in dtypes
            )
        )
        def sum_pieces(features, order, labels, begins, stops, part, mean, scales, parts, means):
            """Sums the rows of each piece (see class_pieces.py), unscaled and scaled by both norms.

            The sums go to `parts` if the class has several pieces; otherwise their means go to `means`.
            """
            numbers = cu.shared.array(THREADS, uint64)
            there = cu.shared.array(THREADS, float64)
            plain = cu.shared.array(THREADS, float64)
            centred = cu.shared.array(THREADS, float64)
            strips = (mean.size + THREADS - 1) // THREADS
            for work in range(cu.blockIdx.x, labels.size * strips, cu.gridDim.x):
                piece, j = work // strips, work % strips * THREADS + cu.threadIdx.x
                un, l2n, cl2n = 0.0, 0.0, 0.0
                column, m = np.uint64(j), mean[min(j, mean.size - 1)]
                for begin in range(begins[piece], stops[piece], THREADS):
                    here = min(THREADS, stops[piece] - begin)
                    cu.syncthreads()  # all threads must be done with the last round before its rows are overwritten
                    # Threads beyond the last row read that row again, with weight 0.
                    row = order[begin + min(cu.threadIdx.x, here - 1)]
                    there[cu.threadIdx.x] = 1.0 if cu.threadIdx.x < here else 0.0
                    numbers[cu.threadIdx.x] = row
                    plain[cu.threadIdx.x] = scales[0, row] * there[cu.threadIdx.x]
                    centred[cu.threadIdx.x] = scales[1, row] * there[cu.threadIdx.x]
                    cu.syncthreads()
                    k, stop = np.uint64(0), np.uint64(here if j < mean.size else 0)
                    if k < stop:
                        x0, x1, x2, x3 = four(features, numbers, k, column)
                    while k < stop:
                        a, b, c, d = k, k + _ONE, k + _TWO, k + _THREE
                        k += _FOUR
                        # The next four values are loaded while these are added.
                        y0, y1, y2, y3 = four(features, numbers, k & _LAST, column)
                        un, l2n, cl2n = add_row(un, l2n, cl2n, x0, m, there[a], plain[a], centred[a])
                        un, l2n, cl2n = add_row(un, l2n, cl2n, x1, m, there[b], plain[b], centred[b])
                        un, l2n, cl2n = add_row(un, l2n, cl2n, x2, m, there[c], plain[c], centred[c])
                        un, l2n, cl2n = add_row(un, l2n, cl2n, x3, m, there[d], plain[d], centred[d])
                        x0, x1, x2, x3 = y0, y1, y2, y3
                if j < mean.size:
                    if part[piece] >= 0:
                        parts[part[piece], 0, j] = un
                        parts[part[piece], 1, j] = l2n
                        parts[part[piece], 2, j] = cl2n
                    else:
                        rows = stops[piece] - begins[piece]
                        means[0, labels[piece], j] = un / rows
                        means[1, labels[piece], j] = l2n / rows
                        means[2, labels[piece], j] = cl2n / rows

        self.column_sums = column_sums
        self.norms, self.sum_pieces = norms, sum_pieces


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
    """Computes the means of classes that were cut into several pieces, adding their partial sums in order."""
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
