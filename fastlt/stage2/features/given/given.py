"""Opens and checks features of another network, and writes them into a feature store."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.files import replacing
from fastlt.core.log import Progress
from fastlt.core.words import counted
from fastlt.longtail.whole_groups import group_numbers
from fastlt.stage2.features.given.columns import Column, columns_of, pieces
from fastlt.stage2.features.given.labels import SPLITS, class_numbers, distinct, plain, split_numbers
from fastlt.stage2.features.layout import COLUMNS, Stored, create, note_complete, read_page
from fastlt.stage2.features.store import FeatureStore

_LABELS = tuple(f"y_{split}" for split in SPLITS)


@dataclass(frozen=True)
class Survey:
    """What is computed in one pass over all features.

    digest: SHA-256 of features, labels, splits, groups and class names; it does not depend on the format of the file.
    rms: root mean square of the training features; 1 if all are 0.
    """

    digest: str
    rms: float


class GivenFeatures:
    """The features of a file for `python -m fastlt.train features=FILE`; docs/how-to/features.md has the formats.

    Attributes: class_names [C]; labels, the class index of every row, int64 [N]; splits, the index of every row's split
    in SPLITS, int8 [N]; groups, the group of every training row, int64 [n], None if the file has none; dim, D. The
    features themselves are read in pieces and never all in memory.

    Raises UserError if the file is damaged, or if a column is missing or has a wrong shape or wrong values.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._open(columns_of(path))
        except UserError as error:
            raise UserError(f"features={path}: {error}") from None

    def _open(self, columns: dict[str, Column]) -> None:
        each = [split for split in SPLITS if f"x_{split}" in columns]
        pairs = [(f"x_{split}", f"y_{split}") for split in each] or [("x", "y")]
        wanted = [*(name for pair in pairs for name in pair), *([] if each else ["split"])]
        for name in wanted:
            if name not in columns:
                raise UserError(
                    f"there is no {name}: x [N, D], y [N] and split [N] are needed, or x_train, y_train, x_test and "
                    f"y_test; it holds {', '.join(sorted(columns)) or 'nothing'}"
                )
        used = {*wanted, "group_train"}
        others = [
            name for name in columns if name not in used and (name[:2] == "x_" or name in ("x", "group", *_LABELS))
        ]
        if each and others:
            raise UserError(
                f"{others[0]} would not be used: beside {pairs[0][0]}, allowed are x_train, y_train, x_val, y_val, "
                "x_test and y_test, in pairs, and group_train; rename it, or leave it out"
            )
        self.x = [columns[x] for x, _ in pairs]
        labels = [plain(_whole(columns[y]), y) for _, y in pairs]
        for (x, y), rows, known in zip(pairs, self.x, labels, strict=True):
            if (
                len(rows.shape) != 2
                or rows.dtype.kind not in "fiu"
                or rows.shape[1:] != self.x[0].shape[1:]
                or not rows.shape[1]
            ):
                like = "" if rows is self.x[0] else f" as wide as the {self.x[0].shape} of {pairs[0][0]}"
                raise UserError(f"{x} is {rows.dtype} {rows.shape}: numbers [N, D] are needed{like}")
            if known.shape != rows.shape[:1]:
                raise UserError(
                    f"{x} has {counted(rows.shape[0], 'row')}, {y} is {known.shape}: one label for each row is needed"
                )
        if len({known.dtype.kind for known in labels}) > 1:
            raise UserError(f"{' and '.join(y for _, y in pairs)} are numbers here and strings there")
        if each:
            self.splits = np.repeat([SPLITS.index(split) for split in each], [len(known) for known in labels])
        else:
            self.splits = split_numbers(plain(_whole(columns["split"]), "split"))
        self.groups = self._groups(columns, bool(each))
        known = np.concatenate(labels)
        if len(self.splits) != len(known):
            raise UserError(f"x has {counted(len(known), 'row')}, split {len(self.splits)}: one for each row is needed")
        for split in ("train", "test"):
            if not (self.splits == SPLITS.index(split)).any():
                raise UserError(f"no row is of the {split} split: classifiers are trained on train, measured on test")
        named = distinct(plain(_whole(columns["class_names"]), "class_names")) if "class_names" in columns else None
        self.class_names, self.labels = class_numbers(known, self.splits, named)
        if len(self.class_names) < 2:
            raise UserError(f"all training images are of one class, {self.class_names[0]}: two are needed at least")
        self.dim = self.x[0].shape[1]

    def _groups(self, columns: dict[str, Column], each: bool) -> np.ndarray | None:
        """Reads the groups of the training rows, from `group_train` if each split has features of its own."""
        name = "group_train" if each else "group"
        if unused := [one for one in ("groups", "group_train") if one in columns and one != name]:
            raise UserError(f"{unused[0]} would not be used: groups are in {name}; rename it, or leave it out")
        if name not in columns:
            return None
        names = plain(_whole(columns[name]), name)
        rows = self.rows("train")
        wanted = len(rows) if each else len(self.splits)
        if names.shape != (wanted,):
            raise UserError(f"{name} is {names.shape}: one for each of {counted(wanted, 'row')} is needed")
        return group_numbers(names if each else names[rows])

    def rows(self, split: str) -> np.ndarray:
        """Returns the row numbers of a split, int64 [n]; none if there is no such split."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the first row, features [n, D]) of consecutive pieces, from the first row to the last.

        Raises UserError if the file is damaged.
        """
        first = 0
        try:
            for column in self.x:
                for piece in pieces(column):
                    yield first, piece
                    first += len(piece)
        except UserError as error:
            raise UserError(f"features={self.path}: {error}") from None

    @cached_property
    def survey(self) -> Survey:
        """Returns the Survey, for which it reads all features. Raises UserError for one not finite in float32."""
        digest, total = hashlib.sha256(), 0.0
        with Progress("reading features", len(self.labels), "rows") as progress:
            for first, piece in self.pieces():
                digest.update(np.ascontiguousarray(piece, np.float64 if piece.dtype.itemsize > 4 else np.float32).data)
                # The maximum of a row is NaN if any of its values is, and comparisons with NaN are false.
                unfit = ~(np.abs(piece).max(1) <= np.finfo(np.float32).max)
                if unfit.any():
                    row = int(np.argmax(unfit))
                    column = int(np.argmax(~(np.abs(piece[row]) <= np.finfo(np.float32).max)))
                    raise UserError(
                        f"features={self.path}: x holds {piece[row, column]} in row {first + row}, column {column}: "
                        "features must be finite in float32"
                    )
                train = piece[self.splits[first : first + len(piece)] == 0].astype(np.float64)
                total += float(np.square(train).sum())
                progress.advance(len(piece))
        for part in (self.labels, self.splits.astype(np.int8)):
            digest.update(np.ascontiguousarray(part).data)
        digest.update("\n".join(self.class_names).encode())
        if self.groups is not None:
            digest.update(self.groups.data)
        return Survey(digest.hexdigest(), (total / (len(self.rows("train")) * self.dim)) ** 0.5 or 1.0)

    def write(self, store: FeatureStore, orders: Mapping[str, np.ndarray], scale: float) -> None:
        """Writes features, divided by `scale`, into the store, unless it has all splits of `orders` already.

        orders: for each split, its rows in class order, int64 [n].

        Raises UserError if a feature is too large for a float16 store, or if the file cannot be written.
        """
        if all(store.has(split) for split in orders):
            return
        place = np.full((2, len(self.labels)), -1, np.int64)  # the split that a row goes to, and its row there
        for number, rows in enumerate(orders.values()):
            place[:, rows] = np.full(len(rows), number), np.arange(len(rows))
        shapes = {split: Stored((len(rows), self.dim), 0) for split, rows in orders.items()}
        with replacing(store.path) as path:
            create(path, store.key, store.dtype, shapes, store.path, {})
            self._fill(path, store.dtype, orders, place, scale)

    def _fill(self, path: Path, dtype: str, orders: Mapping[str, np.ndarray], place: np.ndarray, scale: float) -> None:
        with path.open("rb") as file:
            splits = read_page(file).splits
        at: dict[str, dict[str, int]] = {
            split: dict(zip(COLUMNS, splits[split].offsets, strict=True)) for split in orders
        }
        arrays = [
            np.memmap(path, dtype, "r+", at[split]["features"], (len(orders[split]), self.dim)) for split in orders
        ]
        with Progress("storing features", len(self.labels), "rows") as progress:
            for first, piece in self.pieces():
                splits, rows = place[:, first : first + len(piece)]
                for number, array in enumerate(arrays):
                    here = splits == number
                    with np.errstate(over="ignore"):  # an overflow is reported below
                        scaled = (piece[here].astype(np.float64) / scale).astype(dtype)
                    if not np.isfinite(scaled).all():
                        raise UserError(
                            f"features={self.path}: one is beyond float16's 65504: use feature_dtype=float32"
                        )
                    array[rows[here]] = scaled
                progress.advance(len(piece))
        for array in arrays:
            array.flush()
        with path.open("r+b") as file:
            for split, rows in orders.items():
                for name, column in {"labels": self.labels[rows], "ids": rows}.items():
                    file.seek(at[split][name])
                    file.write(column.astype(np.int64).tobytes())
        note_complete(path)


def _whole(column: Column) -> np.ndarray:
    found = list(pieces(column))
    return np.concatenate(found) if found else np.empty(column.shape, column.dtype)
