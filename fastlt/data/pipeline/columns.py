"""Turns the plan of a batch into the inputs of a DALI graph, one column for each input.

The CPU and the GPU graph take the same columns. They depend on how the images of a split are stored: encoded, raw, or
both (`mixed`, class-aware storage).
"""

# pyright: reportAttributeAccessIssue=false
# (DALI creates most of its names at import, so type checkers do not know them)

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from fastlt.data.plan import Plan
from fastlt.data.shards.format import RAW

# The (type, number of dimensions, layout) of every column. A place and parameters for each view follow.
_DATA, _PIXELS, _IS_RAW = (types.UINT8, 1, ""), (types.UINT8, 3, "HWC"), (types.BOOL, 0, "")
_ANCHOR = _SHAPE = (types.INT32, 1, "")
_PLACE = (types.FLOAT64, 1, "")
_PARAMETERS = (types.FLOAT, 1, "")
_COLUMNS = {
    "encoded": (_DATA, _ANCHOR, _SHAPE),
    "raw": (_PIXELS,),
    "mixed": (_DATA, _PIXELS, _IS_RAW, _ANCHOR, _SHAPE),
}
PLACE = 9  # the first numbers of the column `place`; the augmentations follow
# Placeholders: in a mixed batch each sample has either data or pixels. No operator ever reads a placeholder.
_NO_DATA, _NO_PIXELS = np.zeros(1, np.uint8), np.zeros((1, 1, 3), np.uint8)


def stored_as(encoding: np.ndarray) -> str:
    """Returns how the samples of a split are stored: `encoded`, `raw` or `mixed`. encoding: uint8 [N], of the index."""
    raw = encoding == RAW
    return "raw" if raw.all() else "mixed" if raw.any() else "encoded"


@do_not_convert  # DALI rewrites functions that a graph with conditions calls, but cannot rewrite all of Python
def inputs(source: Callable[[], Any], stored: str, views: int) -> Any:
    """Returns the input nodes of a graph: those of the images, then a list of places and one of parameters, by view.

    source: a function that returns the columns of the next batch. stored: as `stored_as` returns it. views: V.
    """
    known = _COLUMNS[stored] + (_PLACE, _PARAMETERS) * views
    dtypes, ndims, layouts = (list(column) for column in zip(*known, strict=True))
    # With no_copy DALI reads directly from the memory-mapped shards. The loader keeps the arrays alive.
    nodes = fn.external_source(
        source, num_outputs=len(dtypes), batch=True, no_copy=True, dtype=dtypes, ndim=ndims, layout=layouts
    )
    first = len(_COLUMNS[stored])
    return (*nodes[:first], list(nodes[first::2]), list(nodes[first + 1 :: 2]))


def columns(
    plans: Sequence[Plan],
    images: list[np.ndarray] | np.ndarray,
    height: np.ndarray,
    width: np.ndarray,
    stored: str,
    normalize: np.ndarray,
    slots: bool = True,
) -> tuple:
    """Returns the values of the graph's inputs for the n positions of a batch.

    plans: of the batch, one for each view of its images.
    images: for each position encoded bytes uint8 [length] or pixels uint8 [H, W, 3], as the sample is stored; or raw
    images of one size, uint8 [n, H, W, 3].
    height, width: int32 [n], the sizes of the stored images.
    stored: `encoded`, `raw` or `mixed`.
    normalize: float32 [7], mean and inverse std of the RGB channels, in units of pixel values 0..255, and the index of
    the interpolation in the kernel's INTERPOLATIONS.
    slots: whether the plan's augmentations are included.
    """
    placed = [_placed(plan, normalize, slots) for plan in plans]
    if stored == "raw":
        return (images, *chain.from_iterable(placed))
    # Only the part of the windows that is inside the image is decoded, and that of several views once, as the smallest
    # window that contains all of theirs. The operator gets the position of each window in it.
    windows = np.stack([plan.window for plan in plans])
    first = np.maximum(windows[:, :, :2].min(0), 0)
    end = np.minimum((windows[:, :, :2] + windows[:, :, 2:]).max(0), np.stack([height, width], axis=1))
    shape = (end - first).astype(np.int32)
    raw = np.array([image.ndim == 3 for image in images]) if stored == "mixed" else np.zeros(len(first), bool)
    for place, _ in placed:
        place[~raw, :2] -= first[~raw]
    if stored == "encoded":
        return (images, first, shape, *chain.from_iterable(placed))
    data = [_NO_DATA if is_raw else image for image, is_raw in zip(images, raw, strict=True)]
    pixels = [image if is_raw else _NO_PIXELS for image, is_raw in zip(images, raw, strict=True)]
    return (data, pixels, raw, first, shape, *chain.from_iterable(placed))


def _placed(plan: Plan, normalize: np.ndarray, slots: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place, relative to the image, and the parameters of a view. normalize, slots: as in `columns`."""
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
    return place, parameters
