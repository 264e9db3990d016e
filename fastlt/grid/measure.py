"""How fast this machine trains, extracts and multiplies for a cell: some seconds of the real thing."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fastlt.core.device import pick_device, work_on
from fastlt.core.log import Progress
from fastlt.core.ranks import ALONE
from fastlt.data.pipeline.loader import Loader
from fastlt.experiment.loaders import Loaders
from fastlt.experiment.options import Options
from fastlt.grid.cells import Cell
from fastlt.longtail.sampler import make_sampler
from fastlt.models.backbones import Model, build_model, parameters
from fastlt.stage2.features.extract import extract
from fastlt.training.trainer import Trainer

SECONDS = 4.0  # that training is measured for, behind a first step that compiles; others take less
CPU_BATCH = 32  # images; a rate on a CPU hardly depends on it, and 512 of them would take minutes
ENDLESS = 10**6  # images to extract from


@dataclass(frozen=True)
class Rates:
    """Images per second: `train` of stage 1, loading included, `extract` of features; products: floating-point
    operations per second of stage 2. length: of a feature; weights: of the model."""

    train: float
    extract: float
    products: float
    length: int
    weights: int


def measure(cell: Cell, options: Options, threads: int) -> Rates:
    """Trains and extracts for some seconds as the cell would, with its own images."""
    device = pick_device(cell.config.device)
    work_on(device)
    batch = options.protocol["batch"] if device.type == "cuda" else min(options.protocol["batch"], CPU_BATCH)
    options = replace(options, protocol={**options.protocol, "batch": batch, "pretrained": None}, accumulate=1)
    torch.set_num_threads(threads)
    loaders = Loaders(cell.dataset, options, device, threads, ALONE)
    train = cell.dataset.split("train")
    own = options.sampler_options
    sampler = make_sampler(train.class_members, train.class_start, options.sampler, 0, 1, options=own)
    model = build_model(options.backbone, cell.dataset.classes, 0, options.image_size, options=options.backbone_options)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with loaders.train(sampler) as batches:
        fit = Trainer(
            model, options.schedule(), options.recipe(train.counts.tolist()), batches, None, 0, options.precision
        )
        trained = _train_rate(fit)
    with loaders.evaluation("test", np.resize(cell.dataset.split("test").class_members, ENDLESS)) as images:
        extracted = _extract_rate(model, images, options.precision)
    length = model.classifier.in_features
    products = _product_rate(options.protocol["crt"]["batch"], length, cell.dataset.classes, device)
    return Rates(trained, extracted, products, length, parameters(model))


class _Enough(Exception):
    """Measured for long enough."""


def _train_rate(fit: Trainer) -> float:
    marks: list[tuple[float, int]] = []

    def between(_: bool) -> None:
        if fit.train.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append((time.monotonic(), fit.images))
        if len(marks) > 1 and marks[-1][0] - marks[0][0] > SECONDS:
            raise _Enough

    with contextlib.suppress(_Enough), Progress("measuring", fit.batch * fit.steps) as progress:
        for _ in range(fit.schedule.epochs):
            fit.finish_epoch(progress, between)
    return _rate(marks)


def _extract_rate(model: Model, images: Loader, precision: str) -> float:
    marks: list[tuple[float, int]] = []
    seen = 0
    for rows in extract(model, images, precision, 0, 0):
        seen += len(rows.labels)
        marks.append((time.monotonic(), seen))
        if len(marks) > 1 and marks[-1][0] - marks[0][0] > SECONDS / 2:
            break
    return _rate(marks)


def _product_rate(batch: int, length: int, classes: int, device: torch.device) -> float:
    x, weight = torch.randn(batch, length, device=device), torch.randn(length, classes, device=device)
    marks: list[tuple[float, int]] = []
    while not marks or marks[-1][0] - marks[0][0] < SECONDS / 8:
        float((x @ weight)[0, 0])  # waits for a GPU
        marks.append((time.monotonic(), 2 * len(marks) * batch * length * classes))
    return _rate(marks)


def _rate(marks: Sequence[tuple[float, int]]) -> float:
    """Units per second between the first and the last mark."""
    (start, first), (end, last) = marks[0], marks[-1]
    return (last - first) / max(end - start, 1e-9) if last > first else last / SECONDS
