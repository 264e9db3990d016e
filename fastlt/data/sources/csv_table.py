"""Image files named by CSV tables with a header: path, label and, if one table holds all, split."""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.listed import (
    BadPath,
    FilesBelowRoot,
    check_first_files,
    check_root,
    is_plain,
    normalized,
    opened,
    repeated,
    shown,
)

_FORM = "expected a CSV file with the header `path,label` or `path,label,split`"


@dataclass(frozen=True)
class CsvTable(FilesBelowRoot):
    """Image files below `root`, listed in CSV tables (UTF-8 with or without its mark, plain or gzip).

    root: folder that the paths are relative to.
    table: the CSV file. Its columns are `path`, `label` and optionally `split`, in any order; others are passed over.
        With a `split` column every row names its split: train, val or test. Without one all rows are for training.
    val, test: CSV files of further splits; the table itself must not have rows of these. If they have a `split` column,
        it must name their split in every row.
    name: the data set's name; the root folder's unless given.

    A label is the name of a class. Classes are numbered in the order of their sorted names; if all names are whole
    numbers, in the order of the numbers. So the labels 0 to C-1 stay as they are, and gaps close: a name is no number.
    Samples keep the order of the table and a key is the path, normalized (`a/./b.jpg` is `a/b.jpg`). Blanks around a
    field and blank rows are passed over; a field that holds commas or quotes is quoted as usual. Paths must stay inside
    the root as they are spelled; symbolic links below it may lead anywhere.

    Raises UserError, naming table and line, for rows of another form, an unknown split, a path listed twice in one
    split and a class that only val or test has; and when none of a split's first files is there (a wrong root). Other
    missing files show at `load`.

    The keys travel whenever the source is pickled: hand it to a worker once, when it starts.
    """

    root: Path
    table: Path
    val: Path | None = None
    test: Path | None = None
    name: str = ""
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        root, table = Path(self.root), Path(self.table)
        check_root(root)
        found = {split: (table, rows) for split, rows in _read(table).items()}
        if "train" not in found:
            raise UserError(f"{table}: no row for training; every class needs training images, with `train` as split")
        for split, other in (("val", self.val), ("test", self.test)):
            if other is None:
                continue
            if split in found:
                raise UserError(f"{split}={other}: {table} has rows of this split already; leave out one of the two")
            found[split] = (Path(other), _read(Path(other), split)[split])
        class_names = _sorted_names(found["train"][1].names)
        splits = {split: _listing(split, *found[split], class_names, table) for split in SPLITS if split in found}
        for split, listing in splits.items():
            check_first_files(root, found[split][0], listing)
        for attribute, value in (
            ("root", root),
            ("table", table),
            ("val", None if self.val is None else Path(self.val)),
            ("test", None if self.test is None else Path(self.test)),
            ("name", self.name or root.resolve().name or "images"),
            ("class_names", class_names),
            ("splits", splits),
        ):
            object.__setattr__(self, attribute, value)


class _Columns(NamedTuple):
    """Places of the columns in a row."""

    path: int
    label: int
    split: int | None
    width: int


class _Rows:
    """Rows of one split: keys, and labels numbered in the order in which their names come."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.labels: list[int] = []
        self.names: dict[str, int] = {}


def _error(table: Path, line: int, row: list[str], problem: str) -> UserError:
    return UserError(f"{table} line {line}: {shown(','.join(row).strip())}: {problem}")


def _lines(table: Path) -> Iterator[str]:
    with opened(table, _FORM) as file:
        for line in file:
            yield line.decode()


def _filled(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line that it begins in."""
    reader = csv.reader(_lines(table), strict=True)
    line = 1
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip()):
                yield line, row
            line = reader.line_num + 1
    except UnicodeDecodeError:
        raise UserError(f"{table} line {reader.line_num + 1}: not UTF-8; save the table as UTF-8") from None
    except csv.Error as problem:
        raise UserError(
            f"{table} line {line}: this row is no CSV ({problem}); look for a quote that is not closed"
        ) from None


