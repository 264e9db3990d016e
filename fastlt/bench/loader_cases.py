"""The cases of the loader benchmark that measure fastlt."""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from fastlt.bench.loader_data import SMALL_SIZE, Data
from fastlt.bench.loader_stages import Stages
from fastlt.data.augmentations import AUGMENTATIONS
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.mapped import forget_pages
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder, Order, Sampler

SIZE = 224
WORK = Augment(SIZE, "resized", flip=True)
SMALL = Augment(SMALL_SIZE, "pad", flip=True)
AUGMENTED = replace(WORK, augment=("randaugment",))
SMALL_AUGMENTED = replace(SMALL, augment=("autoaugment_cifar", "cutout"))
SMALL_INDEX = 1000  # samples
HARDWARE_SHARES = (0, 50, 65, 75, 90, 100)  # percent of the images that a GPU's JPEG decoder is given, where it has one

Case = Callable[[], float]  # runs the next epoch and returns images per second


@dataclass
class Cases:
    """Makes the cases.

    data: the datasets that they read.
    batch, threads: of the loaders.
    samples: the number of rows of the large index.
    epochs: how often each case will be called.
    stack: closes the loaders at the end; every case keeps its loader open until then.
    device: where batches are delivered.
    """

    data: Data
    batch: int
    threads: int
    samples: int
    epochs: int
    stack: contextlib.ExitStack
    device: torch.device

    def rates(self) -> dict[str, Callable[[], Case]]:
        """Returns {name: function that makes the case} of the cases in images per second. Cases that are compared with
        each other are adjacent."""
        data = self.data
        makers: dict[str, Callable[[], Case]] = {
            "fastlt_jpeg": lambda: self._epochs(data.jpeg),
            "decode_ceiling": lambda: self._stages.decode,
            "fastlt_jpeg_class": lambda: self._epochs(data.jpeg, "class"),
            "fastlt_jpeg_sqrt": lambda: self._epochs(data.jpeg, "sqrt"),
            "fastlt_jpeg_progressive": lambda: self._epochs(data.jpeg, "progressive"),
            "fastlt_jpeg_1thread": lambda: self._epochs(data.jpeg, threads=1),
            "fastlt_seek": lambda: self._epochs(data.seek),
            "fastlt_q90_seek": lambda: self._epochs(data.q90_seek),
            "fastlt_jpeg_q90": lambda: self._epochs(data.jpeg_q90),
            "fastlt_raw": lambda: self._epochs(data.raw),
            "fastlt_jpeg_randaugment": lambda: self._epochs(data.jpeg, work=AUGMENTED),
            "fastlt_small": lambda: self._epochs(data.small, work=SMALL),
            "fastlt_small_augmented": lambda: self._epochs(data.small, work=SMALL_AUGMENTED),
            "fastlt_jpeg_cold": lambda: self._cold(data.jpeg),
            "fastlt_seek_cold": lambda: self._cold(data.seek),
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
                "decode_repeated": {"jpeg_fancy_upsampling": False},
                "decode_whole": {"whole": True},
            }
            for percent in HARDWARE_SHARES:
                decodings[f"decode_hw{percent}"] = {"hw_decoder_load": percent / 100}
                decodings[f"decode_whole_hw{percent}"] = {"whole": True, "hw_decoder_load": percent / 100}
            for name, options in decodings.items():
                makers[name] = lambda options=options: partial(self._stages.decode, **options)
        for samples in self._sizes:
            makers[f"index_{samples}"] = partial(self._indexed, samples)
        return makers

    def augmentations(self) -> dict[str, Callable[[], Case]]:
        """Returns {name: function that makes the case} of the cases with a single augmentation."""
        makers: dict[str, Callable[[], Case]] = {}
        for name in AUGMENTATIONS:
            large, small = (replace(work, augment=(name,)) for work in (WORK, SMALL))
            makers[f"augment_jpeg_{name}"] = lambda work=large: self._epochs(self.data.jpeg, work=work)
            makers[f"augment_small_{name}"] = lambda work=small: self._epochs(self.data.small, work=work)
        return makers

    def seconds(self) -> dict[str, Callable[[], Case]]:
        """Returns {name: function that makes the case} of the cases in seconds."""
        makers = {f"index_order_{samples}": partial(self._ordering, samples) for samples in self._sizes}
        return {**makers, "first_batch_warm": self._first_batch_warm, "first_batch_cold": lambda: self._first_batch}

    @property
    def _sizes(self) -> list[int]:
        return sorted({SMALL_INDEX, self.samples})

    @cached_property
    def _stages(self) -> Stages:
        return Stages(self.data.jpeg, WORK, self.batch, self.threads, self.device)

    def _epochs(self, dataset: Dataset, law: str = "instance", threads: int = 0, work: Augment = WORK) -> Case:
        return self._loads(dataset, self._sampler(dataset, law), threads, work)

    def _sampler(self, dataset: Dataset, law: str) -> Sampler:
        index = dataset.split("train")
        return Sampler(index.class_members, index.class_start, law, epochs=self.epochs)

    def _loads(self, dataset: Dataset, order: Order, threads: int = 0, work: Augment = WORK) -> Case:
        threads = threads or self.threads
        loader = Loader(dataset, "train", order, work, self.batch, 0, self.device, threads, drop_last=True)
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
        """Makes the case with a compile cache. Its first call, which is not counted, compiles for the others."""
        cache = tempfile.mkdtemp(dir=self.data.scratch)
        return lambda: self._first_batch(cache)

    def _first_batch(self, cache: str | None = None) -> float:
        """Returns the seconds that a new process takes to its first batch.

        cache: the folder of compiled functions; by default a new, empty one.
        """
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
    """Drops the pages of a dataset's shards from this process, then from the system's page cache."""
    for shard, path in zip(dataset.maps, dataset.shards, strict=True):
        forget_pages(shard)
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
