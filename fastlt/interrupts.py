"""SIGINT and SIGTERM while work is under way that can be saved first."""

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Work was saved and ended because a signal asked for it. text: what was saved where; signal: its number."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.signal = number


class Interrupts:
    """While entered, a first SIGINT or SIGTERM only sets `signal`; the next one has its usual effect at once."""

    signal: int | None = None

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def check(self, text: str) -> None:
        """Raises Stopped if a signal came."""
        if self.signal is not None:
            self.stop(text)

    def stop(self, text: str) -> None:
        """Raises Stopped; SIGTERM stands for another rank's signal if none came here."""
        raise Stopped(text, self.signal or signal.SIGTERM)
