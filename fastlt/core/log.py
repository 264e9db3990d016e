"""What long work shows: a progress bar on a terminal, plain lines in a log; and metrics as JSON lines."""

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from fastlt.core.errors import UserError

LINE_EVERY = 10.0  # seconds between two lines of progress in a log
TELL_EVERY = 1.0  # seconds between two states of the file of `tell_progress`

tqdm.monitor_interval = 0  # no watcher thread: worker processes are started beside a bar


_silent = False
_told: Path | None = None  # where Progress tells another process how far this one is


def tell_progress(path: Path | None) -> None:
    """From now on every Progress also keeps the JSON file `path` up to date, once a second: label, done, total, unit,
    rate, note. None: no longer."""
    global _told
    _told = path


def silence() -> None:
    """From now on this process shows nothing: another one speaks for it."""
    global _silent
    _silent = True


def say(text: str) -> None:
    """One line of news on stderr; stdout is for results."""
    if not _silent:
        tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as people say them: 8s, 2m05s, 3h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole // 60 % 60:02d}m"


class Progress:
    """Counts work done: a bar with rate and time left on a terminal, a line every ten seconds elsewhere.

    label: what is being done. total: how much, in `unit`s. Use as a context manager; `advance` after every step.
    """

    def __init__(self, label: str, total: int, unit: str = "images", done: int = 0, stream: TextIO | None = None):
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.note = ""
        self._stream = stream or sys.stderr
        self._start = self._line = time.monotonic()
        self._file = -TELL_EVERY
        self._first = done
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

    @property
    def seconds(self) -> float:
        """Since the start, never quite 0."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self._first) / self.seconds

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` is shown behind the rate."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._line >= LINE_EVERY:
            self._line = time.monotonic()
            left = duration((self.total - self.done) / max(self.rate, 1e-9))
            note = f", {self.note}" if self.note else ""
            say(f"{self.label}: {self.done}/{self.total} {self.unit}, {self.rate:.0f} {self.unit}/s, {left} left{note}")
        if _told is not None and time.monotonic() - self._file >= TELL_EVERY:
            self._file = time.monotonic()
            self._tell(_told)

    def _tell(self, path: Path) -> None:
        state = {name: getattr(self, name) for name in ("label", "done", "total", "unit", "rate", "note")}
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(path)


class MetricsFile:
    """Metrics as JSON lines, flushed line by line, so that what was measured survives whatever comes next."""

    def __init__(self, path: Path, keep_epochs: int | None = None, tensorboard: bool = False):
        """keep_epochs: on resuming, lines of later epochs are dropped: they will be measured again. tensorboard: the
        same values in event files beside it, by epoch. Raises UserError where that package is missing."""
        self._board = _board(path.with_name("tensorboard"), keep_epochs) if tensorboard else None
        kept = []
        if keep_epochs is not None and path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["epoch"] <= keep_epochs]
        self._file = path.open("w")
        for line in kept:
            self._file.write(line + "\n")
        self._file.flush()

    def write(self, **values: Any) -> None:
        """One line."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, values["epoch"])
            self._board.flush()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, keep_epochs: int | None) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise UserError("tensorboard=true needs the package tensorboard: pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=None if keep_epochs is None else keep_epochs + 1)
