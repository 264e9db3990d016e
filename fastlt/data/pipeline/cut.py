"""The CPU operator in DALI that cuts windows out of JPEG files with seek tables, before they are decoded."""

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc
from nvidia.dali.pipeline import do_not_convert
from nvidia.dali.types import DALIDataType

from fastlt.data.pipeline.compiled import KERNELS, RUN, SETUP, CompiledFunction
from fastlt.kernels.jpeg_window import SPARE, cut_window


@functools.cache
def _run() -> Any:
    """Compiles the function that DALI calls for every sample."""
    version = KERNELS

    @cfunc(RUN, cache=True)
    def run(outputs, output_shapes, _output_ndims, _output_count, inputs, input_shapes, _input_ndims, _input_count):
        _ = version
        out = carray(outputs[0], (output_shapes[0][0],), dtype=np.uint8)
        placed = carray(outputs[1], (2,), dtype=np.int32)
        data = carray(inputs[0], (input_shapes[0][0],), dtype=np.uint8)
        anchor, shape = carray(inputs[1], (2,), dtype=np.int32), carray(inputs[2], (2,), dtype=np.int32)
        cut_window(data, anchor, shape, out, placed)

    return run


@functools.cache
def _setup() -> Any:
    """Compiles the function that tells DALI the shapes of the outputs."""

    @cfunc(SETUP, cache=True)
    def setup(output_shapes, _output_ndims, _output_count, input_shapes, _input_ndims, _input_count, samples):
        for sample in range(samples):
            file, placed = output_shapes[sample], output_shapes[samples + sample]
            file[0] = input_shapes[sample][0] + SPARE
            placed[0] = 2

    return setup


@do_not_convert
def cut_windows(data: Any, anchor: Any, shape: Any) -> Any:
    """Returns DALI graph nodes of files with the windows, and of the windows' first pixels in them.

    data: uint8 [length], encoded images; those without a seek table stay as they are. anchor, shape: int32 [2], the
    first pixel and the size of the windows. What is after the end of a returned file is not defined.
    """
    operator = CompiledFunction(
        run_fn=_run(),
        setup_fn=_setup(),
        out_types=[DALIDataType.UINT8, DALIDataType.INT32],
        in_types=[DALIDataType.UINT8, DALIDataType.INT32, DALIDataType.INT32],
        outs_ndim=[1, 1],
        ins_ndim=[1, 1, 1],
        batch_processing=False,
    )
    return operator(data, anchor, shape)
