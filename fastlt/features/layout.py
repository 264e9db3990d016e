"""The layout of a feature file, and what one holds.

Attributes `schema`, `key` (of the representation) and `dtype` (of the features). A group per split with attribute
`views` (K) and, for N images seen 1 + K times, `features` [(1 + K) N, D], `labels` and `ids` (sample ids) int64
[(1 + K) N]: first the N images seen as at evaluation, then K augmented passes over the same images in the same order.
`position`, int64 [1]: how many of the rows are there; all of them, unless the file is still being filled.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from fastlt.errors import UserError

SCHEMA = 1
COLUMNS = ("features", "labels", "ids", "position")


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


@contextmanager
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

    Raises UserError if there is no room for all of it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with writing(path):
            with h5py.File(temporary, "w", libver="v110") as file:
                file.attrs.update(schema=SCHEMA, key=key, dtype=dtype)
                for split, wanted in splits.items():
                    _add(file.create_group(split), wanted, dtype)
                if kept:
                    with h5py.File(before, "r") as source:
                        for split in kept:
                            source.copy(split, file)
            with temporary.open("r+b") as opened:  # so that a disk that is too small says so now, not hours later
                os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # renamed by now, unless it failed


def _add(group: h5py.Group, wanted: Stored, dtype: str) -> None:
    group.attrs["views"] = wanted.views
    _make_room(group, "features", wanted.shape, dtype)
    for name in ("labels", "ids"):
        _make_room(group, name, wanted.shape[:1], np.int64)
    group["position"] = np.zeros(1, np.int64)


def _make_room(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: object) -> None:
    """A contiguous array that has its place in the file from the start, though nothing is written to it."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    group.create_dataset(name, shape, dtype, dcpl=made)