def _columns(table: Path, line: int, header: list[str]) -> _Columns:
    names = [name.strip() for name in header]
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        raise _error(table, line, header, f"the header lacks {' and '.join(missing)}; {_FORM}, separated by commas")
    for name in ("path", "label", "split"):
        if names.count(name) > 1:
            raise _error(table, line, header, f"the header names {name} twice; {_FORM}")
    split = names.index("split") if "split" in names else None
    return _Columns(names.index("path"), names.index("label"), split, len(names))


def _read(table: Path, only: str | None = None) -> dict[str, _Rows]:
    """Rows of every split that the table has. It may have millions: the common row takes the short way.

    only: the split that all rows belong to, whether they say so or not.
    """
    filled = _filled(table)
    first = next(filled, None)
    if first is None:
        raise UserError(f"{table}: this table is empty; {_FORM}")
    path, label, split, width = _columns(table, *first)
    allowed = SPLITS if only is None else (only,)
    found: dict[str, _Rows] = {}
    default = only or "train"
    for line, row in filled:
        if len(row) != width:
            counts = f"{len(row)} fields where the header has {width}"
            raise _error(table, line, row, f"{counts}; put a field that holds a comma in double quotes")
        own = default if split is None else row[split].strip()
        rows = found.get(own)
        if rows is None:
            if own not in allowed:
                raise _error(table, line, row, f"unknown split {shown(own)}; allowed: {', '.join(allowed)}")
            rows = found[own] = _Rows()
        name = row[label].strip()
        if name not in rows.names:
            _check_label(table, line, row, name)
            rows.names[name] = len(rows.names)
        rows.labels.append(rows.names[name])
        key = row[path].strip()
        rows.keys.append(key if key and is_plain(key) else _key(table, line, row, key))
    if not found:
        raise UserError(f"{table}: no row under the header; {_FORM}")
    for own, rows in found.items():
        if again := repeated(rows.keys):
            _refuse_again(table, own, split, again)
    return found


def _check_label(table: Path, line: int, row: list[str], name: str) -> None:
    if not name:
        raise _error(table, line, row, "no label; give the name of the class")
    if not name.isprintable():
        raise _error(table, line, row, f"the label {shown(name)} holds a line break or another control character")


def _key(table: Path, line: int, row: list[str], name: str) -> str:
    if not name:
        raise _error(table, line, row, "no path; give the path of an image, relative to the root")
    try:
        return normalized(name)
    except BadPath as problem:
        raise _error(table, line, row, str(problem)) from None


def _nth(table: Path, split: str, column: int | None, index: int) -> tuple[int, list[str]]:
    """Line and row of sample `index` of a split: read again, so that the good case stores no line numbers."""
    rows = itertools.islice(_filled(table), 1, None)
    own = (pair for pair in rows if column is None or pair[1][column].strip() == split)
    return next(itertools.islice(own, index, None))


def _refuse_again(table: Path, split: str, column: int | None, places: tuple[int, int]) -> NoReturn:
    (earlier, _), (line, row) = (_nth(table, split, column, place) for place in places)
    raise _error(table, line, row, f"already listed in line {earlier}; list every image once per split")


def _sorted_names(names: dict[str, int]) -> list[str]:
    # Only numbers in their usual spelling: 7 and 07 are two names.
    if all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _listing(split: str, table: Path, rows: _Rows, class_names: list[str], train: Path) -> Listing:
    number = {name: k for k, name in enumerate(class_names)}
    labels = np.array(rows.labels, np.int64)
    for name, own in rows.names.items():
        if name not in number:
            column = _columns(table, *next(_filled(table))).split
            line, row = _nth(table, split, column, int((labels == own).argmax()))
            allowed = f"allowed: the labels of the training rows of {train}"
            raise _error(table, line, row, f"class {shown(name)} has no training image; {allowed}")
    return Listing(rows.keys, np.array([number[name] for name in rows.names], np.int64)[labels])
