"""Lock files, which let one process at a time work on a folder. A lock ends with its process, however that ends."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor

from fastlt.core.errors import UserError
from fastlt.core.files import writing

PATIENCE = 2.0  # seconds to wait for a lock; enough for processes that hold it briefly to test whether it is free


class Busy(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, what: str, patience: float = PATIENCE) -> Iterator[None]:
    """Context manager that holds the lock file `path` for this process; child processes do not inherit the lock.

    Missing folders are made. Afterwards the file is removed, and its folder too if it is empty.

    what: what is locked, for the error message, such as "run=runs/mine".
    patience: seconds to wait for the lock.

    Raises Busy, naming the process that holds the lock, and NotWritten if the file cannot be written.
    """
    lock, holder = FileLock(path, poll_interval=0.05), "another process"
    with writing(path):
        while not lock.is_locked:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=patience)
            except Timeout:
                with contextlib.suppress(OSError):
                    holder = path.read_text() or holder
                raise Busy(f"{what} is in use by {holder}: wait for it") from None
            except FileNotFoundError:  # the previous holder has just removed the folder
                continue
    try:
        with writing(path):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that a waiting process makes a new file
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        lock.release()


def is_locked(path: Path) -> bool:
    """Returns whether some process holds the lock file `path`."""
    try:
        with path.open() as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return False
