"""Reads the pickles of CIFAR without running any code in them.

A pickle is a program that may call any function. This reader allows only the few names that a dict of lists, strings
and uint8 arrays needs, and resolves even those to stand-in classes that record their arguments. NumPy receives only
shapes and bytes that were checked here. The file may therefore come from any version of NumPy and Python.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

from fastlt.core.errors import UserError

# The stand-ins are classes with a __setstate__, because the pickle opcode BUILD could set attributes of a function.


class _Dtype:
    """Stands for numpy.dtype; only uint8 is allowed."""

    def __init__(self, spec: object, *_: object) -> None:
        if spec not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"an array of {spec!r} where uint8 was expected")

    def __setstate__(self, state: object) -> None:
        """Ignores byte order and alignment, which mean nothing for single bytes."""


class _Array:
    """Stands for an array made by numpy's _reconstruct; the opcode BUILD sets its state later."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _view(data, shape, dtype, "F" if fortran else "C")


class _BufferArray(_Array):
    """Stands for an array made by numpy's _frombuffer (pickle protocol 5), which passes all of it at once."""

    def __init__(self, data: Any, dtype: object, shape: Any, order: Any) -> None:
        self.value = _view(data, shape, dtype, order)


class _Latin1Bytes:
    """Stands for _codecs.encode, by which protocols 0 to 2 of Python 3 write bytes."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


def _view(data: Any, shape: Any, dtype: object, order: Any) -> np.ndarray:
    fits = isinstance(data, (bytes, bytearray)) and isinstance(shape, tuple) and isinstance(dtype, _Dtype)
    if not fits or order not in ("C", "F") or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("an array that is not plain uint8")
    if math.prod(shape) != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape, order=order)


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # only an argument of _reconstruct and never called, so any constant will do
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1Bytes,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _BufferArray


class _Refused(Exception):
    """Raised if the pickle refers to a name that CIFAR does not need."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise _Refused(f"{module_name}.{global_name}") from None


def read_cifar_pickle(data: bytes, where: str) -> dict[str, Any]:
    """Returns the dict of a CIFAR file, with strings as keys and read-only uint8 arrays.

    data: the content of the file. where: how messages call the file. Strings written by Python 2 are returned as bytes.

    Raises UserError if the pickle refers to anything but arrays and plain containers (none of it has run then), is
    damaged, or contains no dict.
    """
    try:
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as refused:
        raise UserError(
            f"{where}: refused to load {str(refused)[:100]!r} from this pickle, nothing of it was run; "
            "CIFAR needs only NumPy arrays and plain containers: get the official archive and do not trust this file"
        ) from None
    except Exception as error:  # damaged bytes can raise anything: pickle's own errors, IndexError, TypeError, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: not a readable CIFAR pickle ({reason}); download or unpack it again") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: this pickle holds a {type(content).__name__}, expected the dict of a CIFAR file; "
            "get the official archive"
        )
    named = ((key.decode("latin1") if isinstance(key, bytes) else key, value) for key, value in content.items())
    return {key: value.value if isinstance(value, _Array) else value for key, value in named if isinstance(key, str)}
