"""The DALI graph on the CPU: only the window of an image is decoded, and one fused operator does all the rest."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI creates most of its names at import, so type checkers do not know them)

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.pipeline import do_not_convert

from fastlt.data.pipeline.columns import inputs
from fastlt.data.pipeline.cut import cut_windows
from fastlt.data.pipeline.operator import crop_resize

# Boxes are in pixels of the stored image, without regard to its EXIF orientation.
PLACED = {"axes": [0, 1], "normalized_anchor": False, "normalized_shape": False}
DECODED = {"output_type": types.RGB, "adjust_orientation": False, **PLACED}


def build(
    source: Callable[[], Any],
    stored: str,
    size: int,
    dtype: str,
    channels_last: bool,
    batch: int,
    threads: int,
    prefetch: int,
    augmented: bool = False,
    seekable: bool = False,
    views: int = 1,
) -> Pipeline:
    """Builds a pipeline of batches [n, 3, size, size], or [n, size, size, 3] if channels_last, one for each view.

    source: a function that returns the columns of the next batch (columns.py) and raises StopIteration at the end of an
    epoch.
    stored: `encoded`, `raw` or `mixed`.
    dtype: `float32`, `float16` or `uint8` (not normalized).
    batch: the largest n. threads: of DALI. prefetch: how many batches are prepared ahead of the consumer.
    augmented: whether the columns include augmentations.
    seekable: whether windows are cut out of files with seek tables before they are decoded.
    views: of each image, which is decoded once for all of them.
    """
    pipeline = _graph(
        source, stored, size, dtype, channels_last, augmented, seekable, views,
        batch_size=batch, num_threads=threads, device_id=None, prefetch_queue_depth=prefetch,
    )  # fmt: skip
    pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def _graph(
    source: Callable[[], Any],
    stored: str,
    size: int,
    dtype: str,
    channels_last: bool,
    augmented: bool,
    seekable: bool,
    views: int,
) -> Any:
    if stored == "raw":
        image, place, parameters = inputs(source, stored, views)
    elif stored == "encoded":
        data, anchor, shape, place, parameters = inputs(source, stored, views)
        image = _decode(data, anchor, shape, seekable)
    else:
        data, pixels, is_raw, anchor, shape, place, parameters = inputs(source, stored, views)
        if is_raw:  # noqa: SIM108 - DALI splits the batch by this condition and joins it again
            image = pixels
        else:
            image = _decode(data, anchor, shape, seekable)
    return _crop_views(image, place, parameters, size, dtype, channels_last, augmented)


@do_not_convert
def _crop_views(image: Any, places: list[Any], parameters: list[Any], *output: Any) -> tuple[Any, ...]:
    return tuple(crop_resize(image, *each, *output) for each in zip(places, parameters, strict=True))


@do_not_convert  # DALI rewrites functions that a graph with conditions calls, and this condition is not of the graph
def _decode(data: Any, anchor: Any, shape: Any, seekable: bool) -> Any:
    if seekable:
        data, anchor = cut_windows(data, anchor, shape)
    return fn.decoders.image_slice(data, anchor, shape, **DECODED)
