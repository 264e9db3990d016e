"""The DALI graph on the CPU: decode only the window, then one fused operator does all the rest."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI makes most of its names when it is imported)

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, pipeline_def, types

from fastlt.data.pipeline.columns import inputs
from fastlt.data.pipeline.operator import crop_resize

# Boxes are in pixels and in the frame of the image as it is stored.
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
) -> Pipeline:
    """A pipeline of batches [n, 3, size, size], or [n, size, size, 3] if channels_last.

    source: gives the columns of the next batch (columns.py), StopIteration at the end of an epoch. stored: encoded, raw
    or mixed. dtype: float32, float16 or uint8 (not normalized). batch: the largest n. prefetch: batches worked on ahead
    of the consumer.
    """
    pipeline = _graph(
        source, stored, size, dtype, channels_last,
        batch_size=batch, num_threads=threads, device_id=None, prefetch_queue_depth=prefetch,
    )  # fmt: skip
    pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def _graph(source: Callable[[], Any], stored: str, size: int, dtype: str, channels_last: bool) -> Any:
    if stored == "raw":
        image, place, parameters = inputs(source, stored)
    elif stored == "encoded":
        data, anchor, shape, place, parameters = inputs(source, stored)
        image = fn.decoders.image_slice(data, anchor, shape, **DECODED)
    else:
        data, pixels, is_raw, anchor, shape, place, parameters = inputs(source, stored)
        if is_raw:  # noqa: SIM108 - DALI splits the batch here, and joins it again
            image = pixels
        else:
            image = fn.decoders.image_slice(data, anchor, shape, **DECODED)
    return crop_resize(image, place, parameters, size, dtype, channels_last)
