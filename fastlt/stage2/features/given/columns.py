"""Reads the columns of files with features, piece by piece: .npz, .h5, .parquet, and folders of .npy files.

The files may come from strangers, so nothing in them leads to another file, and none may claim far more values than can
be compressed into its size.
"""

import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np

from fastlt.core.errors import UserError, first_line
from fastlt.core.words import first_of

ROWS = 8192  # most rows of a piece; no more of a column of features is in memory at once
PIECE = 1 << 28  # most bytes of a piece that has more than one row
WIDEST = 1 << 28  # most bytes of a row, and of a chunk of an HDF5 file
BESIDE = ("y", "split", "group", "path")  # columns that are taken from a .parquet file, beside x
_DENSEST = 1032  # bytes that deflate can pack into one; other compressions of real features do not come near that
_SPARE = 1 << 24  # bytes that a column may have in any case
_HEADER = struct.Struct("<26xHH")  # header of a zip member: the lengths of its name and of its extra field


class Column(Protocol):
    """An array in a file, with its shape and dtype, whose rows can be read from the first to the last."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields the rows in order, at most ROWS at a time."""
        ...


def pieces(column: Column) -> Iterator[np.ndarray]:
    """Yields the rows of a column as its own `pieces` does. Raises UserError if the file is damaged there."""
    try:
        yield from column.pieces()
    except UserError:
        raise
    except Exception as error:  # damaged files raise nearly any exception
        raise UserError(f"it cannot be read ({first_line(error)}): write it anew") from None


class Sliced:
    """A column that can be sliced: an array, a memory map, or an HDF5 dataset."""

    def __init__(self, rows: Any):
        self.rows, self.shape, self.dtype = rows, tuple(rows.shape), rows.dtype

    def pieces(self) -> Iterator[np.ndarray]:
        many = _rows_of_a_piece(self)
        for first in range(0, self.shape[0], many):
            yield self.rows[first : first + many]


class Deflated:
    """A compressed array of an .npz file, which is decompressed as it is read."""

    def __init__(self, path: Path, member: str):
        self.path, self.member = path, member
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            self.shape, across, self.dtype = _array_header(file)
        if across:
            raise UserError(f"{member} lies across (Fortran order): save np.ascontiguousarray of it")

    def pieces(self) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            _array_header(file)
            width, most = _width(self), _rows_of_a_piece(self)
            for first in range(0, self.shape[0], most):
                many = min(most, self.shape[0] - first)
                yield np.frombuffer(file.read(many * width), self.dtype).reshape(many, *self.shape[1:])
            if file.read(1):  # at the end of the array, its checksum is compared
                raise UserError(f"{self.member} is longer than it says: write it anew")


class Listed:
    """A column of lists of equal length in a Parquet file."""

    def __init__(self, file: Any, name: str):
        self.file, self.name, self.width = file, name, None
        first = next(file.iter_batches(1, columns=[name]), None)
        values = np.empty((0, 0)) if first is None else self._rows(first)
        self.width = values.shape[1]
        self.shape, self.dtype = (file.metadata.num_rows, *values.shape[1:]), values.dtype

    def pieces(self) -> Iterator[np.ndarray]:
        for batch in self.file.iter_batches(_rows_of_a_piece(self), columns=[self.name]):
            yield self._rows(batch)

    def _rows(self, batch: Any) -> np.ndarray:
        from pyarrow import compute

        column = batch.column(0)
        if not hasattr(column, "flatten"):
            raise UserError(f"column {self.name} holds values of type {column.type}: a list of numbers in each row")
        lengths = compute.call_function("list_value_length", [column])
        lengths = lengths.to_numpy(zero_copy_only=False)  # NaN where there is no list
        width = lengths[0] if self.width is None else self.width
        if (lengths != width).any():
            other = lengths[lengths != width][0]
            raise UserError(
                f"column {self.name} holds lists that differ in length, such as {width:.0f} and {other:.0f}: each must "
                "be one feature vector"
            )
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


class Values:
    """A column of numbers or texts in a Parquet file. The dtype is that of its first row."""

    def __init__(self, file: Any, name: str):
        self.file, self.name = file, name
        first = next(self._batches(1), np.empty(0, object))
        self.shape, self.dtype = (file.metadata.num_rows,), first.dtype

    def pieces(self) -> Iterator[np.ndarray]:
        return self._batches(ROWS)

    def _batches(self, rows: int) -> Iterator[np.ndarray]:
        for batch in self.file.iter_batches(rows, columns=[self.name]):
            yield batch.column(0).to_numpy(zero_copy_only=False)


