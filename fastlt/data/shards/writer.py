"""Writes shards in such a way that a killed conversion continues after its last complete shard."""

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from fastlt.core.files import sync
from fastlt.core.log import say
from fastlt.data.shards import format as layout
from fastlt.data.shards.durable import Damaged, first_problem, read_sealed, write_sealed
from fastlt.data.shards.format import Encoded

BUFFER = 1 << 20  # bytes written at once


# {file name: (size in bytes, SHA-256)} of the files of a dataset.
Files = dict[str, tuple[int, str]]


class Behind(NamedTuple):
    """Where the shards of a split begin that are added to a dataset: the first shard and the first sample number."""

    shard: int = 0
    sample: int = 0


FIRST = Behind()


def images_digest(fingerprint: Callable[[int], bytes], first: int, end: int, bad: Iterable[int]) -> str:
    """Returns a SHA-256 of the fingerprints of the samples from `first` to `end` that are not bad."""
    digest, left_out = hashlib.sha256(), set(bad)
    for place in range(first, end):
        if place not in left_out:
            digest.update(fingerprint(place))
    return digest.hexdigest()


class SplitWriter:
    """Writes the shards of one split into the work folder of a conversion.

    folder: where shards are written. journal: the folder of the journal.
    split: the name of the split.
    shard_bytes: the target size of a shard.
    seal: bytes that identify the conversion; the pages of another conversion are not used.
    behind: where the numbers of shards and samples begin.
    fingerprint: a function from the position of a sample in the source to bytes that change when its image does. By
        them shards are found whose images have changed since.

    Every complete shard has a page in the journal with its rows of the index, its position in the source, and size and
    hash of its files. The page is written last. A shard without a page is written again. So is a shard whose files do
    not match its page, and all shards after it. `position` is the sample of the source at which to continue.
    """

    def __init__(
        self,
        folder: Path,
        journal: Path,
        split: str,
        shard_bytes: int,
        seal: bytes,
        behind: Behind = FIRST,
        fingerprint: Callable[[int], bytes] = lambda place: b"",
    ):
        self.folder, self.journal, self.split, self.shard_bytes = folder, journal, split, shard_bytes
        self.seal, self.behind, self._fingerprint = seal, behind, fingerprint
        self.bytes = 0  # written by this object
        self._background = ThreadPoolExecutor(1)
        self._flushing: Future[None] | None = None
        self._done: list[dict[str, np.ndarray]] = []
        self._take_up()
        self._resume()

    def _take_up(self) -> None:
        """Finds the complete shards of an earlier, interrupted try whose files are undamaged."""
        problem = None
        try:
            while (page := self._read(self._next)) is not None:
                self._done.append(page)
            if any(number > self._next for number in self._numbers(self.journal)):
                problem = f"{self._page(self._next)} is missing"
        except Damaged as error:
            problem = str(error)
        files = [(self.folder / name, *file) for rows in self._done for name, file in _files(rows).items()]
        if found := first_problem(files, f"checking {self.split}"):
            place, problem = found
            del self._done[place // 2 :]  # each shard has two files
        if problem:
            say(f"{problem}: {self.split} is done again from shard {self._next} on")
        self._drop(self._next)

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
        self._samples = self.behind.sample + sum(len(rows["label"]) for rows in self._done)
        self._start_shard()

    @property
    def shards(self) -> int:
        """The number of complete shards."""
        return len(self._done)

    @property
    def _next(self) -> int:
        """The number of the shard after the complete ones."""
        return self.behind.shard + len(self._done)

    def forget(self, mended: Callable[[int], bool]) -> None:
        """Drops the first shard whose images are not those of the source any more, or that left out a bad sample which
        is good by now, and all shards after it.

        mended: a function from the position of a sample in the source to whether it is good now.
        """
        first = 0
        for number, rows in enumerate(self._done, self.behind.shard):
            end, bad = int(rows["position"]), rows["bad_places"].tolist()
            changed = images_digest(self._fingerprint, first, end, bad) != str(rows["images"])
            if changed:
                say(f"images of {self.split} have changed since: it is done again from shard {number} on")
            if changed or any(map(mended, bad)):
                self._drop(number)
                del self._done[number - self.behind.shard :]
                self._resume()
                return
            first = end

    def _page(self, number: int) -> Path:
        return self.journal / (layout.shard_name(self.split, number) + ".page")

    def _numbers(self, folder: Path) -> dict[int, list[Path]]:
        """Returns {number of a shard: its files in a folder} for this split."""
        found: dict[int, list[Path]] = {}
        for path in folder.glob(f"{self.split}-*"):
            digits = path.name.removeprefix(f"{self.split}-").partition(".")[0]
            if digits.isdecimal():
                found.setdefault(int(digits), []).append(path)
        return found

    def _drop(self, first: int) -> None:
        """Removes all files of the shards with the number `first` and higher."""
        for folder in (self.journal, self.folder):
            for number, paths in self._numbers(folder).items():
                for path in paths if number >= first else ():
                    path.unlink()

    def _start_shard(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._keys: list[str] = []
        self._colours: list[str] = []
        self._looks: list[int] = []
        self._lines: list[str] = []
        self._bad: list[tuple[str, str]] = []
        self._bad_places: list[int] = []
        self._size = 0
        self._hash, self._images = hashlib.sha256(), hashlib.sha256()
        self._file = None

    def add(self, key: str, label: int, image: Encoded, crc32: int) -> None:
        """Adds the next sample of the source. key: its name there. label: its class. crc32: the CRC-32 of its bytes."""
        length = len(image.data)
        before, behind, line = layout.sample_frame(self._samples, image.encoding, length, label)
        if self._rows and self._size + len(before) + length + len(behind) + len(layout.TAR_END) > self.shard_bytes:
            self._finish_shard()
        if self._file is None:
            name = layout.shard_name(self.split, self._next)
            self._file = (self.folder / name).open("wb", buffering=BUFFER)
        offset = self._size + len(before)
        self._lines.append(line.format(offset, layout.label_offset(offset, length)))
        self._rows.append((offset, length, label, image.height, image.width, image.encoding, crc32))
        self._keys.append(key)
        self._colours.append(image.colour)
        self._looks.append(image.look)
        self._images.update(self._fingerprint(self.position))
        for data in (before, image.data, behind):
            self._put(data)
        self._samples += 1
        self.position += 1

    def quarantine(self, key: str, reason: str) -> None:
        """Leaves out the next sample of the source, for the given reason."""
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
        name = layout.shard_name(self.split, self._next)
        index = (layout.index_header(len(self._rows)) + "".join(self._lines)).encode()
        columns = zip(*self._rows, strict=True)
        names = ("offset", "length", "label", "height", "width", "encoding", "crc32")
        rows = {k: np.array(v, layout.COLUMNS[k]) for k, v in zip(names, columns, strict=True)}
        rows["key"] = np.array([key.encode() for key in self._keys])
        rows["colour"] = np.array(self._colours)
        rows["look"] = np.array(self._looks, np.uint64)
        rows["quarantined"] = np.array(self._bad, dtype=np.str_).reshape(-1, 2)
        rows["bad_places"] = np.array(self._bad_places, np.int64)
        rows["position"] = np.array(self.position)
        rows["images"] = np.array(self._images.hexdigest())
        rows["size"] = np.array(self._size)
        rows["sha256"] = np.array(self._hash.hexdigest())
        rows["name"] = np.array(name)
        rows["index_size"] = np.array(len(index))
        rows["index_sha256"] = np.array(hashlib.sha256(index).hexdigest())
        self._wait()  # only one shard at a time is flushed to disk, while the next one is written
        self._flushing = self._background.submit(
            _flush,
            self._file,
            self.folder / layout.index_name(name),
            index,
            self._page(self._next),
            self.seal,
            rows,
        )
        self._done.append(rows)
        self._start_shard()

    def _wait(self) -> None:
        """Waits until the previous shard is on disk; raises the error if that failed."""
        if self._flushing is not None:
            self._flushing.result()

    def finish(self) -> list[dict[str, np.ndarray]]:
        """Completes the last shard; returns the journal pages of all shards."""
        if self._rows:
            self._finish_shard()
        self._wait()
        return self._done

    def looks(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (perceptual hash uint64 [N], position in the source int64 [N]) of all samples that were written."""
        parts = self.finish()
        places = np.arange(self.position)
        places = np.delete(places, [place for place, _, _ in self.bad()])
        return np.concatenate([np.empty(0, np.uint64), *(part["look"] for part in parts)]), places

    def pages(self) -> list[Path]:
        """Returns the journal pages of all shards."""
        return [self._page(self.behind.shard + number) for number in range(len(self.finish()))]

    def bad(self) -> list[tuple[int, str, str]]:
        """Returns the position in the source of every sample that was left out, its key and the reason."""
        places = [place for rows in self.finish() for place in rows["bad_places"].tolist()] + self._bad_places
        return [(place, key, reason) for place, (key, reason) in zip(places, self.quarantined, strict=True)]

    def close(self) -> None:
        """Removes the files of shards that are not complete, and frees their space."""
        self._background.shutdown()
        if self._file is not None:
            with contextlib.suppress(OSError):  # on a full disk closing fails too; the first error is already reported
                self._file.close()
        complete = self.behind.shard
        while self._page(complete).exists():
            complete += 1
        self._drop(complete)

    def files(self) -> Files:
        """Returns the files of all complete shards: tars and DALI indices."""
        return {name: file for rows in self._done for name, file in _files(rows).items()}


def _files(rows: dict[str, np.ndarray]) -> Files:
    """Returns the two files of a shard, given its journal page."""
    name = str(rows["name"])
    return {
        name: (int(rows["size"]), str(rows["sha256"])),
        layout.index_name(name): (int(rows["index_size"]), str(rows["index_sha256"])),
    }


def _flush(file: BinaryIO, beside: Path, index: bytes, page: Path, seal: bytes, rows: dict[str, np.ndarray]) -> None:
    """Flushes a shard and its DALI index (`beside`) to disk, then writes their page of the journal."""
    with file:
        file.flush()
        os.fsync(file.fileno())
    beside.write_bytes(index)
    sync(beside)
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **rows)
    write_sealed(page, data.getvalue(), seal + page.name.encode())


class Writer(Protocol):
    """What has written a split: SplitWriter, or LinkWriter of encode=link."""

    quarantined: list[list[str]]

    def finish(self) -> list[dict[str, np.ndarray]]:
        """Returns the columns of every shard, its size and its SHA-256."""
        ...

    def files(self) -> Files:
        """Returns {name: (size, SHA-256)} of the files of the shards."""
        ...
