"""What kernels are given: NumPy arrays or PyTorch tensors, where they lie, and what is wrong with them.

A public function takes either kind and answers in the kind of its first argument, on the same device. Compiled CPU code
sees NumPy arrays; it knows neither of the 16-bit floats, so they come as their bits: float16 as uint16, bfloat16 (which
NumPy has not at all) as int16. Nothing is copied on the way, unless its layout asks for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""np.ndarray or torch.Tensor; the two have no common type."""

FLOATS = ("float32", "float16", "bfloat16")
_BITS = {"float16": np.uint16, "bfloat16": np.int16}


def take(array: Any) -> Array:
    """An array as it will be worked on: tensors and NumPy arrays as they are, other arrays on a GPU as tensors."""
    if isinstance(array, torch.Tensor):
        return array.detach()
    if hasattr(array, "__cuda_array_interface__"):
        return torch.as_tensor(array, device="cuda")
    return np.asarray(array)


def on_gpu(array: Array) -> bool:
    """Whether an array lies on a CUDA device."""
    return isinstance(array, torch.Tensor) and array.is_cuda


def dtype_name(array: Array) -> str:
    """`float32`, `bfloat16`, `int64`, ... for either kind."""
    return str(array.dtype).removeprefix("torch.")


def host_bits(array: Array) -> np.ndarray:
    """C-contiguous NumPy array of an array on the CPU; 16-bit floats as their bits (see above)."""
    name = dtype_name(array)
    if isinstance(array, torch.Tensor):
        if name == "bfloat16":
            array = array.view(torch.int16)
        array = array.numpy(force=True)
    array = np.ascontiguousarray(array)
    return array.view(_BITS[name]) if name in _BITS else array


def host(array: Array, dtype: Any) -> np.ndarray:
    """C-contiguous NumPy array of this dtype, wherever the array lies."""
    if isinstance(array, torch.Tensor):
        array = array.numpy(force=True)
    return np.ascontiguousarray(array, dtype=dtype)


def tensor(array: Array, device: torch.device | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Contiguous tensor of an array, sharing its memory where it can."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()  # a tensor could be written to
    return torch.as_tensor(array, device=device, dtype=dtype).contiguous()


def like(result: np.ndarray, model: Array) -> Array:
    """A result of CPU code in the kind of the array it was computed from."""
    return torch.from_numpy(result) if isinstance(model, torch.Tensor) else result


def check_rows(array: Array, name: str, shape: str, dtypes: tuple[str, ...] = FLOATS) -> None:
    """Raises ValueError unless `array` is a matrix of one of these dtypes with at least one row and one column.

    shape: how the message names the shape, such as `[N, D]`.
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
        low, high = torch.stack(ends).tolist() if isinstance(labels, torch.Tensor) else ends  # a GPU is waited for once
        if low < 0 or high >= num_classes:
            raise ValueError(f"label {low if low < 0 else high} is out of range; allowed is 0 to {num_classes - 1}")
