"""HDF5 files that only ordinary writes bring to the disk.

HDF5 does not survive a disk without space: it fails once more when it closes the file, and ends the process by a
signal. So it lays a file out in memory, arrays without their values, and what it would have written there is written
here, where an error is an error. The values follow by ordinary writes to the places that the arrays have in the file.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

_PAGE = 4096


class _Pages:
    """A file in memory, as far as h5py needs one: only pages that are written to take space."""

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
        """(page, part of it, piece of the data) for `length` bytes from the place on."""
        pieces, done = [], 0
        while done < length:
            page, start = divmod(self._place + done, _PAGE)
            many = min(_PAGE - start, length - done)
            pieces.append((page, slice(start, start + many), slice(done, done + many)))
            done += many
        return pieces


def make_room(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: object) -> int:
    """Adds a contiguous array without values; the place of its first byte in the file."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return group.create_dataset(name, shape, dtype, dcpl=made).id.get_offset()


def create(path: Path, lay_out: Callable[[h5py.File], None]) -> None:
    """Makes an HDF5 file as `lay_out` does, with `make_room` and attributes, and has the disk keep room for all of it.

    Values that were not written are 0. Raises OSError, whose file is removed, where there is no room.
    """
    pages = _Pages()
    with h5py.File(pages, "w", libver="v110") as file:
        lay_out(file)
    try:
        with path.open("wb") as written:
            os.posix_fallocate(written.fileno(), 0, pages.size)
            for number, page in sorted(pages.pages.items()):
                _write(written.fileno(), number * _PAGE, page[: pages.size - number * _PAGE])
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_values(path: Path, values: Iterable[tuple[int, np.ndarray]]) -> None:
    """Writes arrays to their places in a file that `create` made, and brings it to the disk. Raises OSError."""
    with path.open("r+b") as file:
        for place, array in values:
            _write(file.fileno(), place, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        os.fsync(file.fileno())


def _write(descriptor: int, place: int, data: bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:  # the system may take a part
        taken = os.pwrite(descriptor, left, place)
        left, place = left[taken:], place + taken
