"""What precision=auto means: bf16 on a GPU, and on a CPU where it is measured to pay."""

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
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.options import PRECISIONS, Options
from fastlt.models.backbones import build_model, freeze_before

VARIABLE = "FASTLT_CPU_PRECISION"  # fp32 or bf16: what auto means on this CPU, and nothing is measured
TIMES = 1.2  # as fast must bf16 be, at the least, to be taken
FLAGS = {"avx512_bf16", "amx_bf16"}  # of processors that compute in bf16
IMAGES, STEP = 2, 0.25  # images of a first step that tells how many make a step of so many seconds
ROUNDS, SECONDS = 2, 1.5  # at least so many steps in each precision, and for so long


@dataclass(frozen=True)
class Taken:
    """A precision, fp32 or bf16, and the reason in words; empty where the user named it."""

    precision: str
    reason: str = ""

    @property
    def line(self) -> str:
        """For the log."""
        return f"precision={self.precision}: {self.reason}" if self.reason else ""


def take_precision(
    asked: str, options: Options, dataset: Dataset, device: str, folder: Callable[[Options], Path], alone: bool = True
) -> Taken:
    """The precision that is asked for, or what auto stands for on this device (cpu or cuda).

    It is part of a representation's key, so it must be found again. On a CPU it is that of the representation of these
    settings, begun or finished, in the run folder; else what FASTLT_CPU_PRECISION says; else bf16 if the processor
    computes in it and forward and backward passes of this backbone at this size are at least 1.2 times as fast as in
    fp32, which is measured once and kept in the user's cache folder. options: with any precision. folder: of the run
    with such options. alone: one process of this machine trains; of several nothing is measured.
    """
    if asked != "auto":
        return Taken(asked)
    if device == "cuda":
        return Taken("bf16", "the default on a GPU")
    if options.representation:
        return Taken("fp32")  # features alone are computed here
    for precision in PRECISIONS:
        settled = replace(options, precision=precision)
        path = folder(settled) / "checkpoint.pt"
        if _holds(path, settled, dataset.digest):
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
        options.backbone,
        json.dumps(options.backbone_options),
        options.protocol["train_from"],
        options.image_size,
        options.protocol["batch"],
    )
    precision = "bf16" if times >= TIMES else "fp32"
    least = "" if precision == "bf16" else f", less than {TIMES:g}"
    return Taken(precision, f"training {options.backbone} in bf16 is {times:.2f} times as fast here{least} ({kept})")


def _holds(path: Path, options: Options, digest: str) -> bool:
    try:
        return load_checkpoint(path, options.settings(digest)) is not None
    except UserError:  # of other settings, or damaged: whoever trains there will say so
        return False


@functools.cache
def _times_as_fast(backbone: str, own: str, train_from: str | None, image_size: int, batch: int) -> tuple[float, str]:
    """How many times as fast bf16 is, and where that is kept; the first measurement counts for all that come."""
    about = {"processor": _processor()[0], "backbone": backbone, "image_size": image_size, "batch": batch}
    about |= {"train_from": train_from} if train_from else {}
    about |= {"options": own} if own != "{}" else {}
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    path = _cache() / f"{name}.json"
    try:
        return float(json.loads(path.read_text())["times_as_fast"]), f"measured before, {path}"
    except (OSError, ValueError, KeyError, TypeError):
        times = measure(backbone, train_from, image_size, batch, json.loads(own))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**about, "times_as_fast": round(times, 4)}, indent=1) + "\n")
        temporary.replace(path)
    except OSError as error:
        return times, f"measured now; {path} cannot be written: {error.strerror}"
    return times, f"measured now, kept in {path}"


def measure(
    backbone: str, train_from: str | None, image_size: int, batch: int, options: dict[str, Any] | None = None
) -> float:
    """Time of forward and backward passes in fp32 over that in bf16, on one thread, of at most `batch` images; two
    seconds, more where two images take longer.

    It is the processor's time for this process, the least of several steps in turn, so other work beside it does not
    count.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return _measure(backbone, train_from, image_size, batch, options)
    finally:
        torch.set_num_threads(threads)


def _measure(
    backbone: str, train_from: str | None, image_size: int, batch: int, options: dict[str, Any] | None
) -> float:
    model = build_model(backbone, 100, 0, image_size, options=options)  # the number of classes hardly matters
    if train_from:
        freeze_before(model, train_from)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def seconds(images: torch.Tensor, bf16: bool) -> float:
        labels = torch.arange(len(images)) % 100
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images)
        functional.cross_entropy(logits.float(), labels).backward()
        model.zero_grad()
        return time.process_time() - start

    def noise(count: int) -> torch.Tensor:
        return torch.randn(count, 3, image_size, image_size).to(memory_format=torch.channels_last)

    few = noise(IMAGES)
    seconds(few, False)  # the first step also sets things up
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
    """Whether this machine's CPU does, rather than emulate it."""
    return bool(FLAGS & _processor()[1])


@functools.cache
def _processor() -> tuple[str, frozenset[str]]:
    """Its name, and what it is able to do, as Linux tells."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return "unknown", frozenset()
    told = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    return told.get("model name", "unknown"), frozenset(told.get("flags", "").split())


def _cache() -> Path:
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "fastlt" / "precision"
