"""Loads and encodes the samples of a source in worker processes. Results come back in order, a few chunks at a time."""

import ctypes
import mmap
import multiprocessing
import os
import signal
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Protocol

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.shards.encode import BadImage, Encoding, encode
from fastlt.data.shards.format import Encoded
from fastlt.data.sources.base import Source

CHUNK = 32  # samples that a worker takes at once
AHEAD = 3  # chunks per worker that are encoded or wait to be written; this bounds the memory
ARENA = 16 << 20  # bytes of memory shared with the workers, per chunk; the system allocates only pages that are used


@dataclass(frozen=True)
class Stored:
    """An encoded image that is ready to be written, with the CRC-32 of its bytes."""

    image: Encoded
    crc32: int


Result = Stored | str  # a string says why an image is bad


class Results(Protocol):
    """What encoded images come from: Workers, or the parts of a conversion."""

    encoding: Encoding

    def results(self, split: str, raw: np.ndarray, start: int) -> Iterator[Result]:
        """Yields the results for the samples of a split in order, beginning with sample `start`."""
        ...


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Workers:
    """A pool of `count` worker processes that load and encode samples; a context manager.

    With a count of 1 the work is done in the calling process. Workers are forked, so they start at once and share the
    source, which may have millions of keys, instead of receiving a copy. They use Pillow, NumPy and compiled kernels,
    but no thread pool of the parent. Encoded bytes come back through shared memory, one arena per chunk; images that do
    not fit there are sent through a pipe.

    Example:

        with Workers(source, Encoding("jpeg"), 4) as pool:
            for result in pool.results("train", raw, start=0):
                ...
    """

    def __init__(self, source: Source, encoding: Encoding, count: int):
        self.source, self.encoding, self.count = source, encoding, count
        self._pool: ProcessPoolExecutor | None = None
        self._arenas: list[mmap.mmap] = []
        self._others: set[BaseProcess] = set()  # children of this process that are not workers of this pool

    def __enter__(self) -> "Workers":
        global _job
        if self.count > 1:
            self._arenas = [mmap.mmap(-1, ARENA) for _ in range(AHEAD * self.count)]
            _job = self.source, self.encoding, self._arenas  # forked workers inherit it
            context = multiprocessing.get_context("fork")
            self._others = set(multiprocessing.active_children())
            self._pool = ProcessPoolExecutor(self.count, context, _begin_worker, (os.getpid(),))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        global _job
        _job = None
        if self._pool is not None:
            for worker in set(multiprocessing.active_children()) - self._others if kind else ():
                worker.kill()  # its result is not needed any more, and waiting for it may take long
            self._pool.shutdown(cancel_futures=True)
        for arena in self._arenas:
            arena.close()

    def results(self, split: str, raw: np.ndarray, start: int) -> Iterator[Result]:
        """Yields the results for the samples of a split in order, beginning with sample `start`.

        raw: bool [N], the samples that are stored as raw pixels whatever the encoding.
        """
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
        """Yields the results of a chunk, with their bytes taken from the arena."""
        try:
            results = future.result()
        except BrokenProcessPool:
            raise UserError(
                f"a worker process was ended from outside, most likely by the system for want of memory: give the same "
                f"command with fewer than workers={self.count}; it goes on after the last complete shard"
            ) from None
        for result in results:
            if isinstance(result, _Placed):
                data = self._arenas[arena][result.start : result.end]
                result = Stored(replace(result.image, data=data), result.crc32)
            yield result


def encode_sample(source: Source, encoding: Encoding, split: str, place: int, raw: bool) -> Result:
    """Loads and encodes one sample; returns the reason as a string if it is bad."""
    try:
        image = encode(source.load(split, place), replace(encoding, kind="raw", seek_table=False) if raw else encoding)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    except MemoryError:  # the machine's want of memory makes no bad image
        raise UserError(
            f"{source.where(split, place)}: there was no memory left to decode it: give the same command with fewer "
            "workers=, or a smaller max_pixels="
        ) from None
    return Stored(image, zlib.crc32(image.data))


# --- in the worker processes ---


@dataclass(frozen=True)
class _Placed:
    """The same as Stored, but the image's bytes are in the arena from `start` to `end`."""

    image: Encoded
    crc32: int
    start: int
    end: int


_job: tuple[Source, Encoding, list[mmap.mmap]] | None = None
_PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent ends


def _begin_worker(parent: int) -> None:
    """Prepares a worker process. It ignores Ctrl-C, which reaches all processes of a command: the parent decides what
    the workers do. It is killed when the parent ends; otherwise it would wait for work forever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above
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
