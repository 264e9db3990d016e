"""A feature file that is being filled. Rows are appended in order, and rows once saved survive a kill at any moment."""

import os
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastlt.core.files import writing
from fastlt.stage2.features.layout import AGAIN, read_page

SAVE_EVERY = 2.0  # seconds between two updates of the page; a kill loses at most so much work, and a batch


class Part:
    """A file that `layout.create` made, opened to append the rows that it lacks. Use it as a context manager.

    The HDF5 structures are complete before the first row and do not change, because rows are written directly to the
    offsets of the columns. So the file can be opened however the process ended, and its page counts only rows that are
    on the disk.
    """

    def __init__(self, path: Path):
        self.path = path
        with writing(path, again=AGAIN):
            self._file = path.open("r+b")
        self._page = read_page(self._file)
        self._splits = self._page.splits
        self._saved = time.monotonic()

    def position(self, split: str) -> int:
        """Returns the number of rows of a split that are written."""
        return self._splits[split].position

    def append(self, split: str, features: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> None:
        """Appends rows to a split.

        features: [n, D], of the file's dtype. labels, ids: int64 [n]. Raises UserError if they cannot be written.
        """
        at = self._splits[split]
        columns = [np.ascontiguousarray(column).reshape(-1).view(np.uint8).data for column in (features, labels, ids)]
        with writing(self.path, again=AGAIN):
            for place, width, data in zip(at.offsets, self._page.widths(split), columns, strict=True):
                self._write(place + at.position * width, data)
            sums = tuple(zlib.crc32(data, before) for data, before in zip(columns, at.crc32, strict=True))
            at = self._splits[split] = replace(at, position=at.position + len(ids), crc32=sums)
            if time.monotonic() - self._saved >= SAVE_EVERY or at.complete:
                os.fdatasync(self._file.fileno())
                self._write(self._page.size, self._page.packed())
                self._saved = time.monotonic()

    def _write(self, place: int, data: bytes | memoryview) -> None:
        self._file.seek(place)
        self._file.write(data)
        self._file.flush()

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
