"""Turns the plan of a batch into the inputs of a DALI graph, one column for each input.

The CPU and the GPU graph take the same columns. They depend on how the images of a split are stored: encoded, raw, or
both (`mixed`, class-aware storage).
"""

# pyright: reportAttributeAccessIssue=false
# (DALI creates most of its names at import, so type checkers do not know them)

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from fastlt.data.plan import Plan
from fastlt.data.shards.format import RAW

# The (type, number of dimensions, layout) of every column.
_DATA, _PIXELS, _IS_RAW = (types.UINT8, 1, ""), (types.UINT8, 3, "HWC"), (types.BOOL, 0, "")
_ANCHOR = _SHAPE = (types.INT32, 1, "")
_PLACE = (types.FLOAT64, 1, "")
_PARAMETERS = (types.FLOAT, 1, "")
_COLUMNS = {
    "encoded": (_DATA, _ANCHOR, _SHAPE, _PLACE, _PARAMETERS),
    "raw": (_PIXELS, _PLACE, _PARAMETERS),
    "mixed": (_DATA, _PIXELS, _IS_RAW, _ANCHOR, _SHAPE, _PLACE, _PARAMETERS),
}
PLACE = 9  # the first numbers of the column `place`; the augmentations follow
# Placeholders: in a mixed batch each sample has either data or pixels. No operator ever reads a placeholder.
_NO_DATA, _NO_PIXELS = np.zeros(1, np.uint8), np.zeros((1, 1, 3), np.uint8)


def stored_as(encoding: np.ndarray) -> str:
    """Returns how the samples of a split are stored: `encoded`, `raw` or `mixed`. encoding: uint8 [N], of the index."""
    raw = encoding == RAW
    return "raw" if raw.all() else "mixed" if raw.any() else "encoded"


@do_not_convert  # DALI rewrites functions that a graph with conditions calls, but cannot rewrite all of Python
def inputs(source: Callable[[], Any], stored: str) -> Any:
    """Returns the input nodes of a graph, in the order of `columns`.

    source: a function that returns the columns of the next batch. stored: as `stored_as` returns it.
    """
    dtypes, ndims, layouts = (list(column) for column in zip(*_COLUMNS[stored], strict=True))
    # With no_copy DALI reads directly from the memory-mapped shards. The loader keeps the arrays alive.
    return fn.external_source(
        source, num_outputs=len(dtypes), batch=True, no_copy=True, dtype=dtypes, ndim=ndims, layout=layouts
    )


def columns(
    plan: Plan,
    images: list[np.ndarray] | np.ndarray,
    height: np.ndarray,
    width: np.ndarray,
    stored: str,
    normalize: np.ndarray,
    slots: bool = True,
) -> tuple:
    """Returns the values of the graph's inputs for the n positions of a batch.

    plan: of the batch.
    images: for each position encoded bytes uint8 [length] or pixels uint8 [H, W, 3], as the sample is stored; or raw
    images of one size, uint8 [n, H, W, 3].
    height, width: int32 [n], the sizes of the stored images.
    stored: `encoded`, `raw` or `mixed`.
    normalize: float32 [7], mean and inverse std of the RGB channels, in units of pixel values 0..255, and the index of
    the interpolation in the kernel's INTERPOLATIONS.
    slots: whether the plan's augmentations are included.
    """
    n = len(plan)
    parameters = np.empty((n, 11), np.float32)
    parameters[:, :4] = plan.jitter
    parameters[:, 4:] = normalize
    # Window, box relative to the window, flip and augmentations are one column, because every column takes time.
    operations = plan.slots.reshape(n, -1) if slots else np.empty((n, 0))
    place = np.empty((n, PLACE + operations.shape[1]), np.float64)
    place[:, :4] = plan.window
    place[:, 4:8] = plan.box
    place[:, 4:6] -= plan.window[:, :2]
    place[:, 8] = plan.flip
    place[:, PLACE:] = operations
    if stored == "raw":
        return images, place, parameters
    # Only the part of the window that is inside the image is decoded. The operator gets its position in the window.
    first = np.maximum(plan.window[:, :2], 0)
    end = np.minimum(plan.window[:, :2] + plan.window[:, 2:], np.stack([height, width], axis=1))
    shape = (end - first).astype(np.int32)
    if stored == "encoded":
        place[:, :2] -= first
        return images, first, shape, place, parameters
    raw = np.array([image.ndim == 3 for image in images])
    place[~raw, :2] -= first[~raw]
    data = [_NO_DATA if is_raw else image for image, is_raw in zip(images, raw, strict=True)]
    pixels = [image if is_raw else _NO_PIXELS for image, is_raw in zip(images, raw, strict=True)]
    return data, pixels, raw, first, shape, place, parameters
