"""The cases of the loader's benchmark that are ours."""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from fastlt.bench.loader_data import Data
from fastlt.bench.loader_stages import Stages
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.mapped import forget_pages
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder, Order, Sampler

SIZE = 224
WORK = Augment(SIZE, "resized", flip=True)
SMALL_INDEX = 1000  # samples

Case = Callable[[], float]  # works through the next epoch, and says how fast


@dataclass
class Cases:
    """Makes cases. data: what they read. batch, threads: of the loaders. samples: rows of the large index. epochs: how
    often each case will be called. stack: closes at the end what is open until then: every case keeps its loader.
    device: where batches are wanted."""

    data: Data
    batch: int
    threads: int
    samples: int
    epochs: int
    stack: contextlib.ExitStack
    device: torch.device

    def rates(self) -> dict[str, Callable[[], Case]]:
        """Makers of the cases in images per second; those that are compared stand side by side."""
        data = self.data
        makers: dict[str, Callable[[], Case]] = {
            "fastlt_jpeg": lambda: self._epochs(data.jpeg),
            "decode_ceiling": lambda: self._stages.decode,
            "fastlt_jpeg_class": lambda: self._epochs(data.jpeg, "class"),
            "fastlt_jpeg_sqrt": lambda: self._epochs(data.jpeg, "sqrt"),
            "fastlt_jpeg_progressive": lambda: self._epochs(data.jpeg, "progressive"),
            "fastlt_jpeg_1thread": lambda: self._epochs(data.jpeg, threads=1),
            "fastlt_jpeg_q90": lambda: self._epochs(data.jpeg_q90),
            "fastlt_raw": lambda: self._epochs(data.raw),
            "fastlt_jpeg_cold": lambda: self._cold(data.jpeg),
            "fastlt_raw_cold": lambda: self._cold(data.raw),
            "fastlt_auto_class": lambda: self._epochs(data.auto, "class"),
            "fastlt_auto_jpeg_class": lambda: self._epochs(data.auto_jpeg, "class"),
            "stage_plan": lambda: self._stages.plan,
            "stage_read": lambda: self._stages.read,
        }
        if self.device.type == "cpu":
            makers["stage_augment"] = lambda: self._stages.augment
            if torch.cuda.is_available():
                makers["stage_transfer"] = lambda: self._stages.transfer
        else:
            decodings: dict[str, dict[str, Any]] = {
                "decode_ceiling_cuda": {"hw_decoder_load": 0.0},
                "decode_ceiling_repeated": {"jpeg_fancy_upsampling": False},
                "decode_whole": {"whole": True},
                "decode_whole_cuda": {"whole": True, "hw_decoder_load": 0.0},
                "decode_whole_hardware": {"whole": True, "hw_decoder_load": 1.0},
            }
            for name, options in decodings.items():
                makers[name] = lambda options=options: partial(self._stages.decode, **options)
        for samples in self._sizes:
            makers[f"index_{samples}"] = partial(self._indexed, samples)
        return makers

    def seconds(self) -> dict[str, Callable[[], Case]]:
        """Makers of the cases in seconds."""
        makers = {f"index_order_{samples}": partial(self._ordering, samples) for samples in self._sizes}
        return {**makers, "first_batch_warm": self._first_batch_warm, "first_batch_cold": lambda: self._first_batch}

    @property
    def _sizes(self) -> list[int]:
        return sorted({SMALL_INDEX, self.samples})

    @cached_property
    def _stages(self) -> Stages:
        return Stages(self.data.jpeg, WORK, self.batch, self.threads, self.device)

    def _epochs(self, dataset: Dataset, law: str = "instance", threads: int = 0) -> Case:
        return self._loads(dataset, self._sampler(dataset, law), threads)

    def _sampler(self, dataset: Dataset, law: str) -> Sampler:
        index = dataset.split("train")
        return Sampler(index.class_members, index.class_start, law, epochs=self.epochs)

    def _loads(self, dataset: Dataset, order: Order, threads: int = 0) -> Case:
        threads = threads or self.threads
        loader = Loader(dataset, "train", order, WORK, self.batch, 0, self.device, threads, drop_last=True)
        self.stack.callback(loader.close)
        numbers = itertools.count()

        def case() -> float:
            start = time.monotonic()
            images = sum(len(batch.images) for batch in loader.epoch(next(numbers)))
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return images / (time.monotonic() - start)

        return case

    def _cold(self, dataset: Dataset) -> Case:
        cold = self.data.cold(dataset)
        load = self._epochs(cold)

        def case() -> float:
            _drop_from_cache(cold)
            return load()

        return case

    def _indexed(self, samples: int) -> Case:
        dataset = self.data.indexed(samples)
        sampler, images = self._sampler(dataset, "class"), len(self.data.paths)
        orders = [sampler.order(epoch) for epoch in range(-(-images // samples))]
        return self._loads(dataset, InOrder(np.concatenate(orders)[:images]))

    def _ordering(self, samples: int) -> Case:
        sampler = self._sampler(self.data.indexed(samples), "class")

        def case() -> float:
            start = time.monotonic()
            sampler.order(0)
            return time.monotonic() - start

        return case

    def _first_batch_warm(self) -> Case:
        """The first call, which does not count, compiles for the ones that follow."""
        cache = tempfile.mkdtemp(dir=self.data.scratch)
        return lambda: self._first_batch(cache)

    def _first_batch(self, cache: str | None = None) -> float:
        """Seconds of a new process to its first batch. cache: folder of compiled functions; default: an empty one."""
        cache = cache or tempfile.mkdtemp(dir=self.data.scratch)
        arguments = [str(self.data.jpeg.root), str(self.batch), str(self.threads), str(self.device)]
        done = subprocess.run(
            [sys.executable, "-m", "fastlt.bench.first_batch", *arguments],
            env={**os.environ, "NUMBA_CACHE_DIR": cache},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return float(done.stdout.splitlines()[-1])


def _drop_from_cache(dataset: Dataset) -> None:
    """The shards' pages leave this process, then the system's page cache."""
    for shard, path in zip(dataset.maps, dataset.shards, strict=True):
        forget_pages(shard)
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
