"""Writes HDF5 files with ordinary writes, so that a full disk raises OSError.

The HDF5 library does not survive a full disk: after a failed write it fails again while it closes the file, and the
process is ended by a signal. So the library only lays the file out in memory, with arrays that have no values yet. Its
bytes are then written here, and the values follow as ordinary writes to the offsets of the arrays in the file.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

_PAGE = 4096


class _Pages:
    """A sparse file in memory with the methods that h5py needs: only pages that were written take memory."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = self._place = 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self._place = place + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def write(self, data: memoryview) -> int:
        data = memoryview(data).cast("B")
        for page, part, piece in self._pieces(len(data)):
            self.pages.setdefault(page, bytearray(_PAGE))[part] = data[piece]
        self._place += len(data)
        self.size = max(self.size, self._place)
        return len(data)

    def readinto(self, into: memoryview) -> int:
        into = memoryview(into).cast("B")
        for page, part, piece in self._pieces(len(into)):
            into[piece] = self.pages.get(page, bytes(_PAGE))[part]
        self._place += len(into)
        return len(into)

    def read(self, length: int) -> bytes:
        into = bytearray(length)
        self.readinto(memoryview(into))
        return bytes(into)

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def flush(self) -> None:
        pass

    def _pieces(self, length: int) -> list[tuple[int, slice, slice]]:
        """Splits `length` bytes from the current position on into (page, slice of that page, slice of the bytes)."""
        pieces, done = [], 0
        while done < length:
            page, start = divmod(self._place + done, _PAGE)
            many = min(_PAGE - start, length - done)
            pieces.append((page, slice(start, start + many), slice(done, done + many)))
            done += many
        return pieces


def make_room(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: object) -> int:
    """Adds a contiguous array without values to `group` and returns the offset of its first byte in the file."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return group.create_dataset(name, shape, dtype, dcpl=made).id.get_offset()


def laid_out(lay_out: Callable[[h5py.File], None]) -> _Pages:
    """Returns in memory the file that `create` writes: its `size`, and by `seek` and `read` all but arrays' values."""
    pages = _Pages()
    with h5py.File(pages, "w", libver="v110") as file:
        lay_out(file)
    return pages


def create(path: Path, lay_out: Callable[[h5py.File], None]) -> None:
    """Creates an HDF5 file and allocates disk space for all of it.

    lay_out: adds arrays to an open h5py.File with `make_room`, and attributes. Values that are not written later are 0.

    Raises OSError if the disk has no room; the file is then removed.
    """
    pages = laid_out(lay_out)
    try:
        with path.open("wb") as written:
            os.posix_fallocate(written.fileno(), 0, pages.size)
            for number, page in sorted(pages.pages.items()):
                _write(written.fileno(), number * _PAGE, page[: pages.size - number * _PAGE])
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_values(path: Path, values: Iterable[tuple[int, np.ndarray]]) -> None:
    """Writes arrays into a file that `create` made and flushes it to the disk.

    values: pairs of an offset, as `make_room` returned it, and the array. Raises OSError.
    """
    with path.open("r+b") as file:
        for place, array in values:
            _write(file.fileno(), place, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        os.fsync(file.fileno())


def _write(descriptor: int, place: int, data: bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:  # pwrite may write only a part
        taken = os.pwrite(descriptor, left, place)
        left, place = left[taken:], place + taken
