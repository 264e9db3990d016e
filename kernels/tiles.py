"""Scores of a linear classifier in tiles of rows: the whole matrix of scores, N x C, never lies in memory.

At iNaturalist's size it would be bigger than the features. A CPU finds the scores of a tile in its cache. A GPU need
not: to write and read a score takes it a fortieth of the time of its 2048 products (by its figures, not measured), and
a tile as small as its cache leaves multiprocessors idle at the end of each product.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastlt.kernels import gpu

_CPU_ROWS = 2048  # with fewer the matrix product reads the weights too often, and its threads wait for each other
_GPU_BYTES = 2**27  # of a tile


def tile_rows(columns: int, device: torch.device) -> int:
    """Rows of a float32 tile with so many columns."""
    if gpu.SIMULATED:
        return 3
    if device.type == "cpu":
        return _CPU_ROWS
    return max(1, _GPU_BYTES // (4 * columns))


def score_tiles(features: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows, features[rows] @ weight.T) one tile after the other, float32 [n, C] in one buffer that is used again.

    features: float32, float16 or bfloat16 [N, D]; 16-bit floats become float32 tile by tile. weight: float32 [C, D].
    """
    classes = len(weight)
    step = min(len(features), tile_rows(max(weight.shape), features.device))
    buffer = torch.empty((step, classes), dtype=torch.float32, device=features.device)
    for begin in range(0, len(features), step):
        rows = slice(begin, min(begin + step, len(features)))
        scores = buffer[: rows.stop - begin]
        torch.mm(features[rows].float(), weight.T, out=scores)
        yield rows, scores
