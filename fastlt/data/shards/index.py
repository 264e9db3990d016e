"""Writes and reads index.h5, which has the position, label and size of every sample of each split.

The file is plain HDF5. dataset.json records its size, the offset and CRC-32 of each column, and the CRC-32 of all other
bytes. Columns are read by these offsets and not through HDF5, so reading follows no links, never allocates more memory
than the size of the file, and detects any damage.
"""

import os
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fastlt.core import hdf5
from fastlt.core.errors import UserError
from fastlt.data.shards import format as layout

# The columns that are read when a dataset is opened. Single values of `key` are read when they are needed.
INDEXED = {**layout.COLUMNS, "class_start": np.int64, "class_members": np.int64}
_NO_DIGEST = "0" * 64
_DIGEST = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class SplitIndex:
    """The index of a split with N samples and C classes.

    shard, offset, length, label, height, width, encoding, crc32: arrays [N] as described in shards/format.py.
    class_start int64 [C + 1], class_members int64 [N]: the sample ids of class j are
    class_members[class_start[j]:class_start[j + 1]].
    """

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    height: np.ndarray
    width: np.ndarray
    encoding: np.ndarray
    crc32: np.ndarray
    class_start: np.ndarray
    class_members: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def counts(self) -> np.ndarray:
        """The number of samples of each class, int64 [C]."""
        return np.diff(self.class_start)


def write_index(path: Path, about: dict[str, Any], splits: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Writes index.h5; returns `about` with its entries for the index and with the digest.

    about: the content of dataset.json without these two. splits: for each split the columns of INDEXED, and `key` and
    perhaps `group` (fixed-length bytes). Raises OSError.
    """
    values: list[tuple[int, np.ndarray]] = []

    def lay_out(file: h5py.File, digest: str = _NO_DIGEST) -> None:
        values.clear()
        file.attrs["schema"] = layout.SCHEMA
        file.attrs["dataset"] = digest
        for split, columns in splits.items():
            group = file.create_group(split)
            values.extend((hdf5.make_room(group, name, c.shape, c.dtype), c) for name, c in columns.items())

    blank = hdf5.laid_out(lay_out)
    places = iter([place for place, _ in values])
    described = {
        split: {
            name: {"offset": next(places), "bytes": column.nbytes, "crc32": _checksum(column)}
            for name, column in columns.items()
        }
        for split, columns in splits.items()
    }
    index = {"size": blank.size, "columns": described}
    about = {**about, "index": {**index, "crc32": _checksum_of_the_rest(blank, index)}}
    digest = layout.dataset_digest(about)
    hdf5.create(path, lambda file: lay_out(file, digest))
    hdf5.write_values(path, values)
    return {**about, "digest": digest}


def read_index(path: Path, about: dict[str, Any], check: bool = True) -> dict[str, SplitIndex]:
    """Reads index.h5; returns {split: index}.

    about: the content of dataset.json. check: whether to compare all bytes with their checksums, and the columns with
    each other. Raises UserError if the index is missing, damaged or of another dataset.
    """
    try:
        with _opened(path) as file:
            _check_owner(file, path, about)
            if check and (problem := damage_of_the_rest(file, about)):
                raise ValueError(problem)
            index = {}
            for split in about["splits"]:
                columns = {name: read_column(file, about, split, name) for name in INDEXED}
                for name in columns if check else ():
                    if problem := damage_of_column(columns[name], about, split, name):
                        raise ValueError(problem)
                index[split] = SplitIndex(**columns)
                if check and (problem := _contradiction(index[split], about, split)):
                    raise ValueError(f"{split}: {problem}")
            return index
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"index {path} is missing: convert the dataset again") from None
    except OSError as error:
        raise UserError(f"index {path} cannot be read ({error.strerror}): make it readable") from None
    except ValueError as error:
        raise UserError(f"index {path} is damaged ({error}): convert the dataset again") from None


def read_column(file: BinaryIO, about: dict[str, Any], split: str, name: str) -> np.ndarray:
    """Reads one column of an opened index. Raises ValueError if its recorded size or position is impossible."""
    place, samples = about["index"]["columns"][split][name], about["splits"][split]["samples"]
    kind = INDEXED[name] if name in INDEXED else f"S{place['bytes'] // max(1, samples)}"
    rows = len(about["class_names"]) + 1 if name == "class_start" else samples
    if place["bytes"] != rows * np.dtype(kind).itemsize or place["offset"] + place["bytes"] > about["index"]["size"]:
        raise ValueError(f"column {name} of {split} cannot have {rows} rows in {place['bytes']} bytes")
    file.seek(place["offset"])
    return np.fromfile(file, kind, rows)


def read_keys(path: Path, about: dict[str, Any], wanted: dict[str, list[int]]) -> dict[tuple[str, int], str]:
    """Reads the keys of some samples; returns {(split, sample): key}.

    about: the content of dataset.json. wanted: the samples of each split. Raises OSError if the file cannot be read,
    UserError if it is the index of another dataset, and ValueError if it is damaged.
    """
    keys = {}
    with _opened(path) as file:
        _check_owner(file, path, about)
        if problem := damage_of_the_rest(file, about):
            raise ValueError(problem)
        for split, samples in wanted.items():
            place = about["index"]["columns"][split]["key"]
            if _checksum_of_keys(file, place) != place["crc32"]:
                raise ValueError(f"column key of {split} does not match its checksum in dataset.json")
            width = place["bytes"] // about["splits"][split]["samples"]
            for sample in samples:
                file.seek(place["offset"] + sample * width)
                # Names that are not UTF-8 are decoded in the same way as file names.
                keys[split, sample] = file.read(width).rstrip(b"\0").decode("utf-8", "surrogateescape")
    return keys


def read_texts(path: Path, about: dict[str, Any], split: str, name: str) -> np.ndarray:
    """Reads the column `key` or `group` of a split, as bytes [N] of fixed length. Raises UserError if it is damaged."""
    try:
        with _opened(path) as file:
            _check_owner(file, path, about)
            column = read_column(file, about, split, name)
            if problem := damage_of_column(column, about, split, name):
                raise ValueError(problem)
            return column
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"index {path} cannot be read ({error.strerror}): make it readable") from None
    except ValueError as error:
        raise UserError(f"index {path} is damaged ({error}): convert the dataset again") from None


def damage_of_column(column: np.ndarray, about: dict[str, Any], split: str, name: str) -> str:
    """Returns a message if a column does not match its checksum, else ""."""
    same = _checksum(column) == about["index"]["columns"][split][name]["crc32"]
    return "" if same else f"column {name} of {split} does not match its checksum in dataset.json"


def damage_of_the_rest(file: Any, about: dict[str, Any]) -> str:
    """Returns a message if the bytes between the columns (the HDF5 structures) are damaged, else ""."""
    same = _checksum_of_the_rest(file, about["index"]) == about["index"]["crc32"]
    return "" if same else "what lies between its columns does not match its checksum in dataset.json"


def _opened(path: Path) -> BinaryIO:
    """Opens a regular file. Raises OSError, and UserError for anything else: reading a pipe might wait forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"index {path} is no file: convert the dataset again")
    return os.fdopen(descriptor, "rb")


