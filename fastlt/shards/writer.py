"""Writes shards, one split after the other, so that a killed conversion goes on behind its last complete shard."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from fastlt.shards import format as layout
from fastlt.shards.format import Encoded

BUFFER = 1 << 20  # bytes handed to the system at once


class SplitWriter:
    """Shards of one split in a folder that is not the finished dataset yet.

    Every complete shard has a page in the folder `journal` (its rows of the index, how far in the source it reached,
    its hash), written last: a shard without one does not count and is written again. `position` is the place in the
    source at which to go on.
    """

    def __init__(self, folder: Path, journal: Path, split: str, shard_bytes: int):
        self.folder, self.journal, self.split, self.shard_bytes = folder, journal, split, shard_bytes
        self.bytes = 0  # written by this object
        self._background = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None
        self._done: list[dict[str, np.ndarray]] = []
        while (page := self._page(len(self._done))).exists():
            with np.load(page) as rows:
                self._done.append(dict(rows))
        self._resume()

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
                for later in range(number, len(self._done)):
                    name = layout.shard_name(self.split, later)
                    for path in (self._page(later), self.folder / name, self.folder / layout.index_name(name)):
                        path.unlink(missing_ok=True)
                del self._done[number:]
                self._resume()
                return

    def _page(self, number: int) -> Path:
        return self.journal / (layout.shard_name(self.split, number) + ".npz")

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
        index = layout.index_header(len(self._rows)) + "".join(self._lines)
        (self.folder / layout.index_name(name)).write_text(index)
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
        self._wait()  # one shard at a time goes to the disk, while the next is written to memory
        self._flushing = self._background.submit(_flush, self._file, self._page(len(self._done)), rows)
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
        for number in range(len(self._done) + 1):
            if not self._page(number).exists():
                (self.folder / layout.shard_name(self.split, number)).unlink(missing_ok=True)


def _flush(file: BinaryIO, page: Path, rows: dict[str, np.ndarray]) -> None:
    """Brings a shard to the disk, then its page of the journal."""
    with file:
        file.flush()
        os.fsync(file.fileno())
    temporary = page.with_suffix(".tmp")
    with temporary.open("wb") as journal:
        np.savez(journal, allow_pickle=False, **rows)
        journal.flush()
        os.fsync(journal.fileno())
    temporary.replace(page)


def write_dataset(folder: Path, writers: dict[str, SplitWriter], about: dict[str, Any]) -> str:
    """Writes index.h5 and dataset.json for shards that are complete.

    writers: finished, per split. about: the fields of dataset.json that are known from outside (name, class_names,
    options, ...). Returns the digest.
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
    digest = layout.dataset_digest(described)
    write_index(folder / layout.INDEX_FILE, columns, classes, digest)
    with (folder / layout.INDEX_FILE).open("rb") as file:
        index_hash = hashlib.file_digest(file, "sha256").hexdigest()
    described = {**described, "digest": digest, "index_sha256": index_hash}
    (folder / layout.DATASET_FILE).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return digest


def write_index(path: Path, splits: dict[str, dict[str, np.ndarray]], classes: int, digest: str) -> None:
    """Writes index.h5. splits: per split the columns of format.COLUMNS and `key` (bytes); digest: the dataset's."""
    with h5py.File(path, "w", libver="v110") as file:
        file.attrs["schema"] = layout.SCHEMA
        file.attrs["dataset"] = digest
        for split, columns in splits.items():
            group = file.create_group(split)
            for name, values in columns.items():
                group.create_dataset(name, data=values)
            counts = np.bincount(columns["label"], minlength=classes)
            group.create_dataset("class_start", data=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
            group.create_dataset("class_members", data=np.argsort(columns["label"], kind="stable").astype(np.int64))


def publish(finished: Path, out: Path) -> None:
    """Puts the finished folder in its place; what was there before goes only when the new one stands."""
    old = out.with_name(out.name + ".old")
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)  # of an earlier attempt that was killed here
        out.rename(old)
    finished.rename(out)
    shutil.rmtree(old, ignore_errors=True)
