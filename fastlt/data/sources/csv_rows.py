"""Reads the rows of CSV tables: finds the separator, the header and the columns of path, label, split and group."""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.sources.listed import opened, shown

FORM = "expected a CSV file with a header, such as `path,label` or `path,label,split`"
_SEPARATORS = (",", ";", "\t")
# Usual names of columns, compared in lower case with `_` in place of spaces and `-`. The first name has priority.
_PATH = ("path", "img", "image", "images", "file", "filename", "file_name", "filepath", "file_path", "image_path")
_PATH += ("image_name", "image_file", "image_filename", "img_path", "img_name", "imagepath", "imagename")
LABEL_NAMES = ("label", "labels", "class", "classname", "class_name", "class_id", "category", "category_name")
LABEL_NAMES += ("category_id", "target", "species", "y", "label_name")
_SPLIT = ("split", "subset", "partition")


@dataclass(frozen=True)
class Columns:
    """Names of the columns for path, label, split and group. Empty means the usual name; for the group, no column."""

    path: str = ""
    label: str = ""
    split: str = ""
    group: str = ""


class Places(NamedTuple):
    """The positions of the columns in a row, and the number of fields in a row (`width`)."""

    path: int
    label: int
    split: int | None
    group: int | None
    width: int


def row_error(table: Path, line: int, row: list[str], problem: str) -> UserError:
    """Returns the UserError for a problem with one row, naming table and line."""
    return UserError(f"{table} line {line}: {shown(','.join(row).strip())}: {problem}")


def filled_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the line it begins in, fields) of every row that is not blank, the header first.

    The separator is the one that gives the first line the most fields, or that named by a line such as `sep=;`.
    Raises UserError for a table that cannot be read, is not UTF-8 or is no CSV.
    """
    lines = _lines(table)
    ahead, separator, named = [], ",", False
    for text in lines:
        ahead.append(text)
        if text.strip():
            told = text.strip(" \r\n")  # Excel names the separator in a first line `sep=;`
            named = told.lower().startswith("sep=") and told[4:] in _SEPARATORS
            separator = told[4:] if named else max(_SEPARATORS, key=lambda one: _fields(text, one))
            break
    reader = csv.reader(itertools.chain(ahead, lines), delimiter=separator, strict=True)
    line = 1
    try:
        for row in reader:
            if not named and row and (len(row) > 1 or row[0].strip()):
                yield line, row
            named, line = named and not row, reader.line_num + 1
    except UnicodeDecodeError:
        raise UserError(f"{table} line {reader.line_num + 1}: not UTF-8; save the table as UTF-8") from None
    except csv.Error as problem:
        remedy = "look for a quote that is not closed"
        if "new-line" in str(problem):
            problem, remedy = "a carriage return in it", "save the table with lines that end in a line feed"
        raise UserError(f"{table} line {line}: this row is no CSV ({problem}); {remedy}") from None


def _lines(table: Path) -> Iterator[str]:
    with opened(table, FORM) as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError:
                raise UserError(f"{table} line {number}: not UTF-8; save the table as UTF-8") from None


def _fields(line: str, separator: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=separator), []))
    except csv.Error:
        return 0


def find_columns(table: Path, line: int, header: list[str], wanted: Columns, tell: bool = False) -> Places:
    """Finds the positions of the columns in a table's header.

    tell: whether to print which columns were taken, if they are not called path and label.

    Raises UserError for a column that is missing or occurs twice, and if several columns have usual names.
    """
    names = [name.strip() for name in header]

    def place(key: str, asked: str, usual: tuple[str, ...]) -> int | None:
        if asked:
            found = [k for k, name in enumerate(names) if name == asked]
            if not found:
                raise row_error(table, line, header, f"{key}={asked} is no column: there are {', '.join(names)}")
        else:
            plain = [name.lower().replace(" ", "_").replace("-", "_") for name in names]
            found = [k for k, name in enumerate(plain) if name == usual[0]]
            found = found or [k for k, name in enumerate(plain) if name in usual]
        if len(found) > 1:
            several = ", ".join(names[k] for k in found)
            if len({names[k] for k in found}) == 1:
                raise row_error(table, line, header, f"the header names {names[found[0]]} twice; {FORM}")
            raise row_error(table, line, header, f"more than one column may be meant, {several}: say {key}=NAME")
        return found[0] if found else None

    path = place("path_column", wanted.path, _PATH)
    label = place("label_column", wanted.label, LABEL_NAMES)
    split = place("split_column", wanted.split, _SPLIT)
    group = place("group_by", wanted.group, ()) if wanted.group else None
    if path is None or label is None:
        missing = [name for name, found in (("path", path), ("label", label)) if found is None]
        keys = " and ".join(f"{name}_column=NAME" for name in missing)
        raise row_error(table, line, header, f"the header lacks {' and '.join(missing)}: say {keys}; {FORM}")
    if path == label:
        raise row_error(table, line, header, f"path and label are the same column, {names[path]}")
    if tell and (names[path], names[label]) != ("path", "label"):
        more = "" if split is None else f", splits from {names[split]!r}"
        say(f"{table}: paths from column {names[path]!r}, labels from {names[label]!r}{more}")
    return Places(path, label, split, group, len(names))


def has_column(table: Path, name: str) -> bool:
    """Returns whether the header of a table has a column of this name."""
    _, header = next(filled_rows(table), (0, []))
    return name in (field.strip() for field in header)
