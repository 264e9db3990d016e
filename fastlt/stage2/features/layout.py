"""The layout of a feature file: creates one, and tells which splits one holds.

The file is plain HDF5, with the attributes `schema`, `key` (of the representation) and `dtype` (of the features). Each
split is a group with the attribute `augmented_passes` (K). For its N images it holds the columns `features`
[(1 + K) N, D], `labels` int64 [(1 + K) N] and `ids` (sample ids) int64 [(1 + K) N]: first the N images with the
evaluation transform, then K augmented passes over the same images in the same order.

A page of PAGE bytes follows the HDF5 data. For each column it holds the offset in the file, the number of rows that are
written, and the CRC-32 of these rows. Here only that page and the columns are read, and not the HDF5 structures. So
reading follows no links, needs no more memory than the size of the file, and detects any damage.
"""

import contextlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fastlt.core import hdf5
from fastlt.core.files import replacing
from fastlt.core.typed import typed

SCHEMA = 3  # of the layout, and of how images are seen: at 1, the crops of evaluation had whole pixels
COLUMNS = ("features", "labels", "ids")
PIECE = 1 << 22  # bytes that are copied or checked at once
PAGE = 4096  # size of the page in bytes
_MARK = b"fastlt features "
AGAIN = "give the same command again: it goes on after the images that are there"  # for error messages


class Damaged(Exception):
    """Raised for a damaged file. Its message says in words what is wrong."""


@dataclass(frozen=True)
class Stored:
    """A split in a file.

    shape: of its features, (rows, D), where the rows include augmented passes. passes: number of augmented passes.
    position: number of rows that are written.
    offsets, crc32: for each column, the offset of its first byte, and the CRC-32 of the rows that are written.
    """

    shape: tuple[int, ...]
    passes: int
    position: int = 0
    offsets: tuple[int, ...] = ()
    crc32: tuple[int, ...] = (0, 0, 0)

    @property
    def complete(self) -> bool:
        """Returns whether all rows are written."""
        return self.position == self.shape[0]

    def same(self, other: "Stored") -> bool:
        """Returns whether `other` has the same shape and number of augmented passes."""
        return (self.shape, self.passes) == (other.shape, other.passes)


@dataclass(frozen=True)
class Page:
    """The contents of the page at the end of a file.

    key, dtype, splits: of the features. size: bytes of the file before the page.
    rest: CRC-32 of all bytes before the page that belong to no column.
    """

    key: str
    dtype: str
    size: int
    rest: int
    splits: dict[str, Stored]

    def widths(self, split: str) -> tuple[int, ...]:
        """Returns the bytes of a row in each column of a split."""
        return self.splits[split].shape[1] * np.dtype(self.dtype).itemsize, 8, 8

    def packed(self) -> bytes:
        """Returns the page as PAGE bytes."""
        splits = {
            split: {name: getattr(one, name) for name in ("shape", "passes", "position", "offsets", "crc32")}
            for split, one in self.splits.items()
        }
        text = json.dumps({"schema": SCHEMA, **vars(self), "splits": splits}).encode()
        page = b"%s%08x\n%s" % (_MARK, zlib.crc32(text), text)
        assert len(page) <= PAGE, len(page)
        return page.ljust(PAGE)


