"""Declares and launches CUDA kernels, and chooses grid sizes that fit the device.

A kernel works in place on PyTorch tensors, on PyTorch's current stream; memory is allocated by PyTorch as well. Under
Numba's simulator (NUMBA_ENABLE_CUDASIM=1) the same code runs on CPU tensors, with a Python thread for every CUDA
thread, so that it can be tested without a GPU. Reductions use shared memory, because the simulator has no warps.

A kernel is declared with the signatures it is launched with. Numba ignores them and compiles for the arguments it is
given, but the tests compile every declared signature for several architectures, and a launch under the simulator with
types that were not declared fails.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from numba import config, typeof
from numba import cuda as _numba_cuda
from numba.core.sigutils import normalize_signature
from numba.cuda import libdevice

cu: Any = _numba_cuda
"""numba.cuda for use in kernels; typed Any because its annotations do not allow arithmetic with threadIdx.x."""

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
THREADS = 4 if SIMULATED else 128
"""Threads of every block, a power of two: few enough that a row of a few hundred values keeps all of them busy."""

_FEWEST_BLOCKS = 128  # Numba warns of fewer; kernels use grid-stride loops, so surplus blocks end at once
_WAVES = 1 if SIMULATED else 4  # with a single wave most of the device would wait for the blocks that end last
_VIEWS = 1024  # Numba views of tensors that are kept, because PyTorch reuses addresses
_TYPES = {
    torch.float32: "<f4",
    torch.float16: "<f2",
    torch.bfloat16: "<i2",  # passed as its bits
    torch.float64: "<f8",
    torch.int64: "<i8",
    torch.bool: "|b1",
    torch.uint8: "|u1",
}

device_function = cu.jit(device=True)


@dataclass(frozen=True)
class Limits:
    """The sizes of a device: its number of multiprocessors, and the threads that fit on each of them."""

    multiprocessors: int
    threads: int


def limits(device: torch.device) -> Limits:
    """Returns the limits of a device; tiny ones for the simulator, so that small tests use several blocks."""
    if SIMULATED:
        return Limits(multiprocessors=1, threads=2 * THREADS)
    about = torch.cuda.get_device_properties(device)
    return Limits(about.multi_processor_count, about.max_threads_per_multi_processor)


def blocks_for(work: int, device: torch.device) -> int:
    """Returns how many blocks to launch for `work` pieces: at most a few times what the device runs at once."""
    found = limits(device)
    return min(work, _WAVES * found.multiprocessors * (found.threads // THREADS))


class Kernel:
    """A CUDA kernel with its declared signatures. Made by the decorator `kernel`."""

    def __init__(self, function: Callable[..., None], signatures: tuple[str, ...]):
        self.function, self.signatures = function, signatures
        self._types = {normalize_signature(signature)[0] for signature in signatures}
        self._compiled = cu.jit(function)

    def launch(self, blocks: int, *arguments: Any) -> None:
        """Launches the kernel with at least `blocks` blocks of THREADS threads; does nothing if `blocks` is 0.

        arguments: contiguous tensors on one device, and scalars.
        """
        tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
        assert all(one.is_contiguous() for one in tensors)
        if not blocks:
            return
        if SIMULATED:
            arrays = [_bits(one).numpy() if isinstance(one, torch.Tensor) else one for one in arguments]
            types = tuple(typeof(one) for one in arrays)
            assert types in self._types, f"{self.function.__name__}: {types} is not declared"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # NumPy warns of infinite values, a GPU does not
                self._compiled[blocks, THREADS](*arrays)
            return
        device = tensors[0].device
        with torch.cuda.device(device):
            stream = _stream(device, torch.cuda.current_stream(device).cuda_stream)
            views = [
                _view(one.data_ptr(), one.shape, _TYPES[one.dtype]) if isinstance(one, torch.Tensor) else one
                for one in arguments
            ]
            self._compiled[max(blocks, _FEWEST_BLOCKS), THREADS, stream](*views)


@lru_cache(maxsize=_VIEWS)
def _view(address: int, shape: tuple[int, ...], typestr: str) -> Any:
    """Returns a Numba array over a tensor's memory, which it does not own.

    The arrays are cached, because making one takes longer than the rest of a launch.
    """
    described = {"shape": tuple(shape), "typestr": typestr, "data": (address, False), "strides": None, "version": 2}
    return cu.from_cuda_array_interface(described, sync=False)


@lru_cache
def _stream(device: torch.device, handle: int) -> Any:
    """Returns Numba's object for a stream, always the same one, because Numba caches launch configurations by it."""
    return cu.external_stream(handle)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Returns bfloat16 values as their bits, because NumPy and the array interface lack this dtype."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


KERNELS: list[Kernel] = []
"""All kernels of the modules that have been imported."""


def kernel(*signatures: str) -> Callable[[Callable[..., None]], Kernel]:
    """Decorator that declares a kernel with its signatures, such as `float32[:, ::1], int64[::1], int64`."""

    def declare(function: Callable[..., None]) -> Kernel:
        KERNELS.append(Kernel(function, tuple(f"void({signature})" for signature in signatures)))
        return KERNELS[-1]

    return declare


@device_function
def product32(x, y):
    """Returns x * y, both float32, rounded by itself.

    A plain product is fused with the sum it goes into, and rounds once where a CPU rounds twice. With pixels that
    matters: a value that lies on the border between two levels then falls on the other side.
    """
    return x * y if SIMULATED else libdevice.fmul_rn(x, y)


@device_function
def product64(x, y):
    """Returns x * y, both float64, rounded by itself, as product32 does."""
    return x * y if SIMULATED else libdevice.dmul_rn(x, y)


@device_function
def block_sum(value, scratch):
    """Returns the sum of `value` over the threads of a block, added in a fixed order.

    scratch: a shared array of THREADS elements.
    """
    thread = cu.threadIdx.x
    scratch[thread] = value
    cu.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            scratch[thread] += scratch[thread + step]
        cu.syncthreads()
        step //= 2
    total = scratch[0]
    cu.syncthreads()  # all threads must have read the result before scratch is reused
    return total


@device_function
def block_max(value, scratch):
    """Returns the largest `value` over the threads of a block. scratch: a shared array of THREADS elements."""
    thread = cu.threadIdx.x
    scratch[thread] = value
    cu.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            scratch[thread] = max(scratch[thread], scratch[thread + step])
        cu.syncthreads()
        step //= 2
    largest = scratch[0]
    cu.syncthreads()
    return largest
