"""python -m fastlt.bench train images=FOLDER_OR_DATASET [backbone=resnet10]: images per second of training."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastlt.bench.images import take_images
from fastlt.bench.loader_data import Data
from fastlt.bench.rows import RATIO, Row, measure_series, ratio, row
from fastlt.bench.train_batches import Synthetic, TorchLoader
from fastlt.core import device as machine
from fastlt.core.batches import Batches
from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.core.schedule import Schedule
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.experiment.precision import computes_in_bf16
from fastlt.longtail.sampler import Sampler
from fastlt.models.backbones import build_model
from fastlt.training.recipe import Recipe
from fastlt.training.trainer import Trainer

ENDLESS = 10**6  # epochs: the learning rate then hardly moves


def bench_train(cfg: Any) -> list[Row]:
    """Images/s of whole training steps of a backbone: forward, backward, SGD, on the same photographs.

    real: fastlt's loader on JPEG bytes as found, RandomResizedCrop, flip, normalize. synthetic: batches of noise that
    lie on the device. torch: DataLoader and torchvision's transforms with as many workers. All in float32 on a CPU, in
    bf16 on a GPU; real_bf16, or real_fp32: real in the other precision, where the processor computes in it. A round is
    an epoch of each. data_stall (x): the share of real's time that synthetic does not need, within rounds.
    """
    for key in ("files", "copies", "rounds", "batch", "image_size"):
        if cfg[key] < 1:
            raise UserError(f"{key}={cfg[key]}: it must be at least 1")
    device = machine.pick_device(cfg.device)
    with tempfile.TemporaryDirectory(dir=cfg.scratch) as scratch:
        root = Path(scratch).resolve()
        data = Data(root, take_images(cfg.images, cfg.files, root / "files"), cfg.copies, cfg.threads)
        if cfg.batch > len(data.paths):
            raise UserError(f"batch={cfg.batch} is larger than the {len(data.paths)} images: choose a smaller one")
        train = data.jpeg.split("train")
        sampler = Sampler(train.class_members, train.class_start, "instance")
        augment = Augment(cfg.image_size, "resized", flip=True)
        options: dict[str, Any] = {"drop_last": True, "channels_last": True}
        with Loader(data.jpeg, "train", sampler, augment, cfg.batch, 0, device, cfg.threads, **options) as real:
            classes = data.jpeg.classes
            noise = Synthetic(len(real), cfg.batch, cfg.image_size, classes, device, real.dtype)
            theirs = TorchLoader(data.paths, train.label, cfg.batch, cfg.image_size, cfg.threads, device)
            sources: dict[str, Batches] = {"real": real, "synthetic": noise, "torch": theirs}
            usual, other = ("fp32", "bf16") if device.type == "cpu" else ("bf16", "fp32")
            cases = {name: _case(cfg, source, classes, usual) for name, source in sources.items()}
            if device.type == "cuda" or computes_in_bf16():
                cases[f"real_{other}"] = _case(cfg, real, classes, other)
            series = measure_series(cases, cfg.rounds, "images/s")
    rows = [row(name, values, "images/s") for name, values in series.items()]
    rows += [ratio("real", "synthetic", series), ratio("real", "torch", series)]
    rows += [ratio(name, "real", series) for name in series if name.startswith("real_")]
    stalls = [1 - real / free for real, free in zip(series["real"], series["synthetic"], strict=True)]
    return [*rows, row("data_stall", stalls, RATIO)]


def _case(cfg: Any, source: Batches, classes: int, precision: str) -> Callable[[], float]:
    model = build_model(cfg.backbone.name, classes, 0, cfg.image_size)
    model = model.to(source.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit = Trainer(model, Schedule(ENDLESS, 0.01, 0.9, 5e-4), Recipe(compile=cfg.compile), source, None, 0, precision)

    def rate() -> float:
        with Progress("training", fit.images + source.images, done=fit.images) as progress:
            return fit.finish_epoch(progress, lambda together: None)["images_per_second"]

    return rate