def columns_of(path: Path) -> dict[str, Column]:
    """Returns the columns of a file by name; of a .parquet file, x and those of `BESIDE`.

    path: a .npz, .h5, .hdf5 or .parquet file, or a folder with a .npy file for each column.

    Arrays of .npy files and of uncompressed .npz files are memory-mapped; others are read and decompressed piece by
    piece. Raises UserError for any other file, and for a damaged one; its message does not name the file.
    """
    kinds = {".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5, ".parquet": _parquet}
    if not path.exists():
        raise UserError("there is no such file")
    files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():  # reading from a named pipe would block
            raise UserError(f"{file.name} is no file: write it anew")
    if not path.is_dir() and path.suffix not in kinds:
        raise UserError(f"allowed are {', '.join(kinds)}, or a folder with x.npy, y.npy and split.npy")
    try:
        found = _folder(files) if path.is_dir() else kinds[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # damaged files raise nearly any exception
        raise UserError(f"it cannot be read ({first_line(error)}): write it anew") from None
    size = sum(file.stat().st_size for file in files)
    for name, column in found.items():
        _check_size(name, column, size)
    return found


def _check_size(name: str, column: Column, size: int) -> None:
    """Raises UserError if a column is too large for a file of `size` bytes, or has rows that are too large."""
    held = math.prod(column.shape) * column.dtype.itemsize
    if held > _DENSEST * size + _SPARE:
        raise UserError(
            f"{name} is {column.dtype} {column.shape}, {held:,} bytes, which a file of {size:,} cannot hold: write it "
            "anew"
        )
    if _width(column) > WIDEST:
        raise UserError(f"{name} is {column.dtype} {column.shape}: a row may have {WIDEST:,} bytes")


def _width(column: Column) -> int:
    """Returns the bytes of a row."""
    return math.prod(column.shape[1:]) * column.dtype.itemsize


def _rows_of_a_piece(column: Column) -> int:
    return max(1, min(ROWS, PIECE // max(1, _width(column))))


def _folder(files: Sequence[Path]) -> dict[str, Column]:
    return {file.stem: Sliced(np.load(file, mmap_mode="r", allow_pickle=False)) for file in files}


def _npz(path: Path) -> dict[str, Column]:
    found: dict[str, Column] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            mapped = member.compress_type == zipfile.ZIP_STORED
            found[member.filename.removesuffix(".npy")] = (
                _mapped(path, member.header_offset) if mapped else Deflated(path, member.filename)
            )
    return found


def _mapped(path: Path, offset: int) -> Sliced:
    """Returns an uncompressed array in a zip file. offset: of the header of its member in the file."""
    with path.open("rb") as file:
        file.seek(offset)
        name, extra = _HEADER.unpack(file.read(_HEADER.size))
        file.seek(name + extra, 1)
        shape, across, dtype = _array_header(file)
        if 0 in shape or shape == ():  # nothing to map
            return Sliced(np.fromfile(file, dtype, int(np.prod(shape, dtype=np.int64))).reshape(shape))
        return Sliced(np.memmap(path, dtype, "r", file.tell(), shape, "F" if across else "C"))


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, across, dtype = read(file)  # type: ignore[arg-type]
    if dtype.hasobject:
        raise UserError("it holds Python objects: save numbers and strings, as np.array(values, dtype=str)")
    return shape, across, dtype


def _hdf5(path: Path) -> dict[str, Column]:
    file, found = h5py.File(path, "r"), {}
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{name} is a link, which may lead to another file: store the values in its place")
        if file.get(name, getclass=True) is not h5py.Dataset:
            continue
        item: Any = file[name]
        if item.is_virtual or item.external:
            raise UserError(f"{name} has its values in another file: store them in this one")
        if item.chunks and math.prod(item.chunks) * item.dtype.itemsize > WIDEST:
            raise UserError(f"{name} is stored in chunks of {item.chunks}: a chunk may have {WIDEST:,} bytes")
        found[name] = Sliced(item)
    return found


def _parquet(path: Path) -> dict[str, Column]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError("it needs the package pyarrow: pip install pyarrow") from None
    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names
    if "x" not in names:
        raise UserError(
            f"there is no column x, with a list of numbers in each row; it holds {first_of(names, 5)}: make one of the "
            "columns with features, or save np.savez('features.npz', x=table[columns], y=..., split=...)"
        )
    found: dict[str, Column] = {"x": Listed(file, "x")}
    return found | {name: Values(file, name) for name in BESIDE if name in names}
