"""Maps files into memory without keeping them open: a dataset may have more shards than a process may open files."""

import ctypes
import os
import weakref
from pathlib import Path

import numpy as np

from fastlt.data.shards.bus_error import forget, watch

_PROT_READ, _MAP_SHARED, _MADV_DONTNEED = 1, 1, 4  # Linux
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def map_file(path: Path, size: int) -> np.ndarray | int:
    """Maps a file into memory; returns its bytes as a read-only uint8 array [size].

    If the size of the file is not `size`, returns its actual size instead. Bytes are read when they are accessed. The
    array keeps its content if another file takes the same name. Raises OSError.
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
        os.close(descriptor)  # Python's mmap module is not used because it would keep a copy of the descriptor open
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    owner = (ctypes.c_uint8 * size).from_address(address)
    weakref.finalize(owner, _unmap, address, size).atexit = False  # DALI's threads may still read at exit
    watch(address, size, path)
    mapped = np.frombuffer(owner, np.uint8)  # pyright: ignore[reportArgumentType, reportCallIssue]
    mapped.flags.writeable = False
    return mapped


def _unmap(address: int, size: int) -> None:
    forget(address)
    _libc.munmap(address, size)


def forget_pages(mapped: np.ndarray) -> None:
    """Drops the cached pages of a mapping, so that its bytes are read from the file again when they are accessed."""
    _libc.madvise(mapped.ctypes.data, mapped.size, _MADV_DONTNEED)
