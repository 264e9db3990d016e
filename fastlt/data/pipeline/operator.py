"""The fused CPU operator in DALI: crop, antialiased resize, colour jitter, flip, augmentations and normalization."""

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc
from nvidia.dali import fn
from nvidia.dali.pipeline import do_not_convert
from nvidia.dali.types import DALIDataType

from fastlt.data.pipeline.columns import PLACE
from fastlt.data.pipeline.compiled import KERNELS, RUN, SETUP, CompiledFunction
from fastlt.kernels.augment_codes import WIDTH
from fastlt.kernels.augment_cpu import augment_into
from fastlt.kernels.crop_resize import crop_resize_into

PARAMETERS = 11  # per sample: brightness, contrast, saturation, order, mean RGB, inverse std RGB, interpolation
# Types of the output: (what the kernel writes, DALI's type). DALI's Numba operator refuses float16, but takes its bits.
OUTPUTS = {
    "float32": (np.float32, DALIDataType.FLOAT),
    "float16": (np.uint16, DALIDataType.UINT16),
    "uint8": (np.uint8, DALIDataType.UINT8),
}


@functools.cache
def _run(dtype: str, channels_last: bool) -> Any:
    """Compiles the function that DALI calls for every sample."""
    memory = OUTPUTS[dtype][0]
    version = KERNELS

    @cfunc(RUN, cache=True)
    def run(outputs, output_shapes, _output_ndims, _output_count, inputs, input_shapes, _input_ndims, _input_count):
        _ = version
        out_shape, shape = output_shapes[0], input_shapes[0]
        out = carray(outputs[0], (out_shape[0], out_shape[1], out_shape[2]), dtype=memory)
        image = carray(inputs[0], (shape[0], shape[1], shape[2]), dtype=np.uint8)
        place = carray(inputs[1], (9,), dtype=np.float64)
        parameters = carray(inputs[2], (PARAMETERS,), dtype=np.float32)
        planes = out.transpose(2, 0, 1) if channels_last else out
        jitter, mean, inv_std = parameters[:4], parameters[4:7], parameters[7:10]
        bicubic = int(parameters[10])
        crop_resize_into(planes, image, place[:4], place[4:8], int(place[8]), jitter, mean, inv_std, bicubic)

    return run


@functools.cache
def _run_augmented(dtype: str, channels_last: bool) -> Any:
    """Compiles the function that DALI calls for every sample with augmentations."""
    memory = OUTPUTS[dtype][0]
    version = KERNELS
    pixels = dtype == "uint8"

    @cfunc(RUN, cache=True)
    def run(outputs, output_shapes, _output_ndims, _output_count, inputs, input_shapes, _input_ndims, _input_count):
        _ = version
        out_shape, shape, numbers = output_shapes[0], input_shapes[0], input_shapes[1][0]
        out = carray(outputs[0], (out_shape[0], out_shape[1], out_shape[2]), dtype=memory)
        image = carray(inputs[0], (shape[0], shape[1], shape[2]), dtype=np.uint8)
        place = carray(inputs[1], (numbers,), dtype=np.float64)
        parameters = carray(inputs[2], (PARAMETERS,), dtype=np.float32)
        planes = out.transpose(2, 0, 1) if channels_last else out
        jitter, mean, inv_std = parameters[:4], parameters[4:7], parameters[7:10]
        plain, spare = np.empty(planes.shape, np.uint8), np.empty(planes.shape, np.uint8)
        bicubic = int(parameters[10])
        crop_resize_into(plain, image, place[:4], place[4:8], int(place[8]), jitter, mean, inv_std, bicubic)
        slots = place[PLACE:].reshape((numbers - PLACE) // WIDTH, WIDTH)
        erased = np.zeros(3, np.float32)
        if pixels:
            for colour in range(3):
                erased[colour] = int(mean[colour] + np.float32(0.5))
        augment_into(planes, plain, spare, slots, mean, inv_std, erased)

    return run


@functools.cache
def _setup(size: int, channels_last: bool) -> Any:
    """Compiles the function that tells DALI the shape of the output, which is constant."""
    first, last = (size, 3) if channels_last else (3, size)

    @cfunc(SETUP, cache=True)
    def setup(output_shapes, _output_ndims, _output_count, _input_shapes, _input_ndims, _input_count, samples):
        for sample in range(samples):
            shape = output_shapes[sample]
            shape[0] = first
            shape[1] = size
            shape[2] = last

    return setup


@do_not_convert
def crop_resize(
    image: Any, place: Any, parameters: Any, size: int, dtype: str, channels_last: bool, augmented: bool
) -> Any:
    """Returns a DALI graph node of samples [3, size, size], or [size, size, 3] if channels_last.

    image: uint8 HWC.
    place: float64 [PLACE + K * WIDTH]: y, x, height and width of the window of pixels that are read, relative to
    `image`; the same four numbers of the box that the output shows, relative to the window; flip; and, if augmented, K
    operations (augment_codes.py).
    parameters: float32 [PARAMETERS].
    dtype: `float32`, `float16` or `uint8` (not normalized).
    """
    operator = CompiledFunction(
        run_fn=(_run_augmented if augmented else _run)(dtype, channels_last),
        setup_fn=_setup(size, channels_last),
        out_types=[OUTPUTS[dtype][1]],
        in_types=[DALIDataType.UINT8, DALIDataType.FLOAT64, DALIDataType.FLOAT],
        outs_ndim=[3],
        ins_ndim=[3, 1, 1],
        batch_processing=False,
    )
    output = operator(image, place, parameters)
    return fn.reinterpret(output, dtype=DALIDataType.FLOAT16) if dtype == "float16" else output  # pyright: ignore
