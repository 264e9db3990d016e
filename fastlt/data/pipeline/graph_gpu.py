"""The DALI graph on the GPU: mixed decode of the window, resize, colour jitter, normalize; same plan, same columns.

Differences from the CPU graph: the resize is DALI's, which does not round between its passes and, where the filter
reaches beyond the window, repeats the outermost pixels (Pillow leaves those taps out). Colour jitter is one affine map:
brightness, contrast and saturation commute except where an intermediate value is clamped, so the order in the plan
changes nothing here.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI makes most of its names when it is imported)

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, math, pipeline_def, types

from fastlt.data.pipeline.columns import inputs
from fastlt.data.pipeline.graph_cpu import DECODED, PLACED

# Grey value of RGB (ITU-R 601-2), as Pillow and torchvision weigh it.
GREY = (0.299, 0.587, 0.114)
OUTPUTS = {"float32": types.FLOAT, "float16": types.FLOAT16, "uint8": types.UINT8}
# Chroma is interpolated, as the CPU's decoder does it; left alone, a GPU's repeats samples and gives other colours.
# Threads are not tied to cores: several processes on one node would tie theirs to the same ones.
MIXED = {"device": "mixed", "jpeg_fancy_upsampling": True, "affine": False}
OUTSIDE = {"out_of_bounds_policy": "pad", "fill_values": 0}  # what sticks out of the image is black


def build(
    source: Callable[[], Any],
    stored: str,
    size: int,
    dtype: str,
    channels_last: bool,
    batch: int,
    threads: int,
    prefetch: int,
    device: int,
    jitter: bool,
) -> Pipeline:
    """A pipeline of batches on GPU `device`. jitter: whether the plan's colour factors are applied.

    Other arguments as graph_cpu.build.
    """
    pipeline = graph(
        source, stored, size, dtype, channels_last, jitter, True,
        batch_size=batch, num_threads=threads, device_id=device, prefetch_queue_depth=prefetch,
    )  # fmt: skip
    pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def graph(
    source: Callable[[], Any], stored: str, size: int, dtype: str, channels_last: bool, jitter: bool, gpu: bool
) -> Any:
    """The graph itself. gpu=False leaves every operator on the CPU: tests run it there."""
    decoder = MIXED if gpu else {}
    if stored == "raw":
        pixels, place, parameters = inputs(source, stored)
        image = _to_gpu(_window(pixels, place), gpu)  # only the window travels to the device
    elif stored == "encoded":
        data, anchor, shape, place, parameters = inputs(source, stored)
        image = _window(fn.decoders.image_slice(data, anchor, shape, **DECODED, **decoder), place)
    else:
        data, pixels, is_raw, anchor, shape, place, parameters = inputs(source, stored)
        if is_raw:
            image = _to_gpu(_window(pixels, place), gpu)
        else:
            image = _window(fn.decoders.image_slice(data, anchor, shape, **DECODED, **decoder), place)
    box = fn.cast(place[4:8], dtype=types.FLOAT)
    image = fn.resize(
        image,
        size=[size, size],
        roi_start=box[0:2],
        roi_end=box[0:2] + box[2:4],
        interp_type=types.INTERP_LINEAR,  # its filter reads what lies in the window beyond the box
        antialias=True,
        dtype=types.FLOAT,
    )
    if jitter:
        image = _jitter(image, [_to_gpu(parameters[i], gpu) for i in range(3)])
    return fn.crop_mirror_normalize(
        image,
        mirror=fn.cast(place[8], dtype=types.INT32),
        mean=parameters[4:7],
        std=1 / parameters[7:10],
        dtype=OUTPUTS[dtype],
        output_layout="HWC" if channels_last else "CHW",
    )


def _to_gpu(node: Any, gpu: bool) -> Any:
    return node.gpu() if gpu else node


def _window(image: Any, place: Any) -> Any:
    window = fn.cast(place[0:4], dtype=types.INT32)
    return fn.slice(image, window[0:2], window[2:4], **OUTSIDE, **PLACED)


def _jitter(image: Any, factors: list[Any]) -> Any:
    """Brightness b, contrast c, saturation s at once: b (c (s x + (1 - s) grey(x)) + (1 - c) mean(grey)), in 0..255."""
    brightness, contrast, saturation = factors
    grey = image[:, :, 0:1] * GREY[0] + image[:, :, 1:2] * GREY[1] + image[:, :, 2:3] * GREY[2]
    center = fn.reductions.mean(grey)
    mixed = image * saturation + grey * (1 - saturation)
    return math.clamp((mixed * contrast + center * (1 - contrast)) * brightness, 0.0, 255.0)
