"""Handles signals that ask a process to end: the first lets it save its work and clean up, the second ends it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import Any, ClassVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, and a terminal that is closed
# Seconds in which a repeated signal counts as the same request under torchrun: what ends all processes of a job signals
# each rank, and torchrun passes on the signal that it gets itself.
REPEATED = 10.0


@contextlib.contextmanager
def impatience() -> Iterator[None]:
    """Context manager under which a second Ctrl-C ends the process at once, with exit code 130.

    The first Ctrl-C raises KeyboardInterrupt, as always. Without this, a second one would raise it again in the middle
    of the clean-up and show a traceback. It has no effect outside the main thread, or if SIGINT is ignored or has
    another handler than Python's own.
    """
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, again)
        usual(number, frame)

    def again(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # stderr's reader may have ended by the same Ctrl-C
            os.write(2, b"interrupted\n")
        os._exit(128 + number)

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:  # it is `again` if Ctrl-C was pressed: the process is about to end
            signal.signal(signal.SIGINT, usual)


class Stopped(Exception):
    """Raised when work was saved and ended because of a signal.

    text: says what was saved where. number: the number of the signal.
    """

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.signal = number


class Interrupts:
    """Context manager under which the first of SIGNALS only sets `signal`, so that work can be saved first.

    The next signal has its usual effect at once; under torchrun only after REPEATED seconds. Only SIGHUP has none then,
    as the shell and the system both send it when a terminal is closed; under nohup it never has one. If the code inside
    ends normally without having called `check` or `stop`, the first signal has its usual effect at the end. Outside the
    main thread it does nothing.

    Example:

        with Interrupts() as interrupts:
            for step in steps:
                train(step)
                interrupts.check("saved in checkpoint.pt")  # raises Stopped after a signal
    """

    signal: int | None = None
    under_way: ClassVar["Interrupts | None"] = None  # the innermost instance whose `with` block is running

    def __enter__(self) -> "Interrupts":
        self._outer, Interrupts.under_way = Interrupts.under_way, self
        # Python gives signals to the main thread alone; work in another one is stopped by whoever started it.
        main = threading.current_thread() is threading.main_thread()
        ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
        self._before = {one: signal.signal(one, self.note) for one in SIGNALS if main and one not in ignored}
        return self

    def note(self, number: int, _: FrameType | None = None) -> None:
        """Handles the first signal: stores its number, so that the next one has its usual effect."""
        self.signal = number
        if "TORCHELASTIC_RUN_ID" in os.environ:
            again = partial(self._note_again, time.monotonic())
            for one in self._before:
                signal.signal(one, again)
        else:
            self._restore()
        if signal.SIGHUP in self._before:
            signal.signal(signal.SIGHUP, lambda *_: None)

    def _note_again(self, first: float, number: int, _: FrameType | None = None) -> None:
        if time.monotonic() - first > REPEATED:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        Interrupts.under_way = self._outer
        self._restore()
        if self.signal is not None and kind is None:
            signal.raise_signal(self.signal)

    def check(self, text: str) -> None:
        """Raises Stopped with this text if a signal has come."""
        if self.signal is not None:
            self.stop(text)

    def stop(self, text: str) -> None:
        """Raises Stopped with this text, and with SIGTERM as the signal if only another rank was given one."""
        raise Stopped(text, self.signal or signal.SIGTERM)
