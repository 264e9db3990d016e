"""Loads and encodes the samples of a source in worker processes; results come back in order, few of them at once."""

import ctypes
import mmap
import multiprocessing
import os
import signal
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from fastlt.data.shards.encode import BadImage, Encoding, encode
from fastlt.data.shards.format import Encoded
from fastlt.data.sources.base import Source

CHUNK = 32  # samples a worker takes at once
AHEAD = 3  # chunks per worker that are being done or wait to be written: this bounds the memory
ARENA = 16 << 20  # bytes of memory shared with the workers, per chunk; only what is used becomes real


@dataclass(frozen=True)
class Stored:
    """An image ready to be written, with the CRC-32 of its bytes."""

    image: Encoded
    crc32: int


Result = Stored | str  # or the reason why an image is bad


class Workers:
    """A pool of `count` processes that load and encode. One process: the work is done in this one.

    The processes are forked: a source with millions of keys is shared, not sent, and they start at once. They use
    Pillow, NumPy and compiled kernels only, no thread pool of this process. Encoded bytes come back through shared
    memory, one arena a chunk; what does not fit there is sent through a pipe.
    """

    def __init__(self, source: Source, encoding: Encoding, count: int):
        self.source, self.encoding, self.count = source, encoding, count
        self._pool: ProcessPoolExecutor | None = None
        self._arenas: list[mmap.mmap] = []

    def __enter__(self) -> "Workers":
        global _job
        if self.count > 1:
            self._arenas = [mmap.mmap(-1, ARENA) for _ in range(AHEAD * self.count)]
            _job = self.source, self.encoding, self._arenas  # the children inherit it
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _die_with_parent, (os.getpid(),))
        return self

    def __exit__(self, *_: object) -> None:
        global _job
        _job = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for arena in self._arenas:
            arena.close()

    def results(self, split: str, raw: np.ndarray, start: int) -> Iterator[Result]:
        """What is stored for the samples from `start` on, in order. raw: bool [N], stored as pixels whatever else."""
        total = len(raw)
        if self._pool is None:
            for place in range(start, total):
                yield encode_sample(self.source, self.encoding, split, place, bool(raw[place]))
            return
        waiting: deque[tuple[int, Future[list[Result | _Placed]]]] = deque()
        free = list(range(len(self._arenas)))
        for first in range(start, total, CHUNK):
            if not free:
                yield from self._taken(*waiting[0])
                free.append(waiting.popleft()[0])
            arena = free.pop()
            pixels = raw[first : first + CHUNK].tolist()
            waiting.append((arena, self._pool.submit(_encode_chunk, split, first, pixels, arena)))
        for arena, future in waiting:
            yield from self._taken(arena, future)

    def _taken(self, arena: int, future: "Future[list[Result | _Placed]]") -> Iterator[Result]:
        """The results of a chunk, with their bytes from where the worker put them."""
        for result in future.result():
            if isinstance(result, _Placed):
                data = self._arenas[arena][result.start : result.end]
                result = Stored(replace(result.image, data=data), result.crc32)
            yield result


def encode_sample(source: Source, encoding: Encoding, split: str, place: int, raw: bool) -> Result:
    """One sample, loaded and encoded; the reason if it is bad."""
    try:
        image = encode(source.load(split, place), replace(encoding, kind="raw") if raw else encoding)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return Stored(image, zlib.crc32(image.data))


# --- in the worker processes ---


@dataclass(frozen=True)
class _Placed:
    """As Stored, with the bytes in the arena from `start` to `end` instead of in the image."""

    image: Encoded
    crc32: int
    start: int
    end: int


_job: tuple[Source, Encoding, list[mmap.mmap]] | None = None
_PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent ends


def _die_with_parent(parent: int) -> None:
    """A worker whose conversion was killed would wait for work for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _encode_chunk(split: str, first: int, raw: list[bool], arena: int) -> list[Result | _Placed]:
    assert _job is not None
    source, encoding, arenas = _job
    shared, results, used = arenas[arena], [], 0
    for place, pixels in enumerate(raw, first):
        result = encode_sample(source, encoding, split, place, pixels)
        if isinstance(result, Stored) and used + len(result.image.data) <= ARENA:
            start, used = used, used + len(result.image.data)
            shared[start:used] = result.image.data
            result = _Placed(replace(result.image, data=b""), result.crc32, start, used)
        results.append(result)
    return results
