"""Guards a loader against use by several threads at once, and by forked processes."""

import os
import threading
from collections.abc import Iterator

from fastlt.core.batches import Batch
from fastlt.core.errors import UserError


class Guard:
    """A context manager that only one thread at a time may enter, in the process that made it.

    Entering raises UserError in a forked child process, and while another thread is inside; it never waits.
    """

    def __init__(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()

    @property
    def forked(self) -> bool:
        """Whether this process was forked after the guard was made."""
        return os.getpid() != self._process

    def __enter__(self) -> None:
        if self.forked:
            raise UserError(
                f"this loader was made in process {self._process}, and its threads did not come along in the fork: "
                "make a loader in the process that uses it"
            )
        if not self._lock.acquire(blocking=False):
            raise UserError(
                "two threads use this loader at the same time: let one of them take the batches, or make two loaders"
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class GuardedBatches(Iterator[Batch]):
    """An iterator over the batches of an epoch that makes each batch inside the loader's guard."""

    def __init__(self, guard: Guard, batches: Iterator[Batch]):
        self._guard, self._batches = guard, batches

    def __next__(self) -> Batch:
        with self._guard:
            return next(self._batches)
