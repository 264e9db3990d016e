"""Samples that were damaged after the conversion: found before they are decoded, named, replaced by others, counted.

DALI 2.4 may end the process when an image does not decode, so a damaged one must not reach it. The bytes of every
encoded sample are compared with the CRC-32 of the index when a loader uses the sample for the first time; right bytes
decode, the conversion has seen to that. Later epochs pay nothing. Raw pixels decode whatever they are, and reading all
of them would cost more than the crop that is wanted: only `python -m fastlt.shards verify` checks them.

What takes the place of a damaged sample is the first undamaged one behind it in its class, a function of the data set
alone: not of batch size, threads, ranks, or where an epoch was resumed.
"""

import itertools
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset


class Damage:
    """The damaged samples that one loader has met.

    others: the samples that may stand in for one, in order, int64; none where every sample has to be itself. budget:
    how many samples may be damaged. threads: that read and check.
    """

    def __init__(self, dataset: Dataset, split: str, others: Callable[[int], np.ndarray], budget: int, threads: int):
        self._dataset, self._split, self._index = dataset, split, dataset.split(split)
        self._others, self._budget, self._threads = others, budget, threads
        self._sound = self._index.encoding == RAW  # samples that need no check, any more
        self._pool = None if self._sound.all() else ThreadPoolExecutor(threads)
        self._replaced = 0  # positions of this epoch
        self.found: dict[int, str] = {}  # sample -> where it lies

    def replaced(self, ids: np.ndarray) -> np.ndarray:
        """The samples of a batch, int64 [n], damaged ones replaced; `ids` itself if none is.

        Raises UserError, naming them all, if more are damaged than the budget allows or no other can stand in for one.
        """
        self._check(ids)
        damaged = np.flatnonzero(~self._sound[ids])
        if len(damaged):
            ids = ids.copy()
            for place in damaged.tolist():
                ids[place] = self._stand_in(int(ids[place]))
            self._replaced += len(damaged)
        return ids

    def report(self) -> None:
        """At the end of an epoch: how many of its positions went to other samples."""
        if self._replaced:
            say(f"positions of this epoch given to other images of the class: {self._replaced}, for {self._where()}")
        self._replaced = 0

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _check(self, ids: np.ndarray) -> None:
        fresh = [sample for sample in np.unique(ids[~self._sound[ids]]).tolist() if sample not in self.found]
        if fresh:
            assert self._pool is not None
            # The first touch of the mapped bytes reads them from the disk, several at once.
            parts = [fresh[i :: self._threads] for i in range(self._threads)]
            for sample in sorted(itertools.chain.from_iterable(self._pool.map(self._damaged, parts))):
                self._count(sample)
            self._sound[[sample for sample in fresh if sample not in self.found]] = True

    def _damaged(self, samples: list[int]) -> list[int]:
        crc32 = self._index.crc32
        data, split = self._dataset.data, self._split
        return [sample for sample in samples if zlib.crc32(data(split, sample)) != crc32[sample]]  # pyright: ignore

    def _stand_in(self, sample: int) -> int:
        for other in self._others(sample):
            self._check(np.array([other]))
            if self._sound[other]:
                return int(other)
        raise UserError(
            f"an image of the {self._split} split is damaged, and no other can stand in for it: {self.found[sample]}; "
            f"{self._advice()}"
        )

    def _count(self, sample: int) -> None:
        shard = self._dataset.shards[self._index.shard[sample]].name
        key = self._dataset.key(self._split, sample)
        self.found[sample] = f"{shard}, offset {self._index.offset[sample]}, key {key}"
        say(f"damaged image: {self.found[sample]}")
        if len(self.found) > self._budget:
            raise UserError(
                f"{len(self.found)} images of the {self._split} split are damaged, max_damaged={self._budget} allows "
                f"fewer: {self._where()}; {self._advice()}"
            )

    def _where(self) -> str:
        return "; ".join(self.found.values())

    def _advice(self) -> str:
        return f"python -m fastlt.shards verify {self._dataset.root} lists all damage, a new conversion mends it"
