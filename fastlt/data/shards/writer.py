"""Writes shards, one split after the other, so that a killed conversion goes on behind its last complete shard."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fastlt.core import hdf5
from fastlt.core.log import say
from fastlt.data.shards import format as layout
from fastlt.data.shards.durable import Damaged, first_problem, read_sealed, sync, write_sealed
from fastlt.data.shards.format import Encoded

BUFFER = 1 << 20  # bytes handed to the system at once


# Of the files of a dataset, by name: size in bytes and SHA-256.
Files = dict[str, tuple[int, str]]


class SplitWriter:
    """Shards of one split in a folder that is not the finished dataset yet.

    Every complete shard has a page in the folder `journal` (its rows of the index, how far in the source it reached,
    size and hash of its files), written last: a shard without one does not count and is written again, and so is one
    whose files are not what its page says, with all behind it. `position` is the place in the source at which to go on.
    seal: identifies the conversion; pages of another one are not taken up.
    """

    def __init__(self, folder: Path, journal: Path, split: str, shard_bytes: int, seal: bytes):
        self.folder, self.journal, self.split, self.shard_bytes = folder, journal, split, shard_bytes
        self.seal = seal
        self.bytes = 0  # written by this object
        self._background = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None
        self._done: list[dict[str, np.ndarray]] = []
        self._take_up()
        self._resume()

    def _take_up(self) -> None:
        """Finds the complete shards of an earlier try that are still what was written."""
        problem = None
        try:
            while (page := self._read(len(self._done))) is not None:
                self._done.append(page)
            if any(number > len(self._done) for number in self._numbers(self.journal)):
                problem = f"{self._page(len(self._done))} is missing"
        except Damaged as error:
            problem = str(error)
        files = [(self.folder / name, *file) for rows in self._done for name, file in _files(rows).items()]
        if found := first_problem(files, f"checking {self.split}"):
            place, problem = found
            del self._done[place // 2 :]  # each shard has two files
        if problem:
            say(f"{problem}: {self.split} is done again from shard {len(self._done)} on")
        self._drop(len(self._done))

    def _read(self, number: int) -> dict[str, np.ndarray] | None:
        page = self._page(number)
        data = read_sealed(page, self.seal + page.name.encode())
        if data is None:
            return None
        with np.load(io.BytesIO(data)) as rows:
            return dict(rows)

    def _resume(self) -> None:
        self.position = int(self._done[-1]["position"]) if self._done else 0
        self.quarantined: list[list[str]] = [pair for rows in self._done for pair in rows["quarantined"].tolist()]
        self._samples = sum(len(rows["label"]) for rows in self._done)
        self._start_shard()

    @property
    def shards(self) -> int:
        """Complete shards."""
        return len(self._done)

    def forget(self, mended: Callable[[int], bool]) -> None:
        """Drops complete shards from the first one on that left out a sample which is `mended` (by its place)."""
        for number, rows in enumerate(self._done):
            if any(mended(int(place)) for place in rows["bad_places"]):
                self._drop(number)
                del self._done[number:]
                self._resume()
                return

    def _page(self, number: int) -> Path:
        return self.journal / (layout.shard_name(self.split, number) + ".page")

    def _numbers(self, folder: Path) -> dict[int, list[Path]]:
        """The files of this split's shards in a folder, by number of the shard."""
        found: dict[int, list[Path]] = {}
        for path in folder.glob(f"{self.split}-*"):
            digits = path.name.removeprefix(f"{self.split}-").partition(".")[0]
            if digits.isdecimal():
                found.setdefault(int(digits), []).append(path)
        return found

    def _drop(self, first: int) -> None:
        """Removes all files of the shards from number `first` on."""
        for folder in (self.journal, self.folder):
            for number, paths in self._numbers(folder).items():
                for path in paths if number >= first else ():
                    path.unlink()

    def _start_shard(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._keys: list[str] = []
        self._colours: list[str] = []
        self._lines: list[str] = []
        self._bad: list[tuple[str, str]] = []
        self._bad_places: list[int] = []
        self._size = 0
        self._hash = hashlib.sha256()
        self._file = None

    def add(self, key: str, label: int, image: Encoded, crc32: int) -> None:
        """The next sample of the source; crc32: of its bytes."""
        length = len(image.data)
        before, behind, line = layout.sample_frame(self._samples, image.encoding, length, label)
        if self._rows and self._size + len(before) + length + len(behind) + len(layout.TAR_END) > self.shard_bytes:
            self._finish_shard()
        if self._file is None:
            name = layout.shard_name(self.split, len(self._done))
            self._file = (self.folder / name).open("wb", buffering=BUFFER)
        offset = self._size + len(before)
        self._lines.append(line.format(offset, layout.label_offset(offset, length)))
        self._rows.append((offset, length, label, image.height, image.width, image.encoding, crc32))
        self._keys.append(key)
        self._colours.append(image.colour)
        for data in (before, image.data, behind):
            self._put(data)
        self._samples += 1
        self.position += 1

    def quarantine(self, key: str, reason: str) -> None:
        """The next sample of the source is left out."""
        self._bad.append((key, reason))
        self._bad_places.append(self.position)
        self.quarantined.append([key, reason])
        self.position += 1

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)
        self.bytes += len(data)

    def _finish_shard(self) -> None:
        assert self._file is not None
        self._put(layout.TAR_END)
        name = layout.shard_name(self.split, len(self._done))
        index = (layout.index_header(len(self._rows)) + "".join(self._lines)).encode()
        columns = zip(*self._rows, strict=True)
        names = ("offset", "length", "label", "height", "width", "encoding", "crc32")
        rows = {k: np.array(v, layout.COLUMNS[k]) for k, v in zip(names, columns, strict=True)}
        rows["key"] = np.array([key.encode() for key in self._keys])
        rows["colour"] = np.array(self._colours)
        rows["quarantined"] = np.array(self._bad, dtype=np.str_).reshape(-1, 2)
        rows["bad_places"] = np.array(self._bad_places, np.int64)
        rows["position"] = np.array(self.position)
        rows["size"] = np.array(self._size)
        rows["sha256"] = np.array(self._hash.hexdigest())
        rows["name"] = np.array(name)
        rows["index_size"] = np.array(len(index))
        rows["index_sha256"] = np.array(hashlib.sha256(index).hexdigest())
        self._wait()  # one shard at a time goes to the disk, while the next is written to memory
        self._flushing = self._background.submit(
            _flush,
            self._file,
            self.folder / layout.index_name(name),
            index,
            self._page(len(self._done)),
            self.seal,
            rows,
        )
        self._done.append(rows)
        self._start_shard()

    def _wait(self) -> None:
        """Until the shard before is complete; raises what kept it from that."""
        if self._flushing is not None:
            self._flushing.result()

    def finish(self) -> list[dict[str, np.ndarray]]:
        """Completes the last shard; the rows of all shards."""
        if self._rows:
            self._finish_shard()
        self._wait()
        return self._done

    def close(self) -> None:
        """Lets go of shards that will not be completed now, and of the space they took."""
        self._background.shutdown()
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk even closing fails, and the first error is told already
                self._file.close()
        complete = 0
        while self._page(complete).exists():
            complete += 1
        self._drop(complete)

    def files(self) -> Files:
        """All complete shards and the files beside them."""
        return {name: file for rows in self._done for name, file in _files(rows).items()}


