"""Every CUDA kernel compiles, on a machine without a GPU too, for the architectures people have."""

import importlib
import pkgutil
from types import SimpleNamespace

import pytest
from numba.cuda import compile_ptx

import fastlt.kernels
from fastlt.kernels import gpu

for _module in pkgutil.iter_modules(fastlt.kernels.__path__):
    importlib.import_module(f"fastlt.kernels.{_module.name}")

CASES = [
    pytest.param(kernel, signature, id=f"{kernel.function.__name__}({signature})")
    for kernel in gpu.KERNELS
    for signature in kernel.signatures
]


@pytest.mark.skipif(gpu.SIMULATED, reason="the simulator does not compile")
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize(("kernel", "signature"), CASES)
def test_compiles(kernel, signature, capability, monkeypatch):
    # Numba asks the present device for its capability when it compiles what a kernel calls.
    present = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: present)
    ptx, result = compile_ptx(kernel.function, signature, cc=capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx and ".visible .entry" in ptx
    assert str(result) == "none"


def test_there_are_kernels():
    assert {kernel.function.__module__ for kernel in gpu.KERNELS} >= {"fastlt.kernels.class_mean_cuda"}
