"""The inputs of a DALI graph: what a batch's plan becomes, one column an input. Both graphs take the same.

A split holds encoded images, raw pixels, or both (`mixed`: class-aware storage); `stored` says which.
"""

# pyright: reportAttributeAccessIssue=false
# (DALI makes most of its names when it is imported)

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from fastlt.data.plan import Plan
from fastlt.data.shards.format import RAW

# Of every column: type, number of dimensions, layout.
_DATA, _PIXELS, _IS_RAW = (types.UINT8, 1, ""), (types.UINT8, 3, "HWC"), (types.BOOL, 0, "")
_ANCHOR = _SHAPE = (types.INT32, 1, "")
_PLACE = (types.FLOAT64, 1, "")
_PARAMETERS = (types.FLOAT, 1, "")
_COLUMNS = {
    "encoded": (_DATA, _ANCHOR, _SHAPE, _PLACE, _PARAMETERS),
    "raw": (_PIXELS, _PLACE, _PARAMETERS),
    "mixed": (_DATA, _PIXELS, _IS_RAW, _ANCHOR, _SHAPE, _PLACE, _PARAMETERS),
}
# Stands where a sample of the other kind has its data; no operator ever sees it.
_NO_DATA, _NO_PIXELS = np.zeros(1, np.uint8), np.zeros((1, 1, 3), np.uint8)


def stored_as(encoding: np.ndarray) -> str:
    """How a split's samples are stored: encoded, raw or mixed. encoding: uint8 [N], the column of the index."""
    raw = encoding == RAW
    return "raw" if raw.all() else "mixed" if raw.any() else "encoded"


@do_not_convert  # DALI rewrites what a graph with conditions calls, and not all of Python
def inputs(source: Callable[[], Any], stored: str) -> Any:
    """The graph's input nodes, in the order of `columns`. source: gives them batch by batch."""
    dtypes, ndims, layouts = (list(column) for column in zip(*_COLUMNS[stored], strict=True))
    # no_copy: DALI reads the views of the mapped shards where they lie; the loader keeps them alive.
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
) -> tuple:
    """The values of the graph's inputs for the n positions of a batch.

    images: encoded bytes uint8 [length] or pixels uint8 [H, W, 3], as each is stored; or raw ones, uint8 [n, H, W, 3].
    height, width: int32 [n]. normalize: float32 [6], mean and inverse std of the RGB channels in units of pixel values
    0..255.
    """
    n = len(plan)
    parameters = np.empty((n, 10), np.float32)
    parameters[:, :4] = plan.jitter
    parameters[:, 4:] = normalize
    # The window, the box as it lies in the window, flip: one column, because a column costs time.
    place = np.empty((n, 9), np.float64)
    place[:, :4] = plan.window
    place[:, 4:8] = plan.box
    place[:, 4:6] -= plan.window[:, :2]
    place[:, 8] = plan.flip
    if stored == "raw":
        return images, place, parameters
    # Only the part of the window that lies in the image is decoded; the operator knows where it sits in the window.
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