def _files(rows: dict[str, np.ndarray]) -> Files:
    """The two files of a shard."""
    name = str(rows["name"])
    return {
        name: (int(rows["size"]), str(rows["sha256"])),
        layout.index_name(name): (int(rows["index_size"]), str(rows["index_sha256"])),
    }


def _flush(file: BinaryIO, beside: Path, index: bytes, page: Path, seal: bytes, rows: dict[str, np.ndarray]) -> None:
    """Brings a shard and the index `beside` it to the disk, then their page of the journal."""
    with file:
        file.flush()
        os.fsync(file.fileno())
    beside.write_bytes(index)
    sync(beside)
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **rows)
    write_sealed(page, data.getvalue(), seal + page.name.encode())


def write_dataset(folder: Path, writers: dict[str, SplitWriter], about: dict[str, Any]) -> Files:
    """Writes index.h5 and dataset.json for shards that are complete, and brings them to the disk.

    writers: finished, per split. about: the fields of dataset.json that are known from outside (name, class_names,
    options, ...). Returns all files of the dataset.
    """
    classes = len(about["class_names"])
    shards: list[dict[str, Any]] = []
    columns: dict[str, dict[str, np.ndarray]] = {}
    colours: dict[str, int] = {}
    summary = {}
    for split, writer in writers.items():
        parts = writer.finish()
        column = {name: np.concatenate([p[name] for p in parts]) for name in layout.COLUMNS if name != "shard"}
        column["key"] = np.concatenate([p["key"] for p in parts])
        numbers = [np.full(len(p["label"]), len(shards) + i, np.int32) for i, p in enumerate(parts)]
        column["shard"] = np.concatenate(numbers)
        columns[split] = column
        for i, part in enumerate(parts):
            name = layout.shard_name(split, i)
            shards.append({"name": name, "size": int(part["size"]), "sha256": str(part["sha256"])})
            for colour in part["colour"].tolist():
                if colour:
                    colours[colour] = colours.get(colour, 0) + 1
        counts = np.bincount(column["label"], minlength=classes)
        encodings = np.bincount(column["encoding"], minlength=len(layout.EXTENSIONS))
        named = dict(zip(layout.EXTENSIONS, encodings.tolist(), strict=True))
        summary[split] = {
            "samples": len(column["label"]),
            "counts": counts.tolist(),
            "encodings": {name: count for name, count in named.items() if count},
        }
    bad = {
        split: [{"key": key, "reason": reason} for key, reason in writer.quarantined]
        for split, writer in writers.items()
    }
    described = {
        "schema": layout.SCHEMA,
        **about,
        "splits": summary,
        "colours": dict(sorted(colours.items())),
        "quarantined": {split: rows for split, rows in bad.items() if rows},
        "shards": shards,
    }
    write_description(folder, described, columns)
    files = {name: file for writer in writers.values() for name, file in writer.files().items()}
    return files | {name: _finished(folder / name) for name in (layout.INDEX_FILE, layout.DATASET_FILE)}


