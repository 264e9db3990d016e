"""A feature file while it is being filled: rows come in order, and what is there survives a kill at any moment."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from fastlt.stage2.features.layout import COLUMNS, writing

SAVE_EVERY = 2.0  # seconds of work that a kill costs at most, and a batch


@dataclass
class _Split:
    """Where the arrays of a split begin in the file, in bytes; how many rows there are to be, and are written."""

    offsets: dict[str, int]
    rows: int
    position: int


class Part:
    """A file that `layout.create` made, open for the rows it lacks.

    HDF5's structures are complete before the first row and never touched again: rows go straight to where the arrays
    lie. So the file opens whatever ended the process, and `position` counts only rows that are on the disk.
    """

    def __init__(self, path: Path):
        self.path = path
        with h5py.File(path, "r") as file:
            self._splits = {split: _where(file[split]) for split in file}  # type: ignore[arg-type]
        self._file = path.open("r+b")
        self._saved = time.monotonic()

    def position(self, split: str) -> int:
        """Rows that are written."""
        return self._splits[split].position

    def append(self, split: str, features: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
        """Writes the next rows: features [n, D] of the file's dtype, labels and ids int64 [n].

        Raises UserError if the disk does not take them.
        """
        at = self._splits[split]
        with writing(self.path):
            for name, values in {"features": features, "labels": labels, "ids": ids}.items():
                self._write(at.offsets[name] + at.position * values[0].nbytes, values)
            at.position += len(ids)
            if time.monotonic() - self._saved >= SAVE_EVERY or at.position == at.rows:
                os.fdatasync(self._file.fileno())
                self._write(at.offsets["position"], np.array([at.position], np.int64))
                self._saved = time.monotonic()

    def _write(self, place: int, values: np.ndarray) -> None:
        self._file.seek(place)
        self._file.write(np.ascontiguousarray(values).data)
        self._file.flush()

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _where(group: h5py.Group) -> _Split:
    position = int(group["position"][0])  # type: ignore[index, arg-type]
    offsets = {name: group[name].id.get_offset() for name in COLUMNS}  # type: ignore[attr-defined]
    return _Split(offsets, len(group["labels"]), position)  # type: ignore[arg-type]
