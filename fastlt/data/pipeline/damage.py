"""Finds samples that were damaged after the conversion, before they are decoded, and replaces them by others.

DALI 2.4 may end the process if an image does not decode, so damaged samples must not reach it. When a loader uses an
encoded sample for the first time, its bytes are compared with the CRC-32 in the index. Undamaged bytes decode, because
the conversion decoded them. Later epochs have no cost. Small raw images are compared as well. Large ones are not,
because reading all pixels would take longer than reading the crop; `python -m fastlt.shards verify` checks them.

A damaged sample is replaced by the first undamaged one after it in its class. This depends only on the dataset, and not
on batch size, threads, ranks, or where an epoch was resumed.
"""

import itertools
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import agree, counted
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset

CHECKED = 2**15  # bytes; larger raw images are not compared


class Damage:
    """The damaged samples that a loader has found.

    others: a function from a sample to the samples that may replace it, int64 in order of preference; empty if samples
    must not be replaced, as in evaluation.
    budget: how many samples may be damaged.
    threads: how many threads read and check samples.
    """

    def __init__(self, dataset: Dataset, split: str, others: Callable[[int], np.ndarray], budget: int, threads: int):
        self._dataset, self._split, self._index = dataset, split, dataset.split(split)
        self._others, self._budget, self._threads = others, budget, threads
        # Samples that need no check: large raw ones, and those that were found to be undamaged.
        self._sound = (self._index.encoding == RAW) & (self._index.length > CHECKED)
        self._pool = None if self._sound.all() else ThreadPoolExecutor(threads)
        self._replaced = 0  # replaced positions of this epoch
        self.found: dict[int, str] = {}  # {damaged sample: its shard, offset and key}

    def replaced(self, ids: np.ndarray) -> np.ndarray:
        """Returns the samples of a batch, int64 [n], with damaged ones replaced; `ids` itself if none is damaged.

        Raises UserError, naming all damaged samples, if there are more than the budget allows, or if a sample cannot be
        replaced.
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
        """Prints how many positions of the epoch went to other samples, if any. Called at the end of an epoch."""
        if self._replaced:
            told = f"positions of this epoch given to other images of the class: {self._replaced}, for {self._where()}"
            say(told, always=True)
        self._replaced = 0

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _check(self, ids: np.ndarray) -> None:
        fresh = [sample for sample in np.unique(ids[~self._sound[ids]]).tolist() if sample not in self.found]
        if fresh:
            assert self._pool is not None
            # The first access to mapped bytes reads them from disk, so several threads read at the same time.
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
        say(f"damaged image: {self.found[sample]}", always=True)  # no other rank may meet this one
        if len(self.found) > self._budget:
            raise UserError(
                f"{counted(len(self.found), 'image')} of the {self._split} split "
                f"{agree(len(self.found), 'is', 'are')} damaged, max_damaged={self._budget} allows "
                f"fewer: {self._where()}; {self._advice()}"
            )

    def _where(self) -> str:
        return "; ".join(self.found.values())

    def _advice(self) -> str:
        return f"python -m fastlt.shards verify {self._dataset.root} lists all damage, a new conversion mends it"
