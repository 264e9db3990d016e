"""The backends as a fixture, and a simulator that is quick and safe."""

import importlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from backends import GPU, Backend

from fastlt.kernels.gpu import SIMULATED


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
