"""Predictions as text: an aligned table, CSV or JSON lines."""

import contextlib
import csv
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from fastlt.core.errors import UserError
from fastlt.predict.paths import printed

DIGITS = 4  # of a confidence
NAME = 24  # characters of a class name in the table


@dataclass(frozen=True)
class Row:
    """What is said of one image: (class name, confidence in 0..1) of the most probable classes, best first, or why
    there are none."""

    path: str
    best: Sequence[tuple[str, float]] = ()
    error: str | None = None


class Layout(Protocol):
    """How rows are written. head: what stands above them."""

    head: str

    def line(self, row: Row) -> str: ...


class Table:
    """Columns for reading, aligned; long class names are cut, and control characters written as escapes."""

    def __init__(self, top: int, class_names: Sequence[str], longest: int, title: str):
        """longest: characters of the longest path. title: the first line."""
        self._width = max(len("class"), *(len(_cut(name)) for name in class_names))
        self._path = max(len("image"), longest)
        columns = "  ".join(f"{f'class {rank}':{self._width + len(' 0.') + DIGITS}}" for rank in range(1, top + 1))
        self.head = f"{title}\n" + f"{'image':{self._path}}  {columns}".rstrip() + "\n"

    def line(self, row: Row) -> str:
        if row.error is None:
            told = "  ".join(f"{_cut(name):{self._width}} {value:.{DIGITS}f}" for name, value in row.best)
        else:
            told = f"error: {printed(row.error)}"
        return f"{printed(row.path):{self._path}}  {told}\n"


class Csv:
    """path, class_1, confidence_1, ..., class_k, confidence_k, error."""

    def __init__(self, top: int):
        self._top = top
        columns = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "confidence")]
        self.head = _comma_separated(["path", *columns, "error"])

    def line(self, row: Row) -> str:
        best = [cell for name, value in row.best for cell in (name, f"{value:.{DIGITS}f}")]
        return _comma_separated([row.path, *best, *[""] * (2 * self._top - len(best)), row.error or ""])


class JsonLines:
    """{"path", "predictions": [{"class", "confidence"}], "error"} a line; letters beyond ASCII are escapes."""

    head = ""

    def line(self, row: Row) -> str:
        predictions = [{"class": name, "confidence": round(value, DIGITS)} for name, value in row.best]
        return json.dumps({"path": row.path, "predictions": predictions, "error": row.error}) + "\n"


LAYOUTS = ("table", "csv", "jsonl")


def layout(name: str, top: int, class_names: Sequence[str], longest: int, title: str) -> Layout:
    """One of LAYOUTS, for `top` classes an image; the rest is for the table."""
    if name == "csv":
        return Csv(top)
    return JsonLines() if name == "jsonl" else Table(top, class_names, longest, title)


def _cut(name: str) -> str:
    name = printed(name)
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _comma_separated(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


# --- where it goes ---

ENCODING, ERRORS = "utf-8", "surrogateescape"  # names that are not UTF-8 leave as the bytes they came in


def check_place(out: Path) -> None:
    """Raises UserError if `out` may not be written: before the work, not behind it."""
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: give the name of a file in it")
    if out.exists():
        raise UserError(f"--out={out} exists: choose another name, or move it away")


@contextlib.contextmanager
def writer(out: Path | None) -> Iterator[Callable[[str], object]]:
    """Writes text to stdout, at once, or to a file, which is there under its name when it is complete.

    Raises UserError if the file cannot be written. Ends the process quietly when nobody reads stdout any more.
    """
    if out is None:
        sys.stdout.reconfigure(encoding=ENCODING, errors=ERRORS)  # type: ignore[union-attr]
        try:
            yield _print
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is written at exit
            sys.exit(128 + signal.SIGPIPE)
        return
    temporary = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding=ENCODING, errors=ERRORS, newline="") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error.strerror}): choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # renamed by now, unless it was cut off


def _print(text: str) -> None:
    tqdm.write(text, end="")  # a bar on the same terminal makes room
    sys.stdout.flush()
