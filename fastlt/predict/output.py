"""Writes predictions as an aligned table, as CSV or as JSON lines."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tqdm import tqdm

from fastlt.core.log import printed
from fastlt.core.spreadsheet import csv_row
from fastlt.core.typed import json_line

DIGITS = 4  # decimals of a confidence
GROUP = len("medium")  # characters of the longest name of a group
SHOWN = 10  # classes of a prediction set that the table lists
PATH, NUMBER = "path", "row"  # what names the rows of an output, and the name of that column
NAME = 24  # characters of a class name in the table; longer names are cut


class Prediction(NamedTuple):
    """A predicted class: its name, confidence in 0..1, and group (`many`, `medium` or `few` by its training images)."""

    name: str
    confidence: float
    group: str


@dataclass(frozen=True)
class Row:
    """What is told of an image, or of a row of a file of features.

    name: the path of the image, or the name of the row. best: the most probable classes, best first. error: why there
    is no prediction; None if there is one. members: the names of the classes in its prediction set; None if no sets
    were asked for.
    """

    name: str
    best: Sequence[Prediction] = ()
    error: str | None = None
    members: Sequence[str] | None = None


class Layout(Protocol):
    """An output format. head: the text before the first row."""

    head: str

    def line(self, row: Row) -> str:
        """Returns a row as text, with a line break at its end."""
        ...


class Table:
    """An aligned table. Long class names are cut, and control characters are escaped."""

    def __init__(self, top: int, class_names: Sequence[str], longest: int, sets: bool = False, named: str = PATH):
        """top: classes per image. longest: the number of characters of the longest name of a row.

        sets: whether the rows have prediction sets. named: what names the rows, PATH or NUMBER.
        """
        self._width = max(len("class"), *(len(_cut(name)) for name in class_names))
        first = "image" if named == PATH else named
        self._first = max(len(first), longest)
        columns = [f"{f'class {rank}':{self._width + len(' 0.') + DIGITS + 1 + GROUP}}" for rank in range(1, top + 1)]
        columns = "  ".join([*columns, "set"] if sets else columns)
        self.head = f"{first:{self._first}}  {columns}".rstrip() + "\n"

    def line(self, row: Row) -> str:
        if row.error is None:
            cells = [
                f"{_cut(one.name):{self._width}} {one.confidence:.{DIGITS}f} {one.group:{GROUP}}" for one in row.best
            ]
            if row.members is not None:
                more = len(row.members) - SHOWN
                listed = ", ".join(_cut(name) for name in row.members[:SHOWN]) + (f", {more} more" if more > 0 else "")
                cells.append(f"{len(row.members)}: {listed}")
            told = "  ".join(cells).rstrip()
        else:
            told = f"error: {printed(row.error)}"
        return f"{printed(row.name):{self._first}}  {told}\n"


class Csv:
    """CSV with the columns path, class_1, confidence_1, group_1, ..., class_k, confidence_k, group_k, set, error.

    `set` is there if prediction sets were asked for, and holds the names of a set as a JSON list. Rows that are named
    by their numbers have the column `row` instead of `path`.
    """

    def __init__(self, top: int, sets: bool = False, named: str = PATH):
        self._top, self._sets = top, sets
        columns = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "confidence", "group")]
        self.head = csv_row([named, *columns, *(["set"] if sets else []), "error"], "\n")

    def line(self, row: Row) -> str:
        best = [cell for one in row.best for cell in (one.name, f"{one.confidence:.{DIGITS}f}", one.group)]
        best += [""] * (3 * self._top - len(best))
        members = "" if row.members is None else json.dumps(list(row.members), ensure_ascii=False)
        return csv_row([row.name, *best, *([members] if self._sets else []), row.error or ""], "\n")


class JsonLines:
    """A JSON object {"path", "predictions": [{"class", "confidence", "group"}], "error"} per line, in UTF-8.

    Where prediction sets were asked for, "set" is the list of the classes in it. Rows that are named by their numbers
    have these as "row" instead of "path".
    """

    head = ""

    def __init__(self, named: str = PATH):
        self._named = named

    def line(self, row: Row) -> str:
        predictions = [
            {"class": one.name, "confidence": round(one.confidence, DIGITS), "group": one.group} for one in row.best
        ]
        members = {} if row.members is None else {"set": list(row.members)}
        name = row.name if self._named == PATH else int(row.name)
        return json_line({self._named: name, "predictions": predictions, **members, "error": row.error})


LAYOUTS = ("table", "csv", "jsonl")


def layout(name: str, top: int, class_names: Sequence[str], longest: int, sets: bool, named: str) -> Layout:
    """Returns an output format.

    name: one of LAYOUTS. top: classes per image. class_names, longest, sets, named: see `Table`.
    """
    if name == "csv":
        return Csv(top, sets, named)
    return JsonLines(named) if name == "jsonl" else Table(top, class_names, longest, sets, named)


def _cut(name: str) -> str:
    name = printed(name)
    # In the middle, because names often differ at their ends only.
    return name if len(name) <= NAME else f"{name[: NAME // 2]}…{name[-(NAME - NAME // 2 - 1) :]}"


# --- stdout ---

ENCODING, ERRORS = "utf-8", "surrogateescape"  # file names that are not UTF-8 are written as their original bytes


@contextlib.contextmanager
def on_stdout() -> Iterator[Callable[[str], object]]:
    """Gives a function that writes text to stdout immediately (context manager).

    The process ends without an error message if the reader of stdout has closed it.
    """
    sys.stdout.reconfigure(encoding=ENCODING, errors=ERRORS)  # type: ignore[union-attr]
    try:
        yield _print
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes its buffer at exit
        sys.exit(128 + signal.SIGPIPE)


def _print(text: str) -> None:
    tqdm.write(text, end="")  # moves a progress bar on the same terminal out of the way
    sys.stdout.flush()
