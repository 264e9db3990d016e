"""Computes the scores of a linear classifier in tiles of rows, so that the N x C matrix is never in memory as a whole.

At iNaturalist's size that matrix would be larger than the features. On a CPU a tile is small enough to stay in the
cache until its scores are used. On a GPU this is not needed: writing and reading a score takes about a fortieth of the
time of its 2048 products (computed from the hardware's specification, not measured), and tiles as small as the cache
would leave multiprocessors idle at the end of each matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastlt.kernels import gpu

_CPU_ROWS = 2048  # with fewer rows a product reads the weights too often, and its threads wait for each other
_GPU_BYTES = 2**27  # size of a tile


def tile_rows(columns: int, device: torch.device) -> int:
    """Returns the number of rows of a float32 tile with `columns` columns."""
    if gpu.SIMULATED:
        return 3
    if device.type == "cpu":
        return _CPU_ROWS
    return max(1, _GPU_BYTES // (4 * columns))


def score_tiles(features: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields (rows, features[rows] @ weight.T) for one tile of rows after the other.

    features: float32, float16 or bfloat16 [N, D]; 16-bit floats are converted to float32 tile by tile.
    weight: float32 [C, D].

    Scores are float32 [n, C]. They are a view of one buffer, which the next tile overwrites.
    """
    classes = len(weight)
    step = min(len(features), tile_rows(max(weight.shape), features.device))
    buffer = torch.empty((step, classes), dtype=torch.float32, device=features.device)
    for begin in range(0, len(features), step):
        rows = slice(begin, min(begin + step, len(features)))
        scores = buffer[: rows.stop - begin]
        torch.mm(features[rows].float(), weight.T, out=scores)
        yield rows, scores
