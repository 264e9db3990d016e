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

from fastlt.pipeline.graph_cpu import external_inputs

# Grey value of RGB (ITU-R 601-2), as Pillow and torchvision weigh it.
GREY = (0.299, 0.587, 0.114)
PLACED = {"axes": [0, 1], "normalized_anchor": False, "normalized_shape": False}


def build(
    source: Callable[[], Any], raw: bool, size: int, batch: int, threads: int, prefetch: int, device: int, jitter: bool
) -> Pipeline:
    """A pipeline of batches float16 [n, size, size, 3] on GPU `device`. Other arguments as graph_cpu.build.

    jitter: whether the plan's colour factors are applied.
    """
    pipeline = Pipeline(batch_size=batch, num_threads=threads, device_id=device, prefetch_queue_depth=prefetch)
    with pipeline:
        pipeline.set_outputs(images(external_inputs(source, raw), raw, size, jitter, "mixed", lambda node: node.gpu()))
    pipeline.build()
    return pipeline


def images(inputs: Any, raw: bool, size: int, jitter: bool, decoder: str, place: Callable[[Any], Any]) -> Any:
    """The graph itself. decoder: device of the image decoder. place: moves a node to where the images are.

    Tests run the same operators with decoder="cpu" and images left on the CPU.
    """
    if raw:
        image, box, parameters = inputs
        image = fn.reshape(image, layout="HWC")
    else:
        data, anchor, shape, box, parameters = inputs
        image = fn.decoders.image_slice(
            data, anchor, shape, device=decoder, output_type=types.RGB, adjust_orientation=False, **PLACED
        )
    # Of raw pixels only the crop travels to the device; what sticks out of the image is black.
    window = fn.slice(image, box[0:2], box[2:4], out_of_bounds_policy="pad", fill_values=0, **PLACED)
    window = place(window) if raw else window
    image = fn.resize(window, size=[size, size], interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT)
    if jitter:
        image = _jitter(image, [place(parameters[i]) for i in range(3)])
    image = fn.flip(image, horizontal=box[4])
    mean, inverse = (place(fn.reshape(parameters[a : a + 3], shape=[1, 1, 3])) for a in (4, 7))
    return fn.cast((image - mean) * inverse, dtype=types.FLOAT16)


def _jitter(image: Any, factors: list[Any]) -> Any:
    """Brightness b, contrast c, saturation s at once: b (c (s x + (1 - s) grey(x)) + (1 - c) mean(grey)), in 0..255."""
    brightness, contrast, saturation = factors
    grey = image[:, :, 0:1] * GREY[0] + image[:, :, 1:2] * GREY[1] + image[:, :, 2:3] * GREY[2]
    center = fn.reductions.mean(grey)
    mixed = image * saturation + grey * (1 - saturation)
    return math.clamp((mixed * contrast + center * (1 - contrast)) * brightness, 0.0, 255.0)
