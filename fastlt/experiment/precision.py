"""Resolves precision=auto: bf16 on a GPU, and on a CPU if a measurement shows that bf16 is faster."""

import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from fastlt.core.checkpoint import load_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.files import NotWritten, write_file
from fastlt.core.log import say
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.identity import determined_by
from fastlt.models.backbones import build_model, freeze_before
from fastlt.training.compute import PRECISIONS

VARIABLE = "FASTLT_CPU_PRECISION"  # environment variable with fp32 or bf16, which auto then takes without measuring
TIMES = 1.2  # bf16 is taken if it is at least so many times as fast as fp32
FLAGS = {"avx512_bf16", "amx_bf16"}  # flags in /proc/cpuinfo of processors that compute in bf16
IMAGES, STEP = 2, 0.25  # a first step of IMAGES tells how many images make a step of about STEP seconds
ROUNDS, SECONDS = 2, 1.5  # measure at least ROUNDS steps in each precision, and for at least SECONDS


@dataclass(frozen=True)
class Taken:
    """A precision, fp32 or bf16, and the reason for it in words; the reason is empty if the user chose it."""

    precision: str
    reason: str = ""

    @property
    def line(self) -> str:
        """Returns a line for the log, or "" if there is no reason to give."""
        return f"precision={self.precision}: {self.reason}" if self.reason else ""


def take_precision(
    config: TrainConfig, dataset: Dataset, device: str, folder: Callable[[TrainConfig], Path], alone: bool = True
) -> Taken:
    """Returns the precision of a configuration, with auto replaced by fp32 or bf16.

    The precision is part of the key of a representation, so auto must give the same result when a command is repeated.
    On a GPU it is bf16. On a CPU it is the first of these:
    1. the precision of a representation of these settings in the run folder, finished or not;
    2. the value of the environment variable FASTLT_CPU_PRECISION;
    3. bf16 if the processor computes in bf16, and forward and backward passes of this backbone at this image size are
       at least 1.2 times as fast as in fp32. This is measured once and stored in the user's cache folder.
    4. fp32.

    device: cpu or cuda.
    folder: returns the run folder of a configuration.
    alone: whether one process trains. With several on one machine nothing is measured.
    """
    if config.precision != "auto":
        return Taken(config.precision)
    if device == "cuda":
        return Taken("bf16", "the default on a GPU")
    if config.representation:
        return Taken("fp32")  # stage 1 is not trained here, only features are extracted
    for precision in PRECISIONS:
        settled = replace(config, precision=precision)
        path = folder(settled) / "checkpoint.pt"
        if _holds(path, settled, dataset):
            return Taken(precision, f"as {path} began with")
    if chosen := os.environ.get(VARIABLE):
        if chosen not in PRECISIONS:
            raise UserError(f"{VARIABLE}={chosen} is unknown: allowed are {', '.join(PRECISIONS)}")
        return Taken(chosen)
    if not alone:
        return Taken("fp32", "the default where a CPU's speed in bf16 is not measured")
    if not computes_in_bf16():
        return Taken("fp32", "this processor does not compute in bf16")
    times, kept = _times_as_fast(
        config.backbone.name,
        json.dumps(config.backbone.options),
        config.protocol.train_from,
        config.image_size,
        config.protocol.batch,
        config.epochs > 0,
    )
    precision = "bf16" if times >= TIMES else "fp32"
    least = "" if precision == "bf16" else f", less than {TIMES:g}"
    work = "training" if config.epochs else "extracting features of"
    return Taken(precision, f"{work} {config.backbone.name} in bf16 is {times:.2f} times as fast here{least} ({kept})")


def _holds(path: Path, config: TrainConfig, dataset: Dataset) -> bool:
    try:
        return load_checkpoint(path, determined_by(config, dataset)) is not None
    except UserError:  # the checkpoint is of other settings or damaged, which the training will report
        return False


@functools.cache
def _times_as_fast(
    backbone: str, own: str, train_from: str | None, image_size: int, batch: int, trained: bool
) -> tuple[float, str]:
    """Returns how many times as fast as fp32 bf16 is, and where that number is stored, in words.

    It is measured only if the cache folder has no earlier measurement of this processor, backbone and image size.
    """
    about = {"processor": _processor()[0], "backbone": backbone, "image_size": image_size, "batch": batch}
    about |= {"train_from": train_from} if train_from else {}
    about |= {"options": own} if own != "{}" else {}
    about |= {} if trained else {"trained": False}
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = _cache() / f"{name}.json"
    try:
        return float(json.loads(path.read_text())["times_as_fast"]), f"measured before, {path}"
    except (OSError, ValueError, KeyError, TypeError):
        say(f"measuring whether bf16 is faster for {backbone} on this processor: a few seconds, once")
        times = measure(backbone, train_from, image_size, batch, json.loads(own), trained)
    try:
        write_file(path, json.dumps({**about, "times_as_fast": round(times, 4)}, indent=1) + "\n", shared=True)
    except NotWritten as error:
        return times, f"measured now; {error}"
    return times, f"measured now, kept in {path}"


def measure(
    backbone: str,
    train_from: str | None,
    image_size: int,
    batch: int,
    options: dict[str, Any] | None = None,
    trained: bool = True,
) -> float:
    """Returns the time of a forward and backward pass in fp32 divided by that in bf16, on one thread.

    A step has at most `batch` images. The measurement takes about two seconds, or longer if two images take longer.
    train_from: as in ProtocolConfig. options: of the backbone. trained: with False, only forward passes are measured.

    Both times are the minimum CPU time of this process over several alternating steps, so that other processes on the
    machine hardly influence them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return _measure(backbone, train_from, image_size, batch, options, trained)
    finally:
        torch.set_num_threads(threads)


def _measure(
    backbone: str, train_from: str | None, image_size: int, batch: int, options: dict[str, Any] | None, trained: bool
) -> float:
    model = build_model(backbone, 100, 0, image_size, options=options)  # the number of classes hardly matters
    if train_from:
        freeze_before(model, train_from)
    model.to(memory_format=torch.channels_last).train(trained)  # type: ignore[call-overload]

    def seconds(images: torch.Tensor, bf16: bool) -> float:
        labels = torch.arange(len(images)) % 100
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.set_grad_enabled(trained):
            logits = model(images)
        if trained:
            functional.cross_entropy(logits.float(), labels).backward()
            model.zero_grad()
        return time.process_time() - start

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, 3, image_size, image_size).to(memory_format=torch.channels_last)

    few = noise(IMAGES)
    seconds(few, False)  # the first step takes longer, as it sets things up
    each = seconds(few, False) / len(few)
    images = noise(max(IMAGES, min(batch, int(STEP / max(each, 1e-9)))))
    taken: dict[bool, list[float]] = {False: [], True: []}
    for bf16 in taken:
        seconds(images, bf16)
    begun = time.process_time()
    while len(taken[True]) < ROUNDS or time.process_time() - begun < SECONDS:
        for bf16, times in taken.items():
            times.append(seconds(images, bf16))
    return min(taken[False]) / max(min(taken[True]), 1e-9)


def computes_in_bf16() -> bool:
    """Returns whether this machine's CPU has instructions for bf16, instead of emulating it."""
    return bool(FLAGS & _processor()[1])


@functools.cache
def _processor() -> tuple[str, frozenset[str]]:
    """Returns the name and the flags of the processor, from /proc/cpuinfo."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return "unknown", frozenset()
    told = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    return told.get("model name", "unknown"), frozenset(told.get("flags", "").split())


def _cache() -> Path:
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "fastlt" / "precision"
