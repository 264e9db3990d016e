"""The class with the highest score, found behind a matrix product while its scores are still in the cache.

Scores come as float32 [n, S, C]: n rows for S classifiers. Classifier k of K gives class c the score
scores[i, k, c] * scales[k, c] + offsets[k, c]; with S = 1 all K share one product. The lowest class wins ties, 0 and
-0 are equal, and an offset of -inf takes a class out. A row with NaN in it, or without a finite highest score, has the
class -1, of which `no_best_class` makes an error. A row of features that is not finite always ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numba import float32, int64, njit, prange

from fastlt.kernels import gpu, tiles
from fastlt.kernels.arrays import Array, tensor
from fastlt.kernels.gpu import THREADS, cu

_BLOCK_CLASSES = 128  # whose maximum is taken at once; the winning block is then searched for the class
_WIDE = 8192  # classes of all classifiers in one product: with more the tile's buffer would outgrow the cache
_KEY_OF_INFINITY = np.uint32(0xFF000001)

Epilogue = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(scores [n, S, C], scales [K, C], offsets [K, C]) -> class int64 [n, K]: `cpu` or `cuda`."""


def reference(scores: np.ndarray, scales: np.ndarray | int, offsets: np.ndarray | int) -> np.ndarray:
    """The definition in NumPy and float64."""
    with np.errstate(invalid="ignore"):
        final = scores.astype(np.float64) * scales + offsets
    return np.where(np.isfinite(final.max(axis=2)), final.argmax(axis=2), -1)


def cpu(scores: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """One read of the scores, vectorised over the classes."""
    best = torch.empty((len(scores), len(scales)), dtype=torch.int64)
    _best_rows(scores.numpy(), scales.numpy(), offsets.numpy(), best.numpy())
    return best


def cuda(scores: torch.Tensor, scales: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """One block for each row and classifier."""
    best = torch.empty((len(scores), len(scales)), dtype=torch.int64, device=scores.device)
    _best_on_gpu.launch(gpu.blocks_for(best.numel(), best.device), scores, scales, offsets, best)
    return best


def best_class_tiles(
    epilogue: Epilogue,
    features: Array,
    weights: torch.Tensor,
    scales: torch.Tensor,
    offsets: torch.Tensor,
    prepare: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, class int64 [n, K]) of linear classifiers, one tile of rows after the other.

    features: float32, float16 or bfloat16 [N, D], in memory of any layout; each tile becomes float32, goes through
    `prepare` (float32 [n, D] to the same) and is read once for all classifiers. weights: float32 [S, C, D], contiguous,
    S = K or 1. scales, offsets: float32 [K, C]. In memory lies a tile of rows and one of scores.
    """
    products, classes, dim = weights.shape
    together = min(products, max(1, _WIDE // classes))
    step = tiles.tile_rows(max(together * classes, dim), weights.device)
    step = min(len(features), step)
    buffer = torch.empty(step * together * classes, dtype=torch.float32, device=weights.device)
    for begin in range(0, len(features), step):
        rows = slice(begin, min(begin + step, len(features)))
        part = features[rows]
        if isinstance(part, np.ndarray):
            part = np.ascontiguousarray(part).ravel().reshape(part.shape)  # no odd strides, of single rows neither
        part = prepare(tensor(part, weights.device, torch.float32))
        best = []
        for first in range(0, products, together):
            weight = weights[first : first + together]
            scores = buffer[: len(part) * len(weight) * classes].view(len(part), -1)
            torch.mm(part, weight.view(-1, dim).T, out=scores)
            these = slice(first, first + len(weight)) if products > 1 else slice(None)
            best.append(epilogue(scores.view(len(part), len(weight), classes), scales[these], offsets[these]))
        yield rows, torch.cat(best, dim=1) if len(best) > 1 else best[0]


def no_best_class(row: int, classifier: int | None = None) -> ValueError:
    """The error for a row that has the class -1."""
    by = "" if classifier is None else f" by classifier {classifier}"
    return ValueError(f"features row {row} has no finite highest score{by}; features and weights must be finite")


@njit(parallel=True, cache=True)
def _best_rows(scores, scales, offsets, best):
    for i in prange(best.shape[0]):
        for k in range(best.shape[1]):
            best[i, k] = _best(scores[i, k if scores.shape[1] > 1 else 0], scales[k], offsets[k])


@njit(cache=True)
def _best(row, scale, offset):
    highest, begin = np.uint32(0), 0
    for start in range(0, row.size, _BLOCK_CLASSES):
        stop = min(row.size, start + _BLOCK_CLASSES)
        key = _highest_key(row[start:stop], scale[start:stop], offset[start:stop])
        if key > highest:
            highest, begin = key, start
    if highest == 0 or highest >= _KEY_OF_INFINITY:
        return -1
    while _key(row[begin] * scale[begin] + offset[begin]) != highest:
        begin += 1
    return begin


@njit(cache=True)
def _highest_key(row, scale, offset):
    highest = np.uint32(0)
    for c in range(row.size):
        highest = max(highest, _key(row[c] * scale[c] + offset[c]))
    return highest


@njit(cache=True)
def _key(value):
    """An integer that sorts like a float32, from 0 for -inf; NaN of either sign is above infinity.

    LLVM vectorises a maximum of integers, not one of floats. Adding 0 makes 0 of -0.
    """
    bits = np.float32(value + np.float32(0)).view(np.uint32)
    negative = np.uint32(np.uint32(0xFF800000) - bits)
    return negative if bits >> np.uint32(31) else np.uint32(bits + np.uint32(0x7F800001))


@gpu.kernel("float32[:, :, ::1], float32[:, ::1], float32[:, ::1], int64[:, ::1]")
def _best_on_gpu(scores, scales, offsets, best):
    values = cu.shared.array(THREADS, float32)
    places = cu.shared.array(THREADS, int64)
    classes = scales.shape[1]
    for work in range(cu.blockIdx.x, best.size, cu.gridDim.x):
        i, k = work // best.shape[1], work % best.shape[1]
        product = k if scores.shape[1] > 1 else 0
        top, place = float32(-np.inf), 0
        for c in range(cu.threadIdx.x, classes, THREADS):
            value = scores[i, product, c] * scales[k, c] + offsets[k, c]
            if not value <= top:  # larger, or NaN
                top, place = value if value == value else float32(np.inf), c
        highest = gpu.block_max(top, values)
        before = classes - gpu.block_max(classes - place if top == highest else 0, places)
        if cu.threadIdx.x == 0:
            best[i, k] = before if -np.inf < highest < np.inf else -1
