"""The DALI graph on the GPU: mixed decode of the crop, resize, colour jitter, normalize; same plan, same columns.

Differences from the CPU graph, by design: images come as float16 in channels-last memory, and colour jitter is one
affine map. Brightness, contrast and saturation commute except where an intermediate value is clamped, so the order in
the plan changes nothing here.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI makes most of its names when it is imported)

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, math, types

from fastlt.pipeline.graph_cpu import COLUMNS_ENCODED, COLUMNS_RAW

# Grey value of RGB (ITU-R 601-2), as Pillow and torchvision weigh it.
GREY = (0.299, 0.587, 0.114)


def build(
    source: Callable[[], Any], raw: bool, size: int, batch: int, threads: int, prefetch: int, device: int, jitter: bool
) -> Pipeline:
    """A pipeline of batches float16 [n, size, size, 3] on GPU `device`. Other arguments as graph_cpu.build.

    jitter: whether the plan's colour factors are applied.
    """
    pipeline = Pipeline(batch_size=batch, num_threads=threads, device_id=device, prefetch_queue_depth=prefetch)
    with pipeline:
        dtypes = list(COLUMNS_RAW if raw else COLUMNS_ENCODED)
        ndims = [3 if raw else 1] + [1] * (len(dtypes) - 1)
        inputs: Any = fn.external_source(
            source, num_outputs=len(dtypes), batch=True, no_copy=True, dtype=dtypes, ndim=ndims
        )
        if raw:
            pixels, box, parameters = inputs
            # Only the crop travels to the device; what sticks out of the image is black.
            window = fn.slice(
                fn.reshape(pixels, layout="HWC"),
                box[0:2],
                box[2:4],
                axes=[0, 1],
                normalized_anchor=False,
                normalized_shape=False,
                out_of_bounds_policy="pad",
                fill_values=0,
            ).gpu()
        else:
            data, anchor, shape, box, parameters = inputs
            part = fn.decoders.image_slice(
                data,
                anchor,
                shape,
                device="mixed",
                axes=[0, 1],
                normalized_anchor=False,
                normalized_shape=False,
                output_type=types.RGB,
                adjust_orientation=False,
            )
            window = fn.slice(
                part,
                box[0:2],
                box[2:4],
                axes=[0, 1],
                normalized_anchor=False,
                normalized_shape=False,
                out_of_bounds_policy="pad",
                fill_values=0,
            )
        resized = fn.resize(
            window, size=[size, size], interp_type=types.INTERP_TRIANGULAR, antialias=True, dtype=types.FLOAT
        )
        if jitter:
            resized = _jitter(resized, parameters.gpu())
        flipped = fn.flip(resized, horizontal=box[4])
        mean, inverse = parameters[4:7].gpu(), parameters[7:10].gpu()
        pipeline.set_outputs(fn.cast((flipped - mean) * inverse, dtype=types.FLOAT16))
    pipeline.build()
    return pipeline


def _jitter(image: Any, parameters: Any) -> Any:
    """Brightness b, contrast c, saturation s at once: b (c (s x + (1 - s) grey(x)) + (1 - c) mean(grey)), in 0..255."""
    brightness, contrast, saturation = (parameters[i] for i in range(3))
    grey = image[:, :, 0:1] * GREY[0] + image[:, :, 1:2] * GREY[1] + image[:, :, 2:3] * GREY[2]
    center = fn.reductions.mean(grey)
    mixed = image * saturation + grey * (1 - saturation)
    return math.clamp((mixed * contrast + center * (1 - contrast)) * brightness, 0.0, 255.0)
