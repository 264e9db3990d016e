"""Measures the stages of the loader separately (plan, read, decode, augment, transfer) and finds the bottleneck."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI creates most of its names at import, so type checkers do not know them)

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
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
PREFETCH = 2  # the loader's default
CROPS = 512  # decoded crops that `augment` uses in turn: more than fit into any cache
IDENTITY = np.array([0, 0, 0, 1, 1, 1, 0], np.float32)  # no normalization; bilinear


class Stages:
    """The stages of loading an epoch of a dataset of encoded images.

    Each method runs one stage for the next epoch and returns images per second. `plan` and `read` run on one thread,
    `decode` and `augment` on `threads`. On a GPU, `decode` is that of the GPU graph.
    """

    def __init__(self, dataset: Dataset, augment: Augment, batch: int, threads: int, device: torch.device):
        self.dataset, self.augment_options, self.batch, self.threads = dataset, augment, batch, threads
        self.device = device
        self.index = dataset.split("train")
        self.sampler = Sampler(self.index.class_members, self.index.class_start)
        self._epochs = {name: itertools.count() for name in ("plan", "read", "decode", "augment")}
        self._batches: Iterator[tuple] = iter(())
        self._alive: list[tuple] = []  # keeps the columns alive, because DALI reads them in place

    def plan(self) -> float:
        """Draws the sample order and the plan."""
        start = time.monotonic()
        return self._rate(len(self._plan("plan")), start)

    def read(self) -> float:
        """Reads one byte of every page of the encoded images, which are in the page cache."""
        ids = self._plan("read").ids.tolist()
        start = time.monotonic()
        for sample in ids:
            self.dataset.data("train", sample)[::PAGE].sum()
        return self._rate(len(ids), start)

    def decode(self, whole: bool = False, **options: Any) -> float:
        """Only decodes, with DALI, the crop windows of the plan.

        whole: decode whole images instead. options: for DALI's decoder, in addition to those of the loader's graph.
        """
        plan = self._plan("decode")
        parts = [plan[first : first + self.batch] for first in range(0, len(plan), self.batch)]
        batches = [self._windows(part)[: 1 if whole else 3] for part in parts]
        start = time.monotonic()
        for _ in self._run(self._decoder(whole, **options), batches):
            pass
        return self._rate(len(plan), start)

    def augment(self) -> float:
        """Runs only the fused operator (resize, flip, jitter, normalize), on crops that are already decoded."""
        batches = list(itertools.islice(itertools.cycle(self._crops), len(self.sampler) // self.batch))
        start = time.monotonic()
        for _ in self._run(self._operator, batches):
            pass
        return self._rate(len(batches) * self.batch, start)

    def transfer(self) -> float:
        """Copies batches from pinned memory to the GPU."""
        side = self.augment_options.image_size
        images = torch.zeros(self.batch, 3, side, side).pin_memory()
        batches = len(self.sampler) // self.batch
        torch.cuda.synchronize()
        start = time.monotonic()
        for _ in range(batches):
            images.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        return self._rate(batches * self.batch, start)

    def _plan(self, stage: str) -> Plan:
        """Draws the plan of the stage's next epoch, for full batches only."""
        epoch = next(self._epochs[stage])
        positions = np.arange(len(self.sampler) // self.batch * self.batch)
        ids = self.sampler.order(epoch)[: len(positions)]
        return draw_plan(ids, positions, self.index.height[ids], self.index.width[ids], self.augment_options, 0, epoch)

    def _windows(self, plan: Plan) -> tuple:
        """Returns the columns that the loader's graph passes to the decoder: bytes, first pixel and size of windows."""
        images = [self.dataset.data("train", sample) for sample in plan.ids.tolist()]
        height, width = self.index.height[plan.ids], self.index.width[plan.ids]
        return columns([plan], images, height, width, "encoded", IDENTITY)[:3]

    @cached_property
    def _crops(self) -> list[tuple]:
        """Columns of full batches of decoded crops."""
        plan = self._plan("augment")
        batches = []
        for first in range(0, min(len(plan), max(CROPS, self.batch)) // self.batch * self.batch, self.batch):
            part = plan[first : first + self.batch]
            (decoded,) = self._run(self._decoder(False), [self._windows(part)])
            images = [np.array(decoded.at(i)) for i in range(self.batch)]
            box = np.array([[0, 0, *image.shape[:2]] for image in images], np.int32)
            whole = replace(part, box=box.astype(np.float64), window=box)
            batches.append(columns([whole], images, box[:, 2], box[:, 3], "raw", IDENTITY))
        return batches

    def _run(self, pipeline: Any, batches: list[tuple]) -> Iterator[Any]:
        """Yields the pipeline's output for each of these batches of columns."""
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
            size=self.augment_options.image_size,
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


# {row: (case that it is computed from, whether all threads take part in it)}
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
    """Converts measured images per second of stages to rows in microseconds of a thread's time per image."""
    measured = {rate.case: rate for rate in rates}
    rows = []
    for name, (case, threaded) in PARTS.items():
        if case in measured:
            rate, work = measured[case], 1e6 * (threads if threaded else 1)
            rows.append(Row(name, work / rate.median, work / rate.p80, work / rate.p20, UNIT))
    return rows


def bottleneck(rows: list[Row]) -> str:
    """Returns a line with the bottleneck and all measured stages, the longest first; "" for fewer than two stages."""
    stages = {row.case.removeprefix("stage_"): row.median for row in rows if row.unit == UNIT}
    whole = stages.pop("whole", None)
    if len(stages) < 2:
        return ""
    total = whole or sum(stages.values())
    parts = sorted(stages.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {value:,.4g} µs ({value / total:.0%})" for name, value in parts)
    of = "the whole loader" if whole else "all that were measured"
    return f"bottleneck: {parts[0][0]}. Of {total:,.0f} µs an image and thread, {of}: {listed}"