def _finished(path: Path) -> tuple[int, str]:
    """Brings a file to the disk; its size and SHA-256."""
    sync(path)
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def write_description(folder: Path, about: dict[str, Any], splits: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes index.h5 and dataset.json. Raises OSError.

    about: all of dataset.json but the index's checksums and the digest. splits: of each the columns of format.COLUMNS
    and `key` (bytes).
    """
    columns = {split: layout.indexed(column, len(about["class_names"])) for split, column in splits.items()}
    checksums = {split: {name: layout.checksum(c) for name, c in column.items()} for split, column in columns.items()}
    about = {**about, "index": checksums}
    digest = layout.dataset_digest(about)
    _write_index(folder / layout.INDEX_FILE, columns, digest)
    text = json.dumps({**about, "digest": digest}, indent=1, ensure_ascii=False) + "\n"
    (folder / layout.DATASET_FILE).write_text(text)


def _write_index(path: Path, splits: dict[str, dict[str, np.ndarray]], digest: str) -> None:
    values: list[tuple[int, np.ndarray]] = []

    def lay_out(file: h5py.File) -> None:
        file.attrs["schema"] = layout.SCHEMA
        file.attrs["dataset"] = digest
        for split, columns in splits.items():
            group = file.create_group(split)
            values.extend(
                (hdf5.make_room(group, name, column.shape, column.dtype), column) for name, column in columns.items()
            )

    hdf5.create(path, lay_out)
    hdf5.write_values(path, values)
