"""A source of image files that CSV tables list: path, label and, if one table lists all splits, split."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.text import is_one_line
from fastlt.core.words import counted
from fastlt.data.sources.base import SPLITS, Listing, split_named
from fastlt.data.sources.classes import sorted_names, spelled, without_training
from fastlt.data.sources.csv_rows import FORM, Columns, filled_rows, find_columns, row_error
from fastlt.data.sources.listed import (
    BadPath,
    FilesBelowRoot,
    check_first_files,
    check_root,
    is_plain,
    normalized,
    repeated,
    shown,
)

_USUAL = Columns()


@dataclass(frozen=True)
class CsvTable(FilesBelowRoot):
    """Image files below `root` that are listed in CSV tables (UTF-8 with or without a byte order mark, plain or gzip).

    root: the folder that the paths are relative to.
    table: the CSV file with a header, its fields separated by commas, semicolons or tabs. It has columns for path,
        label and optionally split, in any order; other columns are ignored. With a split column every row names its
        split by a usual name (SPLIT_NAMES: train, valid, dev, ...). Without it all rows are for training.
    val, test: CSV files of further splits, of which `table` must have no rows. If they have a split column, it must
        name their split in every row.
    name: the name of the dataset; by default that of the root folder.
    columns: the names of the columns, if they are not usual ones, and the column of groups (see `Listing`).

    A label is the name of a class. Class indices follow the sorted names. If all names are numbers, they are sorted by
    value, and 1.0 is the same as 1. The labels 0 to C-1 therefore keep their indices; numbers with gaps are renumbered.

    Samples keep the order of the table. A key is the normalized path: `a/./b.jpg` becomes `a/b.jpg`, and so does
    `a\\b.jpg` unless a file has this name. Spaces around a field and blank rows are ignored; a field that contains
    separators or quotes is quoted as usual in CSV. Paths must not leave the root as they are spelled; symbolic links
    below it may lead anywhere.

    Raises UserError, naming table and line, for rows of another form, an unknown split, a path listed twice in one
    split, and a class that only val or test has; and if none of a split's first files exists (the root is wrong). Other
    missing files raise OSError in `load`.

    The keys are pickled with the source: pass it to a worker once, when it starts.

    Example: CsvTable(Path("photos"), Path("photos/labels.csv"), columns=Columns(label="species"))
    """

    root: Path
    table: Path
    val: Path | None = None
    test: Path | None = None
    name: str = ""
    columns: Columns = _USUAL
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        root, table = Path(self.root), Path(self.table)
        check_root(root)
        found = {split: (table, rows) for split, rows in self._read(table).items()}
        if "train" not in found:
            raise UserError(f"{table}: no row for training; every class needs training images, with `train` as split")
        for split, other in (("val", self.val), ("test", self.test)):
            if other is None:
                continue
            if split in found:
                raise UserError(f"{split}={other}: {table} has rows of this split already; leave out one of the two")
            found[split] = (Path(other), self._read(Path(other), split)[split])
        try:
            names = spelled({name for _, rows in found.values() for name in rows.names})
        except UserError as problem:
            raise UserError(f"{table}: {problem}") from None
        class_names = sorted_names(names[name] for name in found["train"][1].names)
        splits = {split: self._listing(split, *found[split], names, class_names) for split in SPLITS if split in found}
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

    def _read(self, table: Path, only: str | None = None) -> "dict[str, _Rows]":
        """Reads the rows of every split of a table; returns {split: rows}.

        only: the split that all rows belong to. A table may have millions of rows, so those of the usual form are
        handled with few checks.
        """
        filled = filled_rows(table)
        first = next(filled, None)
        if first is None:
            raise UserError(f"{table}: this table is empty; {FORM}")
        path, label, split, group, width = find_columns(table, *first, self.columns, tell=True)
        allowed = SPLITS if only is None else (only,)
        found: dict[str, _Rows] = {}
        default = only or "train"
        for line, row in filled:
            if len(row) != width:
                counts = f"{counted(len(row), 'field')} where the header has {width}"
                raise row_error(table, line, row, f"{counts}; put a field that holds a separator in double quotes")
            own = default if split is None else row[split].strip()
            rows = found.get(own)
            if rows is None:
                named = split_named(own) or ""
                if named not in allowed:
                    raise row_error(table, line, row, f"unknown split {shown(own)}; allowed: {', '.join(allowed)}")
                rows = found[own] = found.setdefault(named, _Rows())
            name = row[label].strip()
            if name not in rows.names:
                _check_label(table, line, row, name)
                rows.names[name] = len(rows.names)
            rows.labels.append(rows.names[name])
            key = row[path].strip()
            rows.keys.append(key if key and is_plain(key) else self._key(table, line, row, key))
            if group is not None:
                rows.groups.append(row[group].strip())
        if not found:
            raise UserError(f"{table}: no row under the header; {FORM}")
        found = {own: found[own] for own in SPLITS if own in found}
        for own, rows in found.items():
            if again := repeated(rows.keys):
                self._refuse_again(table, own, again)
        return found

    def _key(self, table: Path, line: int, row: list[str], name: str) -> str:
        if not name:
            raise row_error(table, line, row, "no path; give the path of an image, relative to the root")
        try:
            return normalized(name, self.root)
        except BadPath as problem:
            raise row_error(table, line, row, str(problem)) from None

    def _nth(self, table: Path, split: str, index: int) -> tuple[int, list[str]]:
        """Returns (line number, row) of sample `index` of a split. Reads the table again for an error message, so that
        line numbers need not be kept for tables without errors."""
        filled = filled_rows(table)
        column = find_columns(table, *next(filled), self.columns).split
        own = (pair for pair in filled if column is None or split_named(pair[1][column].strip()) == split)
        return next(itertools.islice(own, index, None))

    def _refuse_again(self, table: Path, split: str, places: tuple[int, int]) -> NoReturn:
        (earlier, _), (line, row) = (self._nth(table, split, place) for place in places)
        raise row_error(table, line, row, f"already listed in line {earlier}; list every image once per split")

    def _listing(
        self, split: str, table: Path, rows: "_Rows", names: dict[str, str], class_names: list[str]
    ) -> Listing:
        number = {name: k for k, name in enumerate(class_names)}
        labels = np.array(rows.labels, np.int64)
        if lost := [name for name in rows.names if names[name] not in number]:
            line, row = self._nth(table, split, int((labels == rows.names[lost[0]]).argmax()))
            allowed = f"allowed: the labels of the training rows of {self.table}"
            raise row_error(table, line, row, f"{without_training(lost)}; {allowed}")
        own_numbers = np.array([number[names[name]] for name in rows.names], np.int64)
        return Listing(rows.keys, own_numbers[labels], rows.groups or None)


class _Rows:
    """The rows of one split: keys, groups, and labels numbered in the order in which their names occur."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.labels: list[int] = []
        self.names: dict[str, int] = {}
        self.groups: list[str] = []


def _check_label(table: Path, line: int, row: list[str], name: str) -> None:
    if not name:
        raise row_error(table, line, row, "no label; give the name of the class")
    if not is_one_line(name):
        raise row_error(table, line, row, f"the label {shown(name)} holds a line break or another control character")
