"""Reads the pickles of CIFAR without running anything they contain.

A pickle is a program that may call any function of the machine. This reader admits the handful of names that a dict of
lists, strings and uint8 arrays needs, and even those reach stand-ins that only take notes: NumPy sees nothing but the
shape and the bytes, checked here. So it does not matter either which NumPy or which Python wrote the file.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

from fastlt.core.errors import UserError

# The stand-ins are classes with a __setstate__: on a plain function the pickle opcode BUILD could set attributes.


class _Dtype:
    """Stands for numpy.dtype; uint8 is all that CIFAR has."""

    def __init__(self, spec: object, *_: object) -> None:
        if spec not in ("u1", b"u1", "|u1", b"|u1"):
            raise pickle.UnpicklingError(f"an array of {spec!r} where uint8 was expected")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which mean nothing for single bytes."""


class _Array:
    """Stands for an array made by numpy's _reconstruct; its state comes later, by BUILD."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _view(data, shape, dtype, "F" if fortran else "C")


class _BufferArray(_Array):
    """Stands for an array made by numpy's _frombuffer (pickle protocol 5), whole at once."""

    def __init__(self, data: Any, dtype: object, shape: Any, order: Any) -> None:
        self.value = _view(data, shape, dtype, order)


class _Latin1Bytes:
    """Stands for _codecs.encode, through which protocols 0 to 2 of Python 3 spell bytes."""

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
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct and never called: any constant does
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1Bytes,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _BufferArray


class _Refused(Exception):
    """The pickle asked for a name that CIFAR does not need."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise _Refused(f"{module_name}.{global_name}") from None


def read_cifar_pickle(data: bytes, where: str) -> dict[str, Any]:
    """The dict that a CIFAR file holds, with text keys and uint8 arrays (read-only).

    `data` is the file's content, `where` names the file in messages. Strings that Python 2 wrote come as bytes.
    Raises UserError when the pickle asks for anything but arrays and plain containers (nothing of it has run then),
    is damaged, or holds no dict.
    """
    try:
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as refused:
        raise UserError(
            f"{where}: refused to load {str(refused)[:100]!r} from this pickle, nothing of it was run; "
            "CIFAR needs only NumPy arrays and plain containers: get the official archive and do not trust this file"
        ) from None
    except Exception as error:  # what goes wrong is up to the bytes: pickle's own errors, IndexError, TypeError, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{where}: not a readable CIFAR pickle ({reason}); download or unpack it again") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{where}: this pickle holds a {type(content).__name__}, expected the dict of a CIFAR file; "
            "get the official archive"
        )
    named = ((key.decode("latin1") if isinstance(key, bytes) else key, value) for key, value in content.items())
    return {key: value.value if isinstance(value, _Array) else value for key, value in named if isinstance(key, str)}
