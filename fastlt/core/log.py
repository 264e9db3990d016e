"""Messages on stderr, progress of long work, and failures that are reported at the end of a command.

Progress is a bar on a terminal and a plain line now and then in a log file.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from fastlt.core.errors import DEBUG, first_line

LINE_EVERY = 10.0  # seconds between two lines of progress in a log
FIRST_LINE = 3.0  # seconds before the first of them, as it tells how long the work will take
TELL_EVERY = 1.0  # seconds between two updates of the file of `tell_progress`

tqdm.monitor_interval = 0  # no watcher thread, because worker processes are started while a bar is shown


_silent = False
_regrets: list[str] = []
_told: Path | None = None  # the file of `tell_progress`


def tell_progress(path: Path | None) -> None:
    """Makes every Progress write its state to a JSON file once a second, for another process to read.

    The file holds `label`, `done`, `total`, `unit`, `rate` and `note`. path: the file; None ends this.
    """
    global _told
    _told = path


def silence() -> None:
    """Suppresses all further messages and progress of this process, as on ranks other than 0."""
    global _silent
    _silent = True


def say(text: str, always: bool = False) -> None:
    """Prints a line on stderr, without disturbing a progress bar. stdout is for results.

    always: also where `silence` was called, for something that only this rank knows.
    """
    if always or not _silent:
        tqdm.write(printed(text), file=sys.stderr)


def printed(text: str) -> str:
    r"""Returns text with line breaks, terminal control codes and other unprintable characters escaped.

    >>> print(printed("a\nb"))
    a\nb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def regret(text: str) -> None:
    """Notes the failure of something that does not stop the work, such as a figure that could not be drawn.

    text: one line. The command prints it at its end, as "failed: TEXT", and exits with code 1.
    """
    _regrets.append(text)


@contextlib.contextmanager
def regretted(what: str) -> Iterator[None]:
    """Context manager that passes an exception inside to `regret` instead of raising it.

    what: what failed then, such as "report". With FASTLT_DEBUG=1 the exception is raised.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            raise
        regret(f"{what}: {first_line(error)}")


def regrets() -> list[str]:
    """Returns the failures that `regret` has noted since the last call, and forgets them."""
    told = _regrets.copy()
    _regrets.clear()
    return told


def duration(seconds: float) -> str:
    """Returns a number of seconds as a short text.

    >>> [duration(seconds) for seconds in (8, 125, 11220)]
    ['8s', '2m05s', '3h07m']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole // 60 % 60:02d}m"


def speed(rate: float, unit: str) -> str:
    """Returns units per second as a text, or seconds per unit where that says more.

    >>> [speed(rate, "images") for rate in (417.3, 2.5, 0.04)]
    ['417 images/s', '2.5 images/s', '25s each']
    """
    if 0 < rate < 0.5:
        return f"{duration(1 / rate)} each"
    return f"{rate:.1f} {unit}/s" if 0 < rate < 9.95 else f"{rate:.0f} {unit}/s"


class Progress:
    """Shows the progress of work: a bar with rate and time left on a terminal, a line every ten seconds elsewhere.

    label: what is being done. total: how many units there are to do. unit: what is counted, in the plural.
    done: units that are done already. stream: default: stderr.

    Example:

        with Progress("converting", len(paths)) as progress:
            for path in paths:
                convert(path)
                progress.advance()
    """

    def __init__(self, label: str, total: int, unit: str = "images", done: int = 0, stream: TextIO | None = None):
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.note = ""
        self._stream = stream or sys.stderr
        self._start = time.monotonic()
        self._line = self._start + FIRST_LINE - LINE_EVERY
        self._file = -TELL_EVERY
        self._first = done
        self._shown: int | None = None
        self._bar = None
        if self._stream.isatty() and not _silent:
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=label,
                unit=f" {unit}",
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif error is None and self._shown not in (None, self.done) and self.done >= self.total:
            self._say()  # work that was shown is shown to its end

    @property
    def seconds(self) -> float:
        """Returns the seconds since the start, always greater than 0."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def rate(self) -> float:
        """Returns the units per second since the start."""
        return (self.done - self._first) / self.seconds

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more units as done. note: text shown after the rate, until another one is given."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._line >= LINE_EVERY:
            self._line = time.monotonic()
            self._say()
        if _told is not None and time.monotonic() - self._file >= TELL_EVERY:
            self._file = time.monotonic()
            self._tell(_told)

    def _say(self) -> None:
        self._shown = self.done
        left = duration(max(self.total - self.done, 0) / max(self.rate, 1e-9))
        note = f", {self.note}" if self.note else ""
        say(f"{self.label}: {self.done}/{self.total} {self.unit}, {speed(self.rate, self.unit)}, {left} left{note}")

    def _tell(self, path: Path) -> None:
        state = {name: getattr(self, name) for name in ("label", "done", "total", "unit", "rate", "note")}
        with contextlib.suppress(OSError):  # the work must not fail because its progress cannot be written
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text(json.dumps(state))
            temporary.replace(path)
