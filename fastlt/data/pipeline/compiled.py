"""Numba functions that DALI calls for every sample, compiled once and cached on disk.

DALI's Numba plugin calls a C function by its address, but compiles that function for every pipeline without caching it,
which takes about three seconds. The functions here have the same C signature.
"""

import zlib
from pathlib import Path
from typing import Any

from numba import types
from nvidia.dali.plugin.numba import NumbaFunction

from fastlt import kernels

_ADDRESSES = types.CPointer(types.voidptr)  # the addresses of the samples' data
_SHAPES = types.CPointer(types.CPointer(types.int64))
_NDIMS = types.CPointer(types.int32)
RUN = types.void(_ADDRESSES, _SHAPES, _NDIMS, types.int32, _ADDRESSES, _SHAPES, _NDIMS, types.int32)
"""The signature of a function that computes a sample: outputs, then inputs."""

SETUP = types.void(_SHAPES, _NDIMS, types.int32, _SHAPES, _NDIMS, types.int32, types.int32)
"""The signature of a function that sets the shapes of a batch's outputs. Sample s of output k is shapes[k * n + s]."""

# A checksum of all kernels, taken when they are imported. Numba compiles a cached function anew if its file changes,
# but not if that of a kernel does which it calls. Values from the enclosing scope are part of the cache's key: a
# function that uses this one is compiled anew.
KERNELS = sum(zlib.crc32(path.read_bytes()) for path in sorted(Path(kernels.__file__).parent.glob("*.py")))


class CompiledFunction(NumbaFunction):
    """DALI's Numba operator, but with compiled functions (cfunc) instead of those it would compile."""

    def _get_run_fn_cpu(self, run_fn: Any, *_: Any) -> int:
        return run_fn.address

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return setup_fn.address
