"""Conversion and validation of kernel arguments, which may be NumPy arrays or PyTorch tensors.

The public functions of kernels take either type and return the type of their first argument, on the same device.
Compiled CPU code works on NumPy arrays. Numba supports neither 16-bit float there, so they are passed as their bits:
float16 as uint16, bfloat16 as int16. Arrays are copied only if they are not C-contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""np.ndarray or torch.Tensor, which have no common base type."""

FLOATS = ("float32", "float16", "bfloat16")
_BITS = {"float16": np.uint16, "bfloat16": np.int16}


def take(array: Any) -> Array:
    """Returns a tensor or NumPy array unchanged, any other GPU array as a tensor, anything else as a NumPy array."""
    if isinstance(array, torch.Tensor):
        return array.detach()
    if hasattr(array, "__cuda_array_interface__"):
        return torch.as_tensor(array, device="cuda")
    return np.asarray(array)


def on_gpu(array: Array) -> bool:
    """Returns whether an array is a tensor on a CUDA device."""
    return isinstance(array, torch.Tensor) and array.is_cuda


def dtype_name(array: Array) -> str:
    """Returns the name of an array's dtype, such as `float32`, for NumPy arrays and tensors alike."""
    return str(array.dtype).removeprefix("torch.")


def host_bits(array: Array) -> np.ndarray:
    """Returns an array as a C-contiguous NumPy array on the CPU; 16-bit floats as their bits (see the module)."""
    name = dtype_name(array)
    if isinstance(array, torch.Tensor):
        if name == "bfloat16":
            array = array.view(torch.int16)
        array = array.numpy(force=True)
    array = np.ascontiguousarray(array)
    return array.view(_BITS[name]) if name in _BITS else array


def host(array: Array, dtype: Any) -> np.ndarray:
    """Returns an array from any device as a C-contiguous NumPy array of this dtype."""
    if isinstance(array, torch.Tensor):
        array = array.numpy(force=True)
    return np.ascontiguousarray(array, dtype=dtype)


def tensor(array: Array, device: torch.device | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Returns an array as a contiguous tensor that shares its memory where possible."""
    if isinstance(array, np.ndarray) and not (array.flags.writeable and all(stride >= 0 for stride in array.strides)):
        array = array.copy()  # PyTorch has no read-only tensors, and none with negative strides
    return torch.as_tensor(array, device=device, dtype=dtype).contiguous()


def like(result: np.ndarray, model: Array) -> Array:
    """Returns a result of CPU code as the type (tensor or NumPy array) of `model`, its input."""
    return torch.from_numpy(result) if isinstance(model, torch.Tensor) else result


def check_rows(array: Array, name: str, shape: str, dtypes: tuple[str, ...] = FLOATS) -> None:
    """Raises ValueError unless `array` is a matrix of one of these dtypes with at least one row and one column.

    name, shape: what the error message calls the array and its shape, such as `features` and `[N, D]`.
    """
    if dtype_name(array) not in dtypes:
        raise ValueError(f"{name} have dtype {dtype_name(array)}; allowed are {' and '.join(dtypes)}")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} have shape {tuple(array.shape)}; allowed is {shape}, each at least 1")


def check_labels(labels: Array, rows: int, num_classes: int) -> None:
    """Raises ValueError unless labels are integers [rows] in 0..num_classes-1."""
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    if tuple(labels.shape) != (rows,) or not dtype_name(labels).startswith(("int", "uint")):
        raise ValueError(
            f"labels are {dtype_name(labels)} {tuple(labels.shape)}; allowed are integers of shape ({rows},)"
        )
    if rows:
        ends = labels.aminmax() if isinstance(labels, torch.Tensor) else (labels.min(), labels.max())
        # One transfer for both ends, so that the host waits for the GPU only once.
        low, high = torch.stack(ends).tolist() if isinstance(labels, torch.Tensor) else ends
        if low < 0 or high >= num_classes:
            raise ValueError(f"label {low if low < 0 else high} is out of range; allowed is 0 to {num_classes - 1}")
