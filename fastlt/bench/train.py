"""Benchmark of training: python -m fastlt.bench train images=FOLDER_OR_DATASET [backbone=resnet10]."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastlt.bench.config import BenchConfig
from fastlt.bench.images import take_images
from fastlt.bench.loader_data import Data
from fastlt.bench.rows import RATIO, Row, measure_series, ratio, row
from fastlt.bench.train_batches import Synthetic, TorchLoader
from fastlt.core import device as machine
from fastlt.core.batches import Batches
from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.core.schedule import Schedule
from fastlt.core.words import counted
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.experiment.precision import computes_in_bf16
from fastlt.longtail.sampler import Sampler
from fastlt.models.backbones import build_model
from fastlt.training.compute import ComputeConfig
from fastlt.training.recipe import Recipe
from fastlt.training.trainer import Trainer

ENDLESS = 10**6  # epochs; with so many the learning rate hardly changes


def bench_train(config: BenchConfig) -> list[Row]:
    """Measures images per second of complete training steps (forward, backward, SGD) on the same photographs.

    The cases are:

    real: fastlt's loader on unchanged JPEG bytes: RandomResizedCrop, flip, normalize.
    synthetic: batches of noise that are already on the device.
    torch: DataLoader and torchvision's transforms with as many workers.
    real_bf16 or real_fp32: real in the other precision, if the processor supports it. All other cases use float32 on a
        CPU and bf16 on a GPU.
    data_stall (x): the share of the time of real that synthetic does not need, within rounds.

    A round is an epoch of each case. The key `cases` restricts the run to some cases.
    """
    for key in ("files", "copies", "rounds", "batch", "image_size"):
        if getattr(config, key) < 1:
            raise UserError(f"{key}={getattr(config, key)}: it must be at least 1")
    device = machine.pick_device(config.device)
    with tempfile.TemporaryDirectory(dir=config.scratch) as scratch:
        root = Path(scratch).resolve()
        data = Data(root, take_images(config.images, config.files, root / "files"), config.copies, config.threads)
        if config.batch > len(data.paths):
            raise UserError(
                f"batch={config.batch} is larger than the {counted(len(data.paths), 'image')}: choose a smaller one"
            )
        train = data.jpeg.split("train")
        sampler = Sampler(train.class_members, train.class_start, "instance")
        augment = Augment(config.image_size, "resized", flip=True)
        options: dict[str, Any] = {"drop_last": True, "channels_last": True}
        with Loader(data.jpeg, "train", sampler, augment, config.batch, 0, device, config.threads, **options) as real:
            classes = data.jpeg.classes
            noise = Synthetic(len(real), config.batch, config.image_size, classes, device, real.dtype)
            usual, other = ("fp32", "bf16") if device.type == "cpu" else ("bf16", "fp32")
            theirs = data.paths, train.label, config.batch, config.image_size, config.threads, device
            makers: dict[str, Callable[[], Callable[[], float]]] = {
                "real": lambda: _case(config, real, classes, usual),
                "synthetic": lambda: _case(config, noise, classes, usual),
                "torch": lambda: _case(config, TorchLoader(*theirs), classes, usual),
            }
            if device.type == "cuda" or computes_in_bf16():
                makers[f"real_{other}"] = lambda: _case(config, real, classes, other)
            if unknown := [name for name in config.cases if name not in makers]:
                raise UserError(f"cases: {unknown[0]} is unknown, allowed are {', '.join(makers)}")
            cases = {name: make() for name, make in makers.items() if name in (config.cases or makers)}
            series = measure_series(cases, config.rounds, "images/s")
    rows = [row(name, values, "images/s") for name, values in series.items()]
    pairs = [("real", "synthetic"), ("real", "torch"), (f"real_{other}", "real")]
    rows += [ratio(*pair, series) for pair in pairs if series.keys() >= set(pair)]
    if series.keys() >= {"real", "synthetic"}:
        stalls = [1 - real / free for real, free in zip(series["real"], series["synthetic"], strict=True)]
        rows.append(row("data_stall", stalls, RATIO))
    return rows


def _case(config: BenchConfig, source: Batches, classes: int, precision: str) -> Callable[[], float]:
    model = build_model(config.backbone.name, classes, 0, config.image_size)
    model = model.to(source.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    compute = ComputeConfig(precision=precision, compile=config.compile)
    fit = Trainer(model, Schedule(ENDLESS, 0.01, 0.9, 5e-4), Recipe(), source, None, 0, compute)

    def rate() -> float:
        with Progress("training", fit.images + source.images, done=fit.images) as progress:
            return fit.finish_epoch(progress, lambda together: None)["images_per_second"]

    return rate
