"""encode=link: indexes images where they lie, in the user's own tars, instead of copying them into shards.

The shards of such a dataset are symbolic links to the tars. dataset.json has their sizes and SHA-256, and index.h5 has
the position and checksum of every image, as in any other dataset.
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.data.shards import format as layout
from fastlt.data.shards.format import Encoded
from fastlt.data.shards.writer import Files
from fastlt.data.sources.base import Derived, Source
from fastlt.data.sources.webdataset import Place, WebDataset


def place_of(source: Source, split: str, index: int) -> Place:
    """Returns where the image of a sample lies; the source is a WebDataset, or derived from one."""
    while isinstance(source, Derived):
        split, index = source.origin(split, index)
        source = source.source
    assert isinstance(source, WebDataset), "build.py lets no other source through"
    return source.place(split, index)


class LinkWriter:
    """Links the shards of one split: it has the interface of SplitWriter, but writes no image.

    folder: where links are made. split: the name of the split. place: a function from the position of a sample in the
    source to where its image lies. shards: 0, as nothing is resumed.

    Samples are ordered by tar and offset. A conversion that was killed begins again.
    """

    def __init__(self, folder: Path, split: str, place: Callable[[int], Place]):
        self.folder, self.split, self._place = folder, split, place
        self.position = self.shards = 0
        self.bytes = 0  # of the images that were read
        self.quarantined: list[list[str]] = []
        self._bad_places: list[int] = []
        self._rows: list[tuple[Any, ...]] = []
        self._keys: list[str] = []
        self._colours: list[str] = []
        self._looks: list[int] = []
        self._tars: dict[Path, int] = {}
        self._done: list[dict[str, np.ndarray]] | None = None
        for link in folder.glob(f"{split}-*"):
            link.unlink()

    def forget(self, mended: Callable[[int], bool]) -> None:
        """Does nothing: no sample of an earlier try is left."""

    def add(self, key: str, label: int, image: Encoded, crc32: int) -> None:
        """Adds the next sample of the source; arguments as for SplitWriter.add."""
        tar, offset, length = self._place(self.position)
        number = self._tars.setdefault(tar, len(self._tars))
        self._rows.append((number, offset, length, label, image.height, image.width, image.encoding, crc32))
        self._keys.append(key)
        self._colours.append(image.colour)
        self._looks.append(image.look)
        self.bytes += length
        self.position += 1

    def quarantine(self, key: str, reason: str) -> None:
        """Leaves out the next sample of the source, for the given reason."""
        self.quarantined.append([key, reason])
        self._bad_places.append(self.position)
        self.position += 1

    def finish(self) -> list[dict[str, np.ndarray]]:
        """Makes the links and hashes the tars; returns a page for each, with the columns of SplitWriter's pages."""
        if self._done is None:
            columns = [np.array(values) for values in zip(*self._rows, strict=True)] or [np.empty(0)] * 8
            self._order = np.lexsort((columns[1], columns[0]))
            tars = list(self._tars)
            hashes = _hashes(self.split, tars)
            ends = np.cumsum(np.bincount(columns[0].astype(np.int64), minlength=len(tars)))
            parts = np.split(self._order, ends[:-1]) if tars else []
            self._done = [
                self._page(number, tar, columns[1:], rows, hashes[number])
                for number, (tar, rows) in enumerate(zip(tars, parts, strict=True))
            ]
        return self._done

    def _page(
        self, number: int, tar: Path, columns: list[np.ndarray], rows: np.ndarray, hashed: tuple[int, str]
    ) -> dict[str, np.ndarray]:
        name = layout.shard_name(self.split, number)
        (self.folder / name).symlink_to(os.path.realpath(tar))
        names = ("offset", "length", "label", "height", "width", "encoding", "crc32")
        page = {key: column[rows].astype(layout.COLUMNS[key]) for key, column in zip(names, columns, strict=True)}
        page["key"] = np.array([self._keys[row].encode() for row in rows])
        page["colour"] = np.array([self._colours[row] for row in rows])
        return {**page, "name": np.array(name), "size": np.array(hashed[0]), "sha256": np.array(hashed[1])}

    def looks(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (perceptual hash uint64 [N], position in the source int64 [N]) of all samples that were added."""
        return np.array(self._looks, np.uint64), np.delete(np.arange(self.position), self._bad_places)

    def close(self) -> None:
        """Does nothing: no file is open."""

    def files(self) -> Files:
        """Returns the linked tars: {name: (size, SHA-256)}."""
        return {
            layout.shard_name(self.split, number): (int(page["size"]), str(page["sha256"]))
            for number, page in enumerate(self.finish())
        }


def _hashes(split: str, tars: list[Path]) -> list[tuple[int, str]]:
    """Returns (size, SHA-256) of every tar."""

    def one(tar: Path) -> tuple[int, str]:
        with tar.open("rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()

    found = []
    with (
        Progress(f"hashing {split}", len(tars), "tars") as progress,
        ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool,
    ):
        for result in pool.map(one, tars):
            found.append(result)
            progress.advance(1, "")
    return found


def check_linkable(source: Source, kind: str) -> None:
    """Raises UserError if the images of a source do not lie in tars. kind: of the source, for the message."""
    while isinstance(source, Derived):
        source = source.source
    if not isinstance(source, WebDataset):
        raise UserError(
            f"encode=link indexes images in tars where they lie, dataset={kind} has none: take dataset=webdataset, or "
            "another encode"
        )
