"""SIGINT and SIGTERM while work is under way that can be saved first."""

import signal
from types import FrameType
from typing import Any, ClassVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Work was saved and ended because a signal asked for it. text: what was saved where; signal: its number."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.signal = number


class Interrupts:
    """While entered, a first SIGINT or SIGTERM only sets `signal`; the next one has its usual effect at once.

    Where nobody stopped for the first one, it has its usual effect at the end.
    """

    signal: int | None = None
    under_way: ClassVar["Interrupts | None"] = None  # the one that is entered

    def __enter__(self) -> "Interrupts":
        self._outer, Interrupts.under_way = Interrupts.under_way, self
        self._before = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def note(self, number: int, _: FrameType | None = None) -> None:
        """What the first signal does."""
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        Interrupts.under_way = self._outer
        self._restore()
        if self.signal is not None and kind is None:
            signal.raise_signal(self.signal)

    def check(self, text: str) -> None:
        """Raises Stopped if a signal came."""
        if self.signal is not None:
            self.stop(text)

    def stop(self, text: str) -> None:
        """Raises Stopped; SIGTERM stands for another rank's signal if none came here."""
        raise Stopped(text, self.signal or signal.SIGTERM)
