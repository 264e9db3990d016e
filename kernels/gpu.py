"""CUDA kernels: how they are declared, launched, and given sizes that fit the device.

A kernel works on PyTorch tensors where they lie, on PyTorch's current stream; memory comes from PyTorch as well. Under
Numba's simulator (NUMBA_ENABLE_CUDASIM=1) the same code runs on CPU tensors, every thread a thread of Python, so that
it is tested without a GPU. Reductions go through shared memory, for the simulator knows no warp.

A kernel is declared with the signatures it is launched with. They decide nothing: Numba compiles for what it is given.
But the tests compile each of them for several architectures, and the simulator refuses a launch that was not declared.
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

cu: Any = _numba_cuda
"""numba.cuda, for kernels; Any because its annotations do not know what a kernel may do with threadIdx.x."""

SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
THREADS = 4 if SIMULATED else 128
"""Threads of every block: few enough that a row of a few hundred numbers keeps them busy. A power of two."""

_FEWEST_BLOCKS = 128  # Numba warns of fewer; kernels stride over the grid, so those in excess end at once
_WAVES = 1 if SIMULATED else 4  # with one, most of the device would wait for the blocks that end last
_VIEWS = 1024  # of tensors kept: PyTorch gives out the same addresses again and again
_TYPES = {
    torch.float32: "<f4",
    torch.float16: "<f2",
    torch.bfloat16: "<i2",  # its bits
    torch.float64: "<f8",
    torch.int64: "<i8",
    torch.bool: "|b1",
}

device_function = cu.jit(device=True)


@dataclass(frozen=True)
class Limits:
    """What sizes are taken from: multiprocessors, threads that fit one of them."""

    multiprocessors: int
    threads: int


def limits(device: torch.device) -> Limits:
    """Those of a device; tiny ones for the simulator, so that small tests have several blocks and tiles."""
    if SIMULATED:
        return Limits(multiprocessors=1, threads=2 * THREADS)
    about = torch.cuda.get_device_properties(device)
    return Limits(about.multi_processor_count, about.max_threads_per_multi_processor)


def blocks_for(work: int, device: torch.device) -> int:
    """Blocks for `work` pieces that blocks take in strides of the grid: a few times what the device holds at once."""
    found = limits(device)
    return min(work, _WAVES * found.multiprocessors * (found.threads // THREADS))


class Kernel:
    """A CUDA kernel, its signatures, and its launch."""

    def __init__(self, function: Callable[..., None], signatures: tuple[str, ...]):
        self.function, self.signatures = function, signatures
        self._types = {normalize_signature(signature)[0] for signature in signatures}
        self._compiled = cu.jit(function)

    def launch(self, blocks: int, *arguments: Any) -> None:
        """Starts at least `blocks` blocks of THREADS threads. Arguments: contiguous tensors of one device, scalars."""
        tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
        assert all(one.is_contiguous() for one in tensors)
        if not blocks:
            return
        if SIMULATED:
            arrays = [_bits(one).numpy() if isinstance(one, torch.Tensor) else one for one in arguments]
            types = tuple(typeof(one) for one in arrays)
            assert types in self._types, f"{self.function.__name__}: {types} is not declared"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of infinite numbers: no GPU warns
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
    """Numba's array of a tensor's memory, whose making takes longer than the rest of a launch. It owns nothing."""
    described = {"shape": tuple(shape), "typestr": typestr, "data": (address, False), "strides": None, "version": 2}
    return cu.from_cuda_array_interface(described, sync=False)


@lru_cache
def _stream(device: torch.device, handle: int) -> Any:
    """Numba's object of a stream, the same one each time: Numba keeps launch configurations by it."""
    return cu.external_stream(handle)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """bfloat16 as its bits, for neither NumPy nor the array interface has it."""
    return values.view(torch.int16) if values.dtype == torch.bfloat16 else values


KERNELS: list[Kernel] = []
"""Every kernel of the modules imported so far."""


def kernel(*signatures: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declares a kernel with the signatures it is launched with, such as `float32[:, ::1], int64[::1], int64`."""

    def declare(function: Callable[..., None]) -> Kernel:
        KERNELS.append(Kernel(function, tuple(f"void({signature})" for signature in signatures)))
        return KERNELS[-1]

    return declare


@device_function
def block_sum(value, scratch):
    """Sum over the threads of a block, in an order that is always the same. scratch: shared array of THREADS."""
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
    cu.syncthreads()  # before scratch is written to again
    return total


@device_function
def block_max(value, scratch):
    """Largest value of the threads of a block. scratch: shared array of THREADS."""
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
