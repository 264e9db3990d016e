"""Loads and encodes the samples of a source in worker processes; results come back in order, few of them at once."""

import ctypes
import multiprocessing
import os
import signal
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from fastlt.shards.encode import BadImage, Encoding, encode
from fastlt.shards.format import Encoded
from fastlt.sources.base import Source

CHUNK = 32  # samples a worker takes at once
AHEAD = 3  # chunks per worker that wait to be written at most: this bounds the memory


@dataclass(frozen=True)
class Stored:
    """An image ready to be written, with the CRC-32 of its bytes."""

    image: Encoded
    crc32: int


Result = Stored | str  # or the reason why an image is bad


class Workers:
    """A pool of `count` processes that load and encode. One process: the work is done in this one.

    The processes are forked: a source with millions of keys is shared, not sent, and they start at once. They use
    Pillow and NumPy only, no thread pool of this process.
    """

    def __init__(self, source: Source, encoding: Encoding, count: int):
        self.source, self.encoding, self.count = source, encoding, count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        global _job
        if self.count > 1:
            _job = self.source, self.encoding  # the children inherit it
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _die_with_parent, (os.getpid(),))
        return self

    def __exit__(self, *_: object) -> None:
        global _job
        _job = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def results(self, split: str, raw: np.ndarray, start: int) -> Iterator[Result]:
        """What is stored for the samples from `start` on, in order. raw: bool [N], stored as pixels whatever else."""
        total = len(raw)
        if self._pool is None:
            for place in range(start, total):
                yield encode_sample(self.source, self.encoding, split, place, bool(raw[place]))
            return
        waiting: deque[Future[list[Result]]] = deque()
        for first in range(start, total, CHUNK):
            waiting.append(self._pool.submit(_encode_chunk, split, first, raw[first : first + CHUNK].tolist()))
            if len(waiting) > AHEAD * self.count:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def encode_sample(source: Source, encoding: Encoding, split: str, place: int, raw: bool) -> Result:
    """One sample, loaded and encoded; the reason if it is bad."""
    try:
        image = encode(source.load(split, place), replace(encoding, kind="raw") if raw else encoding)
    except BadImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return Stored(image, zlib.crc32(image.data))


_job: tuple[Source, Encoding] | None = None
_PR_SET_PDEATHSIG = 1  # Linux: the signal a process gets when its parent ends


def _die_with_parent(parent: int) -> None:
    """A worker whose conversion was killed would wait for work for ever."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _encode_chunk(split: str, first: int, raw: list[bool]) -> list[Result]:
    assert _job is not None
    return [encode_sample(*_job, split, first + i, pixels) for i, pixels in enumerate(raw)]
