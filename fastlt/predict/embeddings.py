"""Writes features of images into .parquet, .h5 and .npz files, piece by piece."""

import importlib
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from fastlt.core import hdf5
from fastlt.core.errors import UserError
from fastlt.core.files import replacing

ROWS = 8192  # rows that are in memory at once
_EPOCH = (1980, 1, 1, 0, 0, 0)  # time of the members of a zip file, so that equal features give equal bytes


def check_ending(path: Path) -> None:
    """Raises UserError if the name of a file of features has another ending, or needs a package that is missing."""
    if path.suffix not in _WRITERS:
        raise UserError(f"--features={path}: allowed endings are {', '.join(_WRITERS)}")
    if path.suffix == ".parquet":
        _pyarrow()


def raw(first: int, rows: Iterable[int], features: np.ndarray) -> bytes:
    """Returns features as they are kept until the file is complete: of each row, the number of its image and itself.

    first: number of the first image of a batch. rows: places in that batch, [n]. features: float32 [n, D].
    """
    found = np.empty(len(features), _record(features.shape[1]))
    found["image"], found["x"] = first + np.fromiter(rows, np.int64, len(features)), features
    return found.tobytes()


class Source(NamedTuple):
    """Features to write. path: of the `raw` bytes. dim: D. names: the paths of all images, in their order."""

    path: Path
    dim: int
    names: Iterable[str]

    @property
    def rows(self) -> int:
        """Returns the number of features N."""
        return self.path.stat().st_size // _record(self.dim).itemsize

    def pieces(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields (names of the images [n], features float32 [n, D]) of consecutive pieces."""
        names = enumerate(self.names)
        with self.path.open("rb") as file:
            while len(piece := np.fromfile(file, _record(self.dim), ROWS)):
                wanted = iter(piece["image"].tolist())
                image, found = next(wanted), []
                for number, name in names:
                    if number == image:
                        found.append(_text(name))
                        if (image := next(wanted, None)) is None:
                            break
                yield found, piece["x"]


def write(source: Source, out: Path) -> None:
    """Writes the columns `path`, strings [N], and `x`, float32 [N, D], into a file, by the ending of its name.

    No more than ROWS features are in memory. Names that are not UTF-8 have escapes in their place. Raises NotWritten.
    """
    with replacing(out, f"--features={out}") as temporary:
        _WRITERS[out.suffix](source, temporary)


def _write_parquet(source: Source, out: Path) -> None:
    pyarrow, parquet = _pyarrow()
    kind = pyarrow.list_(pyarrow.float32(), source.dim)
    schema = pyarrow.schema([("path", pyarrow.string()), ("x", kind)])
    with out.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for names, x in source.pieces():
            flat = pyarrow.FixedSizeListArray.from_arrays(np.ascontiguousarray(x).reshape(-1), type=kind)
            writer.write_table(pyarrow.table([pyarrow.array(names, pyarrow.string()), flat], schema))


def _write_hdf5(source: Source, out: Path) -> None:
    length = _longest(source, lambda name: len(name.encode()))
    places: dict[str, int] = {}

    def lay_out(file: h5py.File) -> None:
        places["path"] = hdf5.make_room(file, "path", (source.rows,), h5py.string_dtype("utf-8", length))
        places["x"] = hdf5.make_room(file, "x", (source.rows, source.dim), np.dtype("<f4"))

    def values() -> Iterator[tuple[int, np.ndarray]]:
        row = 0
        for names, x in source.pieces():
            texts = np.array([name.encode() for name in names], f"S{length}")
            yield places["path"] + row * length, texts
            yield places["x"] + row * 4 * source.dim, x
            row += len(x)

    hdf5.create(out, lay_out)
    hdf5.write_values(out, values())


def _write_npz(source: Source, out: Path) -> None:
    text = np.dtype(f"<U{_longest(source, len)}")
    with zipfile.ZipFile(out, "w") as archive:
        # Features are not compressed, so that they can be mapped into memory.
        with _member(archive, "x.npy", zipfile.ZIP_STORED, (source.rows, source.dim), np.dtype("<f4")) as file:
            for _, x in source.pieces():
                file.write(np.ascontiguousarray(x).tobytes())
        with _member(archive, "path.npy", zipfile.ZIP_DEFLATED, (source.rows,), text) as file:
            for names, _ in source.pieces():
                file.write(np.array(names, text).tobytes())


def _member(archive: zipfile.ZipFile, name: str, packed: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Opens a member of an archive for the values of an array, after its header."""
    about = zipfile.ZipInfo(name, _EPOCH)
    about.compress_type = packed
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)  # type: ignore[arg-type]
    file = archive.open(about, "w", force_zip64=True)
    file.write(header.getvalue())
    return file


_WRITERS = {".parquet": _write_parquet, ".h5": _write_hdf5, ".npz": _write_npz}


def _longest(source: Source, measure: Any) -> int:
    return max((measure(name) for names, _ in source.pieces() for name in names), default=1)


def _record(dim: int) -> np.dtype:
    return np.dtype([("image", "<i8"), ("x", "<f4", (dim,))])


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> list[Any]:
    try:
        return [importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet")]
    except ImportError:
        raise UserError("--features=FILE.parquet needs the package pyarrow: pip install pyarrow") from None
