"""Files mapped into memory without keeping them open: a dataset may have more shards than a process may open files."""

import ctypes
import os
import weakref
from pathlib import Path

import numpy as np

_PROT_READ, _MAP_SHARED, _MADV_DONTNEED = 1, 1, 4  # Linux
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def map_file(path: Path, size: int) -> np.ndarray | int:
    """The bytes of a file, a read-only uint8 array of `size` that stays what it is if another file takes the name.

    Nothing is read until it is touched. Returns the size that the file has where that is another one. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            return found
        if not size:
            return np.empty(0, np.uint8)
        address = _libc.mmap(None, size, _PROT_READ, _MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)  # Python's own mmap would keep a copy of it
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    owner = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(owner, _libc.munmap, address, size).atexit = False  # threads of DALI may read until the very end
    mapped = np.frombuffer(owner, np.uint8)  # pyright: ignore[reportArgumentType, reportCallIssue]
    mapped.flags.writeable = False
    return mapped


def forget_pages(mapped: np.ndarray) -> None:
    """Has the system read the bytes from the file again when they are touched."""
    _libc.madvise(mapped.ctypes.data, mapped.size, _MADV_DONTNEED)
