"""The layout of a feature file, and what one holds.

Attributes `schema`, `key` (of the representation) and `dtype` (of the features). A group per split with attribute
`views` (K) and, for N images seen 1 + K times, `features` [(1 + K) N, D], `labels` and `ids` (sample ids) int64
[(1 + K) N]: first the N images seen as at evaluation, then K augmented passes over the same images in the same order.
`position`, int64 [1]: how many of the rows are there; all of them, unless the file is still being filled.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from fastlt.core import hdf5
from fastlt.core.errors import UserError

SCHEMA = 2  # also of what was seen: at 1, evaluation's crops had whole pixels
COLUMNS = ("features", "labels", "ids", "position")
PIECE = 4096  # rows that are copied at once


class Stored(NamedTuple):
    """A split in a file: shape (rows, D) of its features, augmented passes among them, rows that are there."""

    shape: tuple[int, ...]
    views: int
    position: int

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.position == self.shape[0]


def stored(path: Path, key: str, dtype: str) -> dict[str, Stored]:
    """The splits in a file, if it holds features of this key and dtype; none for any other or damaged file."""
    try:
        with h5py.File(path, "r") as file:
            if [file.attrs.get(name) for name in ("schema", "key", "dtype")] != [SCHEMA, key, dtype]:
                return {}
            return {split: _stored(file[split]) for split in file}  # type: ignore[arg-type]
    except Exception:  # h5py raises nearly anything on damaged files
        return {}


def _stored(group: h5py.Group) -> Stored:
    features, position = group["features"], group["position"]
    return Stored(features.shape, int(group.attrs["views"]), int(position[0]))  # type: ignore


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the disk while a feature file is written become a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}): make room; the same command goes on behind what is "
            "there"
        ) from None


def create(path: Path, key: str, dtype: str, splits: Mapping[str, Stored], before: Path, kept: list[str]) -> None:
    """Makes a file with room for all rows of `splits`, and with the splits `kept` as they are in the file `before`.

    Raises UserError if there is no room for all of it: now, not hours later.
    """
    temporary = path.with_name(path.name + ".tmp")
    places: dict[tuple[str, str], int] = {}

    def lay_out(file: h5py.File) -> None:
        file.attrs.update(schema=SCHEMA, key=key, dtype=dtype)
        for split, wanted in {**splits, **there}.items():
            group = file.create_group(split)
            group.attrs["views"] = wanted.views
            shapes = {"features": wanted.shape, "labels": wanted.shape[:1], "ids": wanted.shape[:1], "position": (1,)}
            for name, shape in shapes.items():
                kind = dtype if name == "features" else np.int64
                places[split, name] = hdf5.make_room(group, name, shape, kind)

    try:
        with writing(path), h5py.File(before, "r") if kept else contextlib.nullcontext({}) as source:
            there = {split: _stored(source[split]) for split in kept}  # type: ignore[arg-type]
            hdf5.create(temporary, lay_out)
            hdf5.write_values(temporary, _values(source, places, kept))  # type: ignore[arg-type]
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # renamed by now, unless it failed


def _values(
    source: Mapping[str, Mapping[str, h5py.Dataset]], places: Mapping[tuple[str, str], int], kept: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """What lies in the splits `kept` of a file, piece by piece, and where it goes."""
    for split in kept:
        for name in COLUMNS:
            column = source[split][name]
            for first in range(0, len(column), PIECE):
                values = column[first : first + PIECE]
                yield places[split, name] + first * values[0].nbytes, values
