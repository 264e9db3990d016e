"""Writes CSV files that are safe to open in a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastlt.core.files import write_file

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a text that begins with one of these for a formula


def csv_row(cells: Sequence[object], end: str = "\r\n") -> str:
    """Returns a line of comma-separated values, quoted as in RFC 4180.

    A text that a spreadsheet would run as a formula gets an apostrophe before it; numbers stay as they are.

    >>> csv_row(["=1+1", -2, "a, b"], end="")
    '\\'=1+1,-2,"a, b"'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerow(map(_plain, cells))
    return text.getvalue()


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes rows of cells to a CSV file in UTF-8. Raises NotWritten."""
    write_file(path, "".join(map(csv_row, rows)))


def _plain(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) and not _is_number(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
