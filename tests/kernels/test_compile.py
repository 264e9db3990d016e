"""Every CUDA kernel compiles, on a machine without a GPU too, for the architectures people have."""

import importlib
import pkgutil
from types import SimpleNamespace

import pytest
from numba.cuda import compile_ptx

import fastlt.kernels
from fastlt.kernels import augment_cuda, gpu

for _module in pkgutil.iter_modules(fastlt.kernels.__path__):
    importlib.import_module(f"fastlt.kernels.{_module.name}")

CASES = [
    pytest.param(kernel, signature, id=f"{kernel.function.__name__}({signature})")
    for kernel in gpu.KERNELS
    for signature in kernel.signatures
]


compiled = pytest.mark.skipif(gpu.SIMULATED, reason="the simulator does not compile")


def compile_for(function, signature, capability, monkeypatch):
    """Returns the PTX of a kernel and the type of what it returns."""
    # Numba asks the present device for its capability when it compiles what a kernel calls.
    present = SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: present)
    return compile_ptx(function, signature, cc=capability)


@compiled
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize(("kernel", "signature"), CASES)
def test_compiles(kernel, signature, capability, monkeypatch):
    ptx, result = compile_for(kernel.function, signature, capability, monkeypatch)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx and ".visible .entry" in ptx
    assert str(result) == "none"


@compiled
def test_products_of_pixels_are_rounded_as_on_a_cpu(monkeypatch):
    (augment,) = (kernel for kernel in gpu.KERNELS if kernel.function is augment_cuda._carry_out.function)
    ptx, _ = compile_for(augment.function, augment.signatures[0], (9, 0), monkeypatch)
    assert "mul.rn.f32" in ptx and "fma.rn.f32" not in ptx  # in float64, exp has some

    def add(x, y, out):
        out[0] = gpu.product64(x[0], y[0]) + x[1]

    ptx, _ = compile_for(add, "void(float64[::1], float64[::1], float64[::1])", (9, 0), monkeypatch)
    assert "mul.rn.f64" in ptx and "fma" not in ptx


def test_there_are_kernels():
    assert {kernel.function.__module__ for kernel in gpu.KERNELS} >= {"fastlt.kernels.class_mean_cuda"}