def _check_owner(file: BinaryIO, path: Path, about: dict[str, Any]) -> None:
    """Raises UserError for the index of another dataset, and ValueError if its size is not the recorded one."""
    found = os.fstat(file.fileno()).st_size
    owner = _DIGEST.search(file.read(1 << 14))
    known = (about["digest"], layout.dataset_digest(about))  # if the digest was edited, another check reports it
    if owner and owner[0].decode() not in known:
        raise UserError(
            f"{path} is the index of another dataset ({owner[0].decode()[:12]}, dataset.json says "
            f"{about['digest'][:12]}): put its own index back or convert again"
        )
    if found != about["index"]["size"]:
        raise ValueError(f"{found} bytes, dataset.json says {about['index']['size']}")


def _contradiction(index: SplitIndex, about: dict[str, Any], split: str) -> str:
    """Returns a message for values in the columns of a split that are impossible or contradict each other, else "".

    It takes time linear in N.
    """
    classes, sizes = len(about["class_names"]), np.array([shard["size"] for shard in about["shards"]], np.int64)
    if not len(index):
        return "no samples"
    limits = {
        "label": (0, classes - 1), "shard": (0, len(sizes) - 1), "encoding": (0, len(layout.EXTENSIONS) - 1),
        "height": (1, 1 << 30), "width": (1, 1 << 30), "offset": (0, 1 << 62), "length": (1, 1 << 62),
        "class_members": (0, len(index) - 1), "class_start": (0, len(index)),
    }  # fmt: skip
    for name, (least, most) in limits.items():
        column = getattr(index, name)
        if (low := column.min()) < least or (high := column.max()) > most:
            return f"{name} holds {low if low < least else high}, allowed are {least} to {most}"
    if (index.offset + index.length > sizes[index.shard]).any():
        return "samples end after their shards"
    raw = index.encoding == layout.RAW
    if raw.any() and (3 * index.height[raw].astype(np.int64) * index.width[raw] > index.length[raw]).any():
        return "raw samples are shorter than their pixels"
    counts = np.bincount(index.label, minlength=classes)
    if (
        not np.array_equal(index.counts, counts)
        or index.class_start[0]
        or counts.tolist() != about["splits"][split]["counts"]
    ):
        return "class_start, the labels and the counts of dataset.json are at odds"
    labels = index.label[index.class_members]
    if (np.diff(labels) < 0).any() or ((np.diff(index.class_members) <= 0) & (np.diff(labels) == 0)).any():
        return "class_members is not the order of the labels"
    return ""


def _checksum(column: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data)


def _checksum_of_keys(file: BinaryIO, place: dict[str, int]) -> int:
    """Returns the CRC-32 of the column of keys, read in pieces because it may be larger than the memory."""
    file.seek(place["offset"])
    found, left = 0, place["bytes"]
    while left and (piece := file.read(min(left, 1 << 20))):
        found, left = zlib.crc32(piece, found), left - len(piece)
    return found


def _checksum_of_the_rest(file: Any, index: dict[str, Any]) -> int:
    """Returns the CRC-32 of the bytes between the columns. The digest counts as zeros, as it depends on the CRC."""
    found = 0
    for begin, end in _gaps(index):
        file.seek(begin)
        found = zlib.crc32(_DIGEST.sub(_NO_DIGEST.encode(), file.read(end - begin)), found)
    return found


def _gaps(index: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yields (first byte, byte after the last) of each range between the columns."""
    end = 0
    for place in sorted((c["offset"], c["bytes"]) for split in index["columns"].values() for c in split.values()):
        yield end, place[0]
        end = place[0] + place[1]
    yield end, index["size"]