def opened(path: Path) -> BinaryIO:
    """Opens a file for reading, without blocking on a named pipe.

    Raises OSError if it cannot be opened, and Damaged if it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged("it is no file")
    return os.fdopen(descriptor, "rb")


def read_page(file: BinaryIO) -> Page:
    """Reads the page at the end of a file. Raises Damaged if it has none, or one that is damaged or inconsistent."""
    size = os.fstat(file.fileno()).st_size - PAGE
    file.seek(max(0, size))
    mark, _, text = file.read(PAGE).rstrip().partition(b"\n")
    if mark != b"%s%08x" % (_MARK, zlib.crc32(text)):
        raise Damaged("it does not end as it was written")
    try:
        told = json.loads(text)
        splits = {
            split: Stored(
                tuple(one["shape"]), one["passes"], one["position"], *map(tuple, (one["offsets"], one["crc32"]))
            )
            for split, one in told["splits"].items()
        }
        page = Page(str(told["key"]), str(told["dtype"]), told["size"], told["rest"], splits)
        schema = told["schema"]
        fits = schema == SCHEMA and page.size == size and all(_fits(page, split) for split in splits)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Damaged(f"what it says of itself cannot be read: {error}") from None
    if not fits:
        raise Damaged(f"it is of another version of fastlt ({schema})" if schema != SCHEMA else "its sizes cannot be")
    return page


def _fits(page: Page, split: str) -> bool:
    """Returns whether the numbers of a split are valid and its columns lie within the file."""
    one = page.splits[split]
    numbers = [*one.shape, one.passes, one.position, *one.offsets, *one.crc32]
    typed(list[int], numbers)
    lengths = (len(one.shape), len(one.offsets), len(one.crc32)) == (2, 3, 3)
    if not lengths or min(numbers) < 0 or one.position > one.shape[0]:
        return False
    ends = [place + one.shape[0] * width for place, width in zip(one.offsets, page.widths(split), strict=True)]
    return max(ends) <= page.size


def damage(file: BinaryIO, page: Page, split: str) -> str:
    """Returns, in words, what is wrong with the written rows of a split, or "" if nothing is.

    They must match their checksums. Features must be finite and labels not negative, as somebody else may have written
    the file.
    """
    one = page.splits[split]
    dtypes = (page.dtype, "int64", "int64")
    for name, dtype, place, width, crc32 in zip(
        COLUMNS, dtypes, one.offsets, page.widths(split), one.crc32, strict=True
    ):
        found, fit = 0, True
        for piece in _pieces(file, place, one.position * width):
            found = zlib.crc32(piece, found)
            fit = fit and _fit(np.frombuffer(piece, dtype, len(piece) // np.dtype(dtype).itemsize))
        if found != crc32:
            return f"{name} of {split} do not match their checksum"
        if not fit:
            return f"{name} of {split} are not all {'finite' if name == 'features' else '0 or more'}"
    return ""


def _fit(values: np.ndarray) -> bool:
    """Returns whether features are finite, or labels and ids not negative."""
    return bool(np.isfinite(values).all() if values.dtype.kind == "f" else (values >= 0).all())


def damage_of_the_rest(file: BinaryIO, page: Page) -> str:
    """Returns, in words, what is wrong with the bytes outside the columns, or "" if they match their checksum."""
    return "" if _rest(file, page) == page.rest else "what lies between its columns does not match its checksum"


def create(
    path: Path, key: str, dtype: str, splits: Mapping[str, Stored], before: Path, kept: Mapping[str, Stored]
) -> None:
    """Creates a file with room for all rows of `splits`, and copies the splits `kept` from the file `before`.

    path: the new file. key, dtype: of the features. splits: new splits, without rows. kept: splits of `before`.

    Disk space is allocated for everything, so a lack of it raises UserError here and not after hours of extraction.
    """
    places: dict[str, tuple[int, ...]] = {}
    every = {**splits, **kept}

    def lay_out(file: h5py.File) -> None:
        file.attrs.update(schema=SCHEMA, key=key, dtype=dtype)
        for split, wanted in every.items():
            group = file.create_group(split)
            group.attrs["augmented_passes"] = wanted.passes
            rows = wanted.shape[:1]
            shapes = {"features": (wanted.shape, dtype), "labels": (rows, np.int64), "ids": (rows, np.int64)}
            offsets = (hdf5.make_room(group, name, *shapes[name]) for name in COLUMNS)
            # HDF5 allocates nothing for a column without rows, which then has no offset.
            places[split] = tuple(0 if offset is None else offset for offset in offsets)

    with (
        opened(before) if kept else contextlib.nullcontext() as source,
        replacing(path, again=AGAIN) as temporary,
    ):
        hdf5.create(temporary, lay_out)
        laid = {split: replace(one, offsets=places[split]) for split, one in every.items()}
        with temporary.open("rb") as file:
            page = Page(key, dtype, os.fstat(file.fileno()).st_size, 0, laid)
            page = replace(page, rest=_rest(file, page))
        hdf5.write_values(
            temporary, [*_copies(source, page, kept), (page.size, np.frombuffer(page.packed(), np.uint8))]
        )


def note_complete(path: Path) -> None:
    """Updates the page of a file that `create` made when all rows have been written. Raises OSError."""
    with path.open("rb") as file:
        page = read_page(file)
        for split, one in page.splits.items():
            places = zip(one.offsets, page.widths(split), strict=True)
            sums = tuple(_checksum(_pieces(file, place, one.shape[0] * width)) for place, width in places)
            page.splits[split] = replace(one, position=one.shape[0], crc32=sums)
    hdf5.write_values(path, [(page.size, np.frombuffer(page.packed(), np.uint8))])


def _copies(source: BinaryIO | None, page: Page, kept: Mapping[str, Stored]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (offset in the new file, bytes) for the columns of the splits `kept` of the file `source`."""
    for split, one in kept.items():
        assert source is not None
        for begin, to, width in zip(one.offsets, page.splits[split].offsets, page.widths(split), strict=True):
            for piece in _pieces(source, begin, one.position * width):
                yield to, np.frombuffer(piece, np.uint8)
                to += len(piece)


def _pieces(file: BinaryIO, place: int, length: int) -> Iterator[bytes]:
    while length > 0:
        piece = os.pread(file.fileno(), min(length, PIECE), place)
        if not piece:
            return  # the file was truncated meanwhile, which the checksum detects
        yield piece
        place, length = place + len(piece), length - len(piece)


def _checksum(pieces: Iterable[bytes]) -> int:
    found = 0
    for piece in pieces:
        found = zlib.crc32(piece, found)
    return found


def _rest(file: BinaryIO, page: Page) -> int:
    """Returns the CRC-32 of all bytes before the page that belong to no column."""
    found, end = 0, 0
    columns: list[tuple[int, int]] = []
    for split, one in page.splits.items():
        columns += [(at, one.shape[0] * width) for at, width in zip(one.offsets, page.widths(split), strict=True)]
    for begin, length in [*sorted(place for place in columns if place[1]), (page.size, 0)]:
        found = zlib.crc32(b"".join(_pieces(file, end, begin - end)), found)
        end = begin + length
    return found


def described(error: Any) -> str:
    """Returns an exception of opening or reading a file in words."""
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)
