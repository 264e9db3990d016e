"""One process at a time: a lock on a file, which ends with the process that holds it, however it ends."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from fastlt.core.errors import UserError

PATIENCE = 2.0  # seconds, for those who hold a lock only to see whether it is free


class Busy(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, what: str, patience: float = PATIENCE) -> Iterator[None]:
    """Holds the lock file `path` in this process alone: its children do not hold it. It is gone afterwards.

    what: for the message. patience: seconds to wait for it. Raises Busy, which tells who holds it.
    """
    end = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            if _taken(file.fileno()) and _is_still(path, file.fileno()):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}")
                file.flush()
                try:
                    yield
                finally:
                    _tidy(path)
                return
            if time.monotonic() >= end:
                file.seek(0)
                raise Busy(f"{what} is in use by {file.read() or 'another process'}: wait for it")
        time.sleep(0.05)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file. Never to be asked by a process that holds it itself."""
    try:
        with path.open("r+") as file:
            return not _taken(file.fileno())
    except FileNotFoundError:
        return False


def _taken(descriptor: int) -> bool:
    try:
        # POSIX locks: they work on network file systems, too.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file that was locked is the one that others find there."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _tidy(path: Path) -> None:
    """Leaves no lock file behind, nor a folder in which nothing else came to be."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()
