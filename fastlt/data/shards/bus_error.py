"""Explains why a process ends if a memory-mapped shard is truncated or its disk fails.

The system then sends SIGBUS. The handler of this module prints which file it was before the process ends.
"""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_SA_SIGINFO = 4
_ADDRESS = 16  # offset of the fault's address in siginfo_t


class _SigAction(ctypes.Structure):
    """`struct sigaction` of glibc."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_ending = threading.Lock()  # held by the thread that ends the process; several may meet missing pages at once
_mapped: dict[int, tuple[int, Path]] = {}  # {first address: (bytes, file)}


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def _explain(_: int, about: int, __: int) -> None:
    """Signal handler that prints a line and ends the process with exit code 2.

    A missing page is met while a thread copies bytes from the mapping. No lock that Python needs is held then, so that
    Python code can run here.
    """
    at = ctypes.c_uint64.from_address(about + _ADDRESS).value
    for address, (size, path) in list(_mapped.items()):
        if address <= at < address + -(-size // 4096) * 4096:
            if not _ending.acquire(blocking=False):
                time.sleep(60)  # the process ends before
            line = f"error: {path} was cut short, or its disk failed, while it was read: put it back or convert the "
            os.write(2, f"\n{line}dataset again; a training then goes on with the same command\n".encode())
            os._exit(2)
    _act(None)  # another mapping: without this handler the repeated read ends the process as usual


def _act(handler: int | None) -> None:
    action = _SigAction(handler=handler, flags=_SA_SIGINFO if handler else 0)
    _libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None)


def watch(address: int, size: int, path: Path) -> None:
    """Registers a mapping, so that a failed read of it names its file."""
    if not _mapped:
        _act(ctypes.cast(_explain, ctypes.c_void_p).value)
    _mapped[address] = size, path


def forget(address: int) -> None:
    """Removes a mapping that has been unmapped."""
    _mapped.pop(address, None)
