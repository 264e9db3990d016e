"""Measures how fast this machine trains, extracts features and trains classifiers for a cell, in a few seconds."""

import contextlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import torch

from fastlt.core.device import pick_device, work_on
from fastlt.core.log import Progress
from fastlt.core.ranks import ALONE
from fastlt.data.pipeline.loader import Loader
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.given import GivenDataset
from fastlt.experiment.loaders import Loaders
from fastlt.grid.cells import Cell
from fastlt.longtail.losses import make_loss
from fastlt.longtail.sampler import make_sampler
from fastlt.models.backbones import Model, build_model, parameters
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.classifiers.heads import Linear
from fastlt.stage2.classifiers.sgd import Step
from fastlt.stage2.features.extract import extract
from fastlt.training.trainer import Trainer

SECONDS = 4.0  # how long training is measured, after a first step that compiles; other measurements are shorter
CPU_BATCH = 32  # images; the rate on a CPU hardly depends on the batch size, and a batch of 512 would take minutes
ENDLESS = 10**6  # images in the loader from which features are extracted, more than are ever used


@dataclass(frozen=True)
class Rates:
    """Measured rates and sizes.

    train: images per second of stage 1, including loading. extract: images per second of feature extraction.
    rows: rows per second at which a classifier is trained on features, with all its seeds and settings at once.
    length: dimension of the features. weights: number of the model's parameters.
    """

    train: float
    extract: float
    rows: float
    length: int
    weights: int


def measure(cell: Cell, threads: int) -> Rates:
    """Measures the rates of a cell by training and extracting features with its images for a few seconds.

    For a cell on given features only the training of a classifier is measured. threads: of the CPU.
    """
    device = pick_device(cell.config.device)
    work_on(device)
    torch.set_num_threads(threads)
    if isinstance(cell.dataset, GivenDataset):
        dim, classes = cell.dataset.given.dim, cell.dataset.classes
        return Rates(inf, inf, _row_rate(cell.config, dim, classes, device), dim, (dim + 1) * classes)
    protocol, backbone = cell.config.protocol, cell.config.backbone
    batch = protocol.batch if device.type == "cuda" else min(protocol.batch, CPU_BATCH)
    config = replace(cell.config, protocol=replace(protocol, batch=batch, pretrained=None), accumulate=1)
    loaders = Loaders(cell.dataset, config, device, threads, ALONE)
    train = cell.dataset.split("train")
    sampler = make_sampler(train.class_members, train.class_start, config.sampler, 0, 1)
    model = build_model(backbone.name, cell.dataset.classes, 0, config.image_size, options=backbone.options)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with loaders.train(sampler) as batches:
        fit = Trainer(model, config.schedule, protocol, batches, None, 0, config, class_counts=train.counts)
        trained = _train_rate(fit) if config.epochs else inf  # with epochs=0 nothing is trained on images
    with loaders.evaluation("test", np.resize(cell.dataset.split("test").class_members, ENDLESS)) as images:
        extracted = _extract_rate(model, images, config.precision)
    length = model.classifier.in_features
    rows = _row_rate(config, length, cell.dataset.classes, device)
    return Rates(trained, extracted, rows, length, parameters(model))


class _Enough(Exception):
    """Raised to end a measurement."""


class _Unseen(Progress):
    """Counts and shows nothing: a measurement is over in seconds, and never at the end of the epoch."""

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count


def _train_rate(fit: Trainer) -> float:
    marks: list[tuple[float, int]] = []

    def between(_: bool) -> None:
        if fit.train.device.type == "cuda":
            torch.cuda.synchronize()
        marks.append((time.monotonic(), fit.images))
        if len(marks) > 1 and marks[-1][0] - marks[0][0] > SECONDS:
            raise _Enough

    with contextlib.suppress(_Enough), _Unseen("", 0, stream=io.StringIO()) as progress:
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


def _row_rate(config: TrainConfig, length: int, classes: int, device: torch.device) -> float:
    stage2 = config.trainings
    batch, seeds = stage2.crt.batch, list(range(stage2.seeds))
    settings = [{"lr": lr, "weight_decay": 0.0} for lr in stage2.rates(stage2.crt) for _ in stage2.decays(stage2.crt)]
    labels = torch.arange(batch, device=device) % classes
    rows = Features(torch.randn(batch, length, device=device), labels)
    loss = make_loss("cross_entropy", torch.bincount(labels, minlength=classes))
    head = Linear(length, classes, seeds, len(settings), device)
    step = Step(head, rows, len(seeds), batch, settings, loss)
    ids = torch.arange(batch).expand(len(seeds), batch)
    marks: list[tuple[float, int]] = []
    while not marks or marks[-1][0] - marks[0][0] < SECONDS / 8:
        step(ids, 0.0)
        float(head.parameters[0].detach().flatten()[0])  # reading a value waits for the GPU
        marks.append((time.monotonic(), len(marks) * batch))
    return _rate(marks)


def _rate(marks: Sequence[tuple[float, int]]) -> float:
    """Returns units per second between the first and the last mark of (time, units)."""
    (start, first), (end, last) = marks[0], marks[-1]
    return (last - first) / max(end - start, 1e-9) if last > first else last / SECONDS
