"""Backends that the tests of an op run on.

`cuda` runs on a CUDA device, or, with NUMBA_ENABLE_CUDASIM=1, in Numba's simulator on CPU tensors; without either it is
left out. `make test` runs the tests of this folder a second time in the simulator.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
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


@pytest.fixture(params=["reference", "cpu", "cuda"] if GPU or SIMULATED else ["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each of the backends."""
    return Backend(request.param)


class Allocations(dict[Any, Any]):
    """Shared arrays of a simulated block by the line that asks. One thread makes an array, the others wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def get(self, line: Any, default: Any = None) -> Any:
        self.lock.acquire()  # what is not there is set next
        if line in self:
            self.lock.release()
        return super().get(line, default)

    def __setitem__(self, line: Any, array: Any) -> None:
        super().__setitem__(line, array)
        self.lock.release()


@pytest.fixture(autouse=True)
def quick_simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The simulator waits for its threads in a busy loop, so they must take turns often.

    Then they also meet where it gives out shared arrays: two threads that ask at once would get one each.
    """
    before = sys.getswitchinterval()
    if SIMULATED:
        shared: Any = importlib.import_module("numba.cuda.simulator.kernelapi").FakeCUDAShared
        first = shared.__init__

        def init(self: Any, size: Any) -> None:
            first(self, size)
            self._allocations = Allocations()

        monkeypatch.setattr(shared, "__init__", init)
        sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
