"""Reads the rows of a file of features that a command is given, piece by piece."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.core.log import printed
from fastlt.stage2.features.given.columns import Column, columns_of, pieces
from fastlt.stage2.features.given.labels import plain

NAMES = "path"  # the column that names rows, as `fastlt.predict --features` writes it


class FeatureFile:
    """The rows of a file of features, in their order: their names and their features.

    path: a .npz, .h5, .hdf5 or .parquet file, or a folder of .npy files, with the column `x`, numbers [N, D], and
    perhaps the column `path`, strings [N], which names the rows. Otherwise they are named by their numbers, from 0 on.
    dim: D. It is iterable, over the names.

    Attributes: named, whether there is a column `path`; count, N; longest, the characters of the longest name as it is
    printed; digest, which tells two files apart.

    Raises UserError for another file, and for features of another length than D.
    """

    def __init__(self, path: Path, dim: int):
        self._path = path
        try:
            columns = columns_of(path)
            self._x = _features(columns, dim)
            self.count = self._x.shape[0]
            self._names = columns.get(NAMES)
            if self._names is not None and self._names.shape != (self.count,):
                raise UserError(f"{NAMES} is {self._names.shape}, x has {self.count} rows: one name each is needed")
        except UserError as error:
            raise self._wrong(error) from None
        self.named = self._names is not None
        self.longest = max(map(len, map(printed, self))) if self.named else len(str(self.count - 1))

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of the name, size and time of the file, or of those in the folder."""
        files = sorted(self._path.glob("*.npy")) if self._path.is_dir() else [self._path]
        about = [(os.fspath(one.absolute()), one.stat().st_size, one.stat().st_mtime_ns) for one in files]
        return hashlib.sha256(repr(about).encode()).hexdigest()

    def __iter__(self) -> Iterator[str]:
        if self._names is None:
            yield from map(str, range(self.count))
        else:
            for piece in self._pieces(self._names):
                yield from map(str, plain(piece, NAMES).tolist())

    def loaded(self, done: int) -> Iterator[tuple[str, torch.Tensor | str]]:
        """Yields of each row after the first `done` its name and its features, float64 [D], or why it cannot be used.

        Raises UserError if the file is damaged.
        """
        names, first = iter(self), 0
        for piece in self._pieces(self._x):
            rows = torch.from_numpy(piece.astype(np.float64))
            fit = (rows.abs() <= torch.finfo(torch.float32).max).all(1).tolist()  # false for NaN, too
            for number, (row, name) in enumerate(zip(rows, names, strict=False), first):
                if number >= done:
                    yield name, row if fit[number - first] else "its features are not finite in float32"
            first += len(rows)

    def _pieces(self, column: Column) -> Iterator[np.ndarray]:
        try:
            yield from pieces(column)
        except UserError as error:
            raise self._wrong(error) from None

    def _wrong(self, error: UserError) -> UserError:
        return UserError(f"{printed(str(self._path))}: {error}")


def _features(columns: dict[str, Column], dim: int) -> Column:
    if "x" not in columns:
        raise UserError(f"there is no x [N, {dim}], features; it holds {', '.join(sorted(columns)) or 'nothing'}")
    x = columns["x"]
    if x.dtype.kind not in "fiu" or x.shape[1:] != (dim,) or not x.shape[0]:
        raise UserError(
            f"x is {x.dtype} {list(x.shape)}: numbers [N, {dim}] are needed, features of the network that gave those "
            "which the run was trained on"
        )
    return x
