"""The fused CPU operator inside DALI: crop, antialiased resize, colour jitter, flip, normalize, one sample per call.

DALI's Numba plugin calls a C function by its address, but builds that function anew, uncached, for every pipeline:
about three seconds each time. The two functions here have the same C signature, are compiled once and kept on disk.
"""

import functools
import inspect
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, cfunc, types
from nvidia.dali import fn
from nvidia.dali.pipeline import do_not_convert
from nvidia.dali.plugin.numba import NumbaFunction
from nvidia.dali.types import DALIDataType

from fastlt.kernels.crop_resize import crop_resize_into
from fastlt.kernels.store_row import store_row

PARAMETERS = 10  # per sample: brightness, contrast, saturation, order, mean RGB, inverse std RGB
# Types of the output: what the kernel writes, what DALI calls that. Its Numba operator refuses float16, not its bits.
OUTPUTS = {
    "float32": (np.float32, DALIDataType.FLOAT),
    "float16": (np.uint16, DALIDataType.UINT16),
    "uint8": (np.uint8, DALIDataType.UINT8),
}

_ADDRESSES = types.CPointer(types.voidptr)  # of every sample's data
_SHAPES = types.CPointer(types.CPointer(types.int64))
_NDIMS = types.CPointer(types.int32)
_RUN = types.void(_ADDRESSES, _SHAPES, _NDIMS, types.int32, _ADDRESSES, _SHAPES, _NDIMS, types.int32)
_SETUP = types.void(_SHAPES, _NDIMS, types.int32, _SHAPES, _NDIMS, types.int32, types.int32)


@functools.cache
def _run(dtype: str, channels_last: bool) -> Any:
    """The function that DALI calls per sample."""
    memory = OUTPUTS[dtype][0]
    # Numba keeps the compiled function until this file changes, and would not see a change of the kernel it calls. A
    # value from outside is part of what it compares.
    kernel = sum(zlib.crc32(Path(inspect.getfile(part)).read_bytes()) for part in (crop_resize_into.py_func, store_row))

    @cfunc(_RUN, cache=True)
    def run(outputs, output_shapes, _output_ndims, _output_count, inputs, input_shapes, _input_ndims, _input_count):
        _ = kernel
        out_shape, shape = output_shapes[0], input_shapes[0]
        out = carray(outputs[0], (out_shape[0], out_shape[1], out_shape[2]), dtype=memory)
        image = carray(inputs[0], (shape[0], shape[1], shape[2]), dtype=np.uint8)
        place = carray(inputs[1], (9,), dtype=np.float64)
        parameters = carray(inputs[2], (PARAMETERS,), dtype=np.float32)
        planes = out.transpose(2, 0, 1) if channels_last else out
        jitter, mean, inv_std = parameters[:4], parameters[4:7], parameters[7:10]
        crop_resize_into(planes, image, place[:4], place[4:8], int(place[8]), jitter, mean, inv_std)

    return run


@functools.cache
def _setup(size: int, channels_last: bool) -> Any:
    """The function that tells DALI the output's shape, which is a constant in it."""
    first, last = (size, 3) if channels_last else (3, size)

    @cfunc(_SETUP, cache=True)
    def setup(output_shapes, _output_ndims, _output_count, _input_shapes, _input_ndims, _input_count, samples):
        for sample in range(samples):
            shape = output_shapes[sample]
            shape[0] = first
            shape[1] = size
            shape[2] = last

    return setup


class _CropResize(NumbaFunction):
    """DALI's Numba operator with the functions above in place of those it would build."""

    def _get_run_fn_cpu(self, run_fn: Any, *_: Any) -> int:
        return run_fn.address

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return setup_fn.address


@do_not_convert
def crop_resize(image: Any, place: Any, parameters: Any, size: int, dtype: str, channels_last: bool) -> Any:
    """DALI graph node: samples [3, size, size], or [size, size, 3] if channels_last.

    image: uint8 HWC. place: float64 [9], y, x, height, width of the window of pixels in `image` that are read; the same
    of the box in the window that the output shows; flip. parameters: float32 [PARAMETERS]. dtype: float32, float16 or
    uint8; as uint8, pixels are not normalized.
    """
    operator = _CropResize(
        run_fn=_run(dtype, channels_last),
        setup_fn=_setup(size, channels_last),
        out_types=[OUTPUTS[dtype][1]],
        in_types=[DALIDataType.UINT8, DALIDataType.FLOAT64, DALIDataType.FLOAT],
        outs_ndim=[3],
        ins_ndim=[3, 1, 1],
        batch_processing=False,
    )
    output = operator(image, place, parameters)
    return fn.reinterpret(output, dtype=DALIDataType.FLOAT16) if dtype == "float16" else output  # pyright: ignore
