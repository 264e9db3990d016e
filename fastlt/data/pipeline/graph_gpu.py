"""The DALI graph on the GPU: mixed decoding of the window, resize, colour jitter, normalization.

It takes the same plan and the same columns as the CPU graph, with these differences. The resize is DALI's: it does not
round between its two passes, and where the filter extends beyond the window it repeats the outermost pixels, whereas
Pillow leaves them out. Colour jitter is a single affine map, because brightness, contrast and saturation commute except
where an intermediate value is clamped. The order of jitter in the plan therefore has no effect here.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI creates most of its names at import, so type checkers do not know them)

from collections.abc import Callable
from typing import Any

from nvidia.dali import Pipeline, fn, math, pipeline_def, types
from nvidia.dali.pipeline import do_not_convert

from fastlt.data.pipeline.columns import inputs
from fastlt.data.pipeline.graph_cpu import DECODED, PLACED

# Weights of R, G and B in the grey value (ITU-R 601-2), as in Pillow and torchvision.
GREY = (0.299, 0.587, 0.114)
FILTERS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}
OUTPUTS = {"float32": types.FLOAT, "float16": types.FLOAT16, "uint8": types.UINT8}
# jpeg_fancy_upsampling interpolates chroma as the CPU's decoder does; by default the GPU's repeats samples, which gives
# other colours. Without affine=False, several processes on a node would pin their threads to the same cores.
MIXED = {"device": "mixed", "jpeg_fancy_upsampling": True, "affine": False}
OUTSIDE = {"out_of_bounds_policy": "pad", "fill_values": 0}  # pixels outside the image are black


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
    interpolation: str,
    views: int = 1,
) -> Pipeline:
    """Builds a pipeline of batches on a GPU, with one output for each view.

    device: the number of the GPU. jitter: whether the colour factors of the plan are applied. interpolation: one of the
    kernel's INTERPOLATIONS. The other arguments are those of graph_cpu.build.
    """
    pipeline = graph(
        source, stored, size, dtype, channels_last, jitter, interpolation, True, views,
        batch_size=batch, num_threads=threads, device_id=device, prefetch_queue_depth=prefetch,
    )  # fmt: skip
    pipeline.build()
    return pipeline


@pipeline_def(enable_conditionals=True)
def graph(
    source: Callable[[], Any],
    stored: str,
    size: int,
    dtype: str,
    channels_last: bool,
    jitter: bool,
    interpolation: str,
    gpu: bool,
    views: int = 1,
) -> Any:
    """Defines the graph. With gpu=False all operators run on the CPU, which is used in tests."""
    decoder = MIXED if gpu else {}
    if stored == "raw":
        pixels, place, parameters = inputs(source, stored, views)
        windows = [_to_gpu(_window(pixels, each), gpu) for each in place]  # only windows are copied to the device
    elif stored == "encoded":
        data, anchor, shape, place, parameters = inputs(source, stored, views)
        image = fn.decoders.image_slice(data, anchor, shape, **DECODED, **decoder)
        windows = [_window(image, each) for each in place]
    else:
        data, pixels, is_raw, anchor, shape, place, parameters = inputs(source, stored, views)
        if is_raw:
            windows = [_to_gpu(_window(pixels, each), gpu) for each in place]
        else:
            image = fn.decoders.image_slice(data, anchor, shape, **DECODED, **decoder)
            windows = [_window(image, each) for each in place]
    return _resize_views(windows, place, parameters, size, dtype, channels_last, jitter, interpolation, gpu)


@do_not_convert  # the conditions in it are not of the graph
def _resize_views(windows: list[Any], places: list[Any], parameters: list[Any], *output: Any) -> tuple[Any, ...]:
    return tuple(_resized(*each, *output) for each in zip(windows, places, parameters, strict=True))


def _resized(
    image: Any,
    place: Any,
    parameters: Any,
    size: int,
    dtype: str,
    channels_last: bool,
    jitter: bool,
    interpolation: str,
    gpu: bool,
) -> Any:
    """Returns the node of a view. image: its window. place, parameters: of the view. The rest as in `build`."""
    box = fn.cast(place[4:8], dtype=types.FLOAT)
    image = fn.resize(
        image,
        size=[size, size],
        roi_start=box[0:2],
        roi_end=box[0:2] + box[2:4],
        interp_type=FILTERS[interpolation],  # the filter also reads pixels of the window beyond the box
        antialias=True,
        dtype=types.FLOAT,
    )
    if interpolation == "bicubic":
        image = math.clamp(image, 0.0, 255.0)  # bicubic weights may be negative, so edges overshoot on both sides
    if jitter:
        image = _jitter(image, [_to_gpu(parameters[i], gpu) for i in range(3)])
    mean, std = parameters[4:7], 1 / parameters[7:10]
    if dtype == "uint8":  # pixels are not normalized, but DALI requires that every column is used
        mean, std = mean * 0.0, std * 0.0 + 1.0
    return fn.crop_mirror_normalize(
        image,
        mirror=fn.cast(place[8], dtype=types.INT32),
        mean=mean,
        std=std,
        dtype=OUTPUTS[dtype],
        output_layout="HWC" if channels_last else "CHW",
    )


def _to_gpu(node: Any, gpu: bool) -> Any:
    return node.gpu() if gpu else node


def _window(image: Any, place: Any) -> Any:
    window = fn.cast(place[0:4], dtype=types.INT32)
    return fn.slice(image, window[0:2], window[2:4], **OUTSIDE, **PLACED)


def _jitter(image: Any, factors: list[Any]) -> Any:
    """Applies brightness b, contrast c and saturation s to an image x in one step:
    b (c (s x + (1 - s) grey(x)) + (1 - c) mean(grey(x))), clamped to 0..255."""
    brightness, contrast, saturation = factors
    grey = image[:, :, 0:1] * GREY[0] + image[:, :, 1:2] * GREY[1] + image[:, :, 2:3] * GREY[2]
    center = fn.reductions.mean(grey)
    mixed = image * saturation + grey * (1 - saturation)
    return math.clamp((mixed * contrast + center * (1 - contrast)) * brightness, 0.0, 255.0)
