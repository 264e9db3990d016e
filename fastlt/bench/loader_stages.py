"""The loader's work in parts, each alone: plan, read, decode, augment, transfer; and which one is the bottleneck."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI makes most of its names when it is imported)

import functools
import itertools
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from fastlt.bench.rows import Row
from fastlt.data.pipeline import graph_cpu
from fastlt.data.pipeline.columns import columns
from fastlt.data.pipeline.graph_gpu import MIXED
from fastlt.data.plan import Augment, Plan, draw_plan
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import Sampler

PAGE = 4096  # bytes
PREFETCH = 2  # as the loader's default
CROPS = 512  # decoded ones that `augment` goes through again and again: more than any cache holds
IDENTITY = np.array([0, 0, 0, 1, 1, 1], np.float32)  # no normalization


class Stages:
    """Parts of what a Loader does to an epoch of a dataset of encoded images. Each method works through the next epoch
    and returns images per second. Plan and read run on one thread, decode and augment on `threads`; on a GPU decode is
    what the GPU graph does."""

    def __init__(self, dataset: Dataset, augment: Augment, batch: int, threads: int, device: torch.device):
        self.dataset, self.augment_options, self.batch, self.threads = dataset, augment, batch, threads
        self.device = device
        self.index = dataset.split("train")
        self.sampler = Sampler(self.index.class_members, self.index.class_start)
        self._epochs = {name: itertools.count() for name in ("plan", "read", "decode", "augment")}
        self._batches: Iterator[tuple] = iter(())
        self._alive: list[tuple] = []  # DALI reads them in place

    def plan(self) -> float:
        """Order and plan: which samples, which windows of them."""
        start = time.monotonic()
        return self._rate(len(self._plan("plan")), start)

    def read(self) -> float:
        """The encoded bytes of every position are touched, a byte a page; they are in the page cache."""
        ids = self._plan("read").ids.tolist()
        start = time.monotonic()
        for sample in ids:
            self.dataset.data("train", sample)[::PAGE].sum()
        return self._rate(len(ids), start)

    def decode(self, whole: bool = False, **options: Any) -> float:
        """DALI decodes the windows of the very same plan, or the whole images, and nothing follows.

        options: of DALI's decoder, beside those of the loader's graph.
        """
        plan = self._plan("decode")
        parts = [plan[first : first + self.batch] for first in range(0, len(plan), self.batch)]
        batches = [self._windows(part)[: 1 if whole else 3] for part in parts]
        start = time.monotonic()
        for _ in self._run(self._decoder(whole, **options), batches):
            pass
        return self._rate(len(plan), start)

    def augment(self) -> float:
        """The fused operator alone, on windows that are decoded already."""
        batches = list(itertools.islice(itertools.cycle(self._crops), len(self.sampler) // self.batch))
        start = time.monotonic()
        for _ in self._run(self._operator, batches):
            pass
        return self._rate(len(batches) * self.batch, start)

    def transfer(self) -> float:
        """Batches go from pinned memory to the GPU."""
        images = torch.zeros(self.batch, 3, self.augment_options.size, self.augment_options.size).pin_memory()
        batches = len(self.sampler) // self.batch
        torch.cuda.synchronize()
        start = time.monotonic()
        for _ in range(batches):
            images.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        return self._rate(batches * self.batch, start)

    def _plan(self, stage: str) -> Plan:
        """The plan of the stage's next epoch, full batches only."""
        epoch = next(self._epochs[stage])
        positions = np.arange(len(self.sampler) // self.batch * self.batch)
        ids = self.sampler.order(epoch)[: len(positions)]
        return draw_plan(ids, positions, self.index.height[ids], self.index.width[ids], self.augment_options, 0, epoch)

    def _windows(self, plan: Plan) -> tuple:
        """What the loader's graph hands to the decoder: bytes, first pixel and size of the window."""
        images = [self.dataset.data("train", sample) for sample in plan.ids.tolist()]
        height, width = self.index.height[plan.ids], self.index.width[plan.ids]
        return columns(plan, images, height, width, "encoded", IDENTITY)[:3]

    @cached_property
    def _crops(self) -> list[tuple]:
        """Columns of full batches of decoded windows."""
        plan = self._plan("augment")
        batches = []
        for first in range(0, min(len(plan), max(CROPS, self.batch)) // self.batch * self.batch, self.batch):
            part = plan[first : first + self.batch]
            (decoded,) = self._run(self._decoder(False), [self._windows(part)])
            images = [np.array(decoded.at(i)) for i in range(self.batch)]
            box = np.array([[0, 0, *image.shape[:2]] for image in images], np.int32)
            whole = Plan(part.ids, box.astype(np.float64), box, part.flip, part.jitter)
            batches.append(columns(whole, images, box[:, 2], box[:, 3], "raw", IDENTITY))
        return batches

    def _run(self, pipeline: Any, batches: list[tuple]) -> Iterator[Any]:
        """What the pipeline makes of these columns."""
        self._batches, self._alive = iter(batches), batches
        pipeline.reset()
        pipeline.schedule_run()
        while not pipeline.empty():
            yield pipeline.outputs()[0]
            pipeline.schedule_run()

    def _next(self) -> tuple:
        return next(self._batches)

    @functools.cache  # noqa: B019 - lives as long as the benchmark
    def _decoder(self, whole: bool, **options: Any) -> Any:
        gpu = self.device.type == "cuda"
        options = {**(MIXED if gpu else {}), **options}
        pipeline = _decode_graph(
            self._next, whole, options,
            batch_size=self.batch, num_threads=self.threads, device_id=(self.device.index or 0) if gpu else None,
            prefetch_queue_depth=PREFETCH,
        )  # fmt: skip
        pipeline.build()
        return pipeline

    @cached_property
    def _operator(self) -> Any:
        return graph_cpu.build(
            self._next,
            stored="raw",
            size=self.augment_options.size,
            dtype="float32",
            channels_last=False,
            batch=self.batch,
            threads=self.threads,
            prefetch=PREFETCH,
        )

    @staticmethod
    def _rate(images: int, start: float) -> float:
        return images / (time.monotonic() - start)


@pipeline_def
def _decode_graph(source: Any, whole: bool, options: dict[str, Any]) -> Any:
    dtypes = [types.UINT8] if whole else [types.UINT8, types.INT32, types.INT32]
    columns = fn.external_source(
        source, num_outputs=len(dtypes), batch=True, no_copy=True, dtype=dtypes, ndim=[1] * len(dtypes)
    )
    if whole:
        return fn.decoders.image(*columns, output_type=types.RGB, adjust_orientation=False, **options)
    return fn.decoders.image_slice(*columns, **graph_cpu.DECODED, **options)


# The stages as rows, where each comes from, and whether all threads take part in it.
PARTS = {
    "stage_plan": ("stage_plan", False),
    "stage_read": ("stage_read", False),
    "stage_decode": ("decode_ceiling", True),
    "stage_augment": ("stage_augment", True),
    "stage_transfer": ("stage_transfer", False),
    "stage_whole": ("fastlt_jpeg", True),
}
UNIT = "µs"


def stage_rows(rates: list[Row], threads: int) -> list[Row]:
    """Microseconds of a thread's time per image, for those stages whose images/s were measured."""
    measured = {rate.case: rate for rate in rates}
    rows = []
    for name, (case, threaded) in PARTS.items():
        if case in measured:
            rate, work = measured[case], 1e6 * (threads if threaded else 1)
            rows.append(Row(name, work / rate.median, work / rate.p80, work / rate.p20, UNIT))
    return rows


def bottleneck(rows: list[Row]) -> str:
    """One line: the stages that were measured, longest first, and the bottleneck; empty if there are fewer than two."""
    stages = {row.case.removeprefix("stage_"): row.median for row in rows if row.unit == UNIT}
    whole = stages.pop("whole", None)
    if len(stages) < 2:
        return ""
    total = whole or sum(stages.values())
    parts = sorted(stages.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {value:,.4g} µs ({value / total:.0%})" for name, value in parts)
    of = "the whole loader" if whole else "all that were measured"
    return f"bottleneck: {parts[0][0]}. Of {total:,.0f} µs an image and thread, {of}: {listed}"
