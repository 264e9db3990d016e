"""Backends that the tests of an op run on.

`cuda` runs on a CUDA device, or, with NUMBA_ENABLE_CUDASIM=1, in Numba's simulator on CPU tensors; without either it is
left out. `make test` runs the tests of this folder a second time in the simulator.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastlt.kernels.gpu import SIMULATED

GPU = not SIMULATED and torch.cuda.is_available()


class Backend:
    """One implementation of an op, called with NumPy arrays and answering with NumPy arrays.

    bfloat16, which NumPy has not, goes in as a tensor; for the reference it becomes float32.
    """

    def __init__(self, name: str):
        self.name = name

    def __call__(self, op: Any, public: str, *arguments: Any) -> Any:
        """Result of the op's module, by its public function where that picks this backend."""
        if self.name == "reference":
            function: Callable[..., Any] = op.reference
        elif self.name == "cpu" or GPU:
            function = getattr(op, public)
        else:
            function = op.cuda
        convert = {"reference": _for_reference, "cpu": lambda value: value, "cuda": _for_cuda}[self.name]
        return to_numpy(function(*map(convert, arguments)))


def _for_reference(value: Any) -> Any:
    return value.float().numpy() if isinstance(value, torch.Tensor) else value


def _for_cuda(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    return value.cuda() if isinstance(value, torch.Tensor) and GPU else value


def to_numpy(result: Any) -> Any:
    """Tensors, and those in a tuple, as NumPy arrays."""
    if isinstance(result, torch.Tensor):
        return result.numpy(force=True)
    return tuple(to_numpy(one) for one in result) if type(result) is tuple else result
