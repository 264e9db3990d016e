"""Estimates the time and disk space of a grid before it is started."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

import torch

from fastlt.core.log import duration, say, speed
from fastlt.core.words import counted
from fastlt.experiment.choosing import choose_split
from fastlt.grid.cells import Cell
from fastlt.grid.measure import Rates, measure
from fastlt.stage2.classifiers import CLASSIFIERS, IMAGE_CLASSIFIERS
from fastlt.stage2.classifiers.base import FOLDS

# Classifiers without training, but for the joint ones on the folds that choose tau.
OVER_TAU = ("tau_norm", "logit_adjust", "logit_adjust_mult")
FIXED = ("joint", "tau_train", *OVER_TAU, *(name for name in CLASSIFIERS if name.startswith("ncm_")))
START = 5.0  # seconds, about, until the process of a cell begins to compute
WEIGHT = 4  # bytes
# Checkpoints of an unfinished training, in multiples of the model: weights and momentum, of this one and the last one.
UNDER_WAY = 4


@dataclass(frozen=True)
class Cost:
    """The cost of a cell. seconds: of computing. peak: bytes on disk meanwhile. kept: bytes on disk afterwards."""

    seconds: float
    peak: int
    kept: int


def print_estimate(cells: Sequence[Cell], slots: int, threads: int, out: Path) -> None:
    """Prints the estimated time and disk space of each cell and of the whole grid.

    slots: how many cells run at the same time. threads: of each slot. Rates are measured on this machine, with the real
    data, once for every backbone, kind of input and number of classifiers at once among the unfinished cells. Where
    this machine lacks the GPU of the cells, as a login node does, they are listed without time and disk.
    """
    costs: dict[str, Cost] = {}
    rates: dict[tuple, Rates] = {}
    missing = [cell for cell in cells if not cell.finished]
    lacking = any(cell.config.device == "cuda" for cell in missing) and not torch.cuda.is_available()
    for cell in () if lacking else missing:
        config, backbone = cell.config, cell.config.backbone.name
        stage2 = (config.stage2.seeds, config.stage2.lr, config.stage2.weight_decay, config.protocol.crt.batch)
        key = (cell.dataset.root, backbone, config.image_size, config.protocol.batch, config.precision, *stage2)
        key += (config.epochs > 0,)
        if key not in rates:
            what = "classifiers" if config.features else f"{backbone} at {config.image_size} pixels"
            say(f"measuring {what} on {cell.dataset.name}")
            rates[key] = found = measure(cell, threads)
            where = f"{cell.config.device}, {counted(threads, 'thread')}"
            trained = f"trains {speed(found.train, 'images')} and " if config.epochs else ""
            told = f"{trained}extracts {speed(found.extract, 'images')}"
            told = f"train on {found.rows:,.0f} rows/s" if config.features else told
            sys.stdout.write(f"measured here ({where}): {what} {told}\n")
        costs[cell.name] = cost(cell, rates[key])
    width = max(len(cell.name) for cell in cells)
    sys.stdout.write(f"{'cell':{width}}  epochs      time      disk\n")
    for cell in cells:
        found = costs.get(cell.name)
        told = "finished" if cell.finished else f"{'?':>8}  {'?':>8}"
        if found:
            told = f"{duration(found.seconds):>8}  {_size(found.kept):>8}"
        config = cell.config
        epochs = config.trainings.crt.epochs if config.features else config.epochs
        sys.stdout.write(f"{cell.name:{width}}  {epochs:6}  {told}\n")
    if lacking:
        sys.stdout.write(
            f"{len(missing)} of {counted(len(cells), 'cell')} to compute; this machine has no GPU to measure on\n"
        )
        return
    seconds = sum(found.seconds for found in costs.values())
    longest = max((found.seconds for found in costs.values()), default=0.0)
    kept, peak = (sum(getattr(found, name) for found in costs.values()) for name in ("kept", "peak"))
    beside = min(slots, len(costs))
    peak = kept + beside * max((found.peak - found.kept for found in costs.values()), default=0)
    free = disk_usage(next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())).free
    wall = max(seconds / max(beside, 1), longest)
    about = f"{len(costs)} of {counted(len(cells), 'cell')} to compute, {beside} side by side: about {duration(wall)}"
    sys.stdout.write(f"{about}, {_size(kept)} of disk ({_size(peak)} while it runs, {_size(free)} free)\n")
    if peak > free:
        say(f"{out}: the disk is too small for this grid: choose out=DIR on another one")


def cost(cell: Cell, rates: Rates) -> Cost:
    """Estimates the cost of a cell from measured rates."""
    sizes = {name: len(split.label) for name, split in cell.dataset.splits.items()}
    config, names = cell.config, cell.config.classifier_names
    stage2 = config.trainings
    trained = sum(name not in FIXED and name not in IMAGE_CLASSIFIERS for name in names)
    trained += config.features is not None  # the joint classifier
    if choose_split(config, cell.dataset) == "folds" and any(name in OVER_TAU for name in names):
        trained += FOLDS
    on_images = sum(name in IMAGE_CLASSIFIERS for name in names)
    rows, classes = sizes["train"] * (1 + config.augmented_passes), cell.dataset.classes
    seconds = (
        START
        + (0 if config.representation else config.epochs) * sizes["train"] / rates.train
        + (sum(sizes.values()) + config.augmented_passes * sizes["train"]) / rates.extract
        + on_images * stage2.crt.epochs * sizes["train"] / rates.train
        + trained * stage2.crt.epochs * rows / rates.rows
    )
    features = (sum(sizes.values()) + config.augmented_passes * sizes["train"]) * rates.length * WEIGHT
    model = rates.weights * WEIGHT
    classifiers = len(names) * stage2.seeds * rates.length * classes * WEIGHT
    kept = features + model * (1 + on_images) + classifiers
    return Cost(seconds, kept + UNDER_WAY * model, kept)


def _size(count: float) -> str:
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"
