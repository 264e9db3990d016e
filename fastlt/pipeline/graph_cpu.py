"""The DALI graph on the CPU: decode only the crop, then one fused operator does all the rest."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI makes most of its names when it is imported)

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn, types

from fastlt.pipeline.operator import crop_resize
from fastlt.plan import Plan

COLUMNS_ENCODED = (types.UINT8, types.INT32, types.INT32, types.INT32, types.FLOAT)
COLUMNS_RAW = (types.UINT8, types.INT32, types.FLOAT)


def build(source: Callable[[], Any], raw: bool, size: int, batch: int, threads: int, prefetch: int) -> Pipeline:
    """A pipeline of batches float32 [n, 3, size, size].

    source: gives the columns of the next batch (see `columns`), StopIteration at the end of an epoch. raw: samples are
    pixels, not encoded images. batch: the largest n. prefetch: batches worked on ahead of the consumer.
    """
    pipeline = Pipeline(batch_size=batch, num_threads=threads, device_id=None, prefetch_queue_depth=prefetch)
    with pipeline:
        inputs = external_inputs(source, raw)
        if raw:
            image, box, parameters = inputs
        else:
            data, anchor, shape, box, parameters = inputs
            image = fn.decoders.image_slice(
                data,
                anchor,
                shape,
                axes=[0, 1],
                normalized_anchor=False,
                normalized_shape=False,
                output_type=types.RGB,
                adjust_orientation=False,  # boxes are in the frame of the stored image
            )
        pipeline.set_outputs(crop_resize(image, box, parameters, size))
    pipeline.build()
    return pipeline


def external_inputs(source: Callable[[], Any], raw: bool) -> Any:
    """The graph's nodes of a batch's columns."""
    dtypes = list(COLUMNS_RAW if raw else COLUMNS_ENCODED)
    ndims = [3 if raw else 1] + [1] * (len(dtypes) - 1)
    # no_copy: DALI reads the views of the mapped shards where they lie; the loader keeps them alive.
    return fn.external_source(source, num_outputs=len(dtypes), batch=True, no_copy=True, dtype=dtypes, ndim=ndims)


def columns(
    plan: Plan, images: list[np.ndarray], height: np.ndarray, width: np.ndarray, raw: bool, normalize: np.ndarray
) -> tuple:
    """The graph's inputs for the n positions of a batch.

    images: encoded bytes uint8 [length], or pixels uint8 [H, W, 3] if raw. height, width: int32 [n]. normalize: float32
    [6], mean and inverse std of the RGB channels in units of pixel values 0..255.
    """
    n = len(plan)
    parameters = np.empty((n, 10), np.float32)
    parameters[:, :4] = plan.jitter
    parameters[:, 4:] = normalize
    box = np.empty((n, 5), np.int32)
    box[:, :4] = plan.box
    box[:, 4] = plan.flip
    if raw:
        return images, box, parameters
    # Only the part of the window that lies in the image is decoded; the operator knows where it sits in the window.
    first = np.maximum(plan.box[:, :2], 0)
    end = np.minimum(plan.box[:, :2] + plan.box[:, 2:], np.stack([height, width], axis=1))
    box[:, :2] -= first
    return images, first, (end - first).astype(np.int32), box, parameters
