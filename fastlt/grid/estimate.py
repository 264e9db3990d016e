"""What a grid will take, before it is begun: seconds and bytes of every cell."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from fastlt.core.log import duration, say
from fastlt.experiment.options import Options
from fastlt.grid.cells import Cell
from fastlt.grid.measure import Rates, measure
from fastlt.stage2.classifiers import IMAGE_CLASSIFIERS
from fastlt.train import options_of

FIXED = ("joint", "ncm_", "tau_norm", "tau_train", "logit_adjust")  # classifiers without training; prefixes
WEIGHT = 4  # bytes
# What a checkpoint of a training under way holds, in weights: the model, its momentum, and the checkpoint before it.
UNDER_WAY = 4


@dataclass(frozen=True)
class Cost:
    """seconds of a cell; peak: bytes on disk while it is computed; kept: bytes that stay."""

    seconds: float
    peak: int
    kept: int


def print_estimate(cells: Sequence[Cell], slots: int, threads: int, out: Path) -> None:
    """Lists the cells with what they will take, and all of them together on so many slots of so many threads each.

    Rates are measured here, on the real data, for every backbone and kind of input that is not finished.
    """
    costs: dict[str, Cost] = {}
    rates: dict[tuple, Rates] = {}
    for cell in cells:
        if cell.finished:
            continue
        options = options_of(cell.config)
        protocol = options.protocol
        key = (cell.dataset.root, options.backbone, options.image_size, protocol["batch"], options.precision)
        if key not in rates:
            say(f"measuring {options.backbone} at {options.image_size} pixels on {cell.dataset.name}")
            rates[key] = found = measure(cell, options, threads)
            where = f"{cell.config.device}, {threads} threads"
            told = f"trains {found.train:.0f} and extracts {found.extract:.0f} images/s"
            sys.stdout.write(f"measured here ({where}): {options.backbone} at {options.image_size} pixels {told}\n")
        costs[cell.name] = cost(cell, options, rates[key])
    width = max(len(cell.name) for cell in cells)
    sys.stdout.write(f"{'cell':{width}}  epochs      time      disk\n")
    for cell in cells:
        found = costs.get(cell.name)
        told = f"{duration(found.seconds):>8}  {_size(found.kept):>8}" if found else "finished"
        sys.stdout.write(f"{cell.name:{width}}  {cell.config.epochs:6}  {told}\n")
    seconds = sum(found.seconds for found in costs.values())
    longest = max((found.seconds for found in costs.values()), default=0.0)
    kept, peak = (sum(getattr(found, name) for found in costs.values()) for name in ("kept", "peak"))
    beside = min(slots, len(costs))
    peak = kept + beside * max((found.peak - found.kept for found in costs.values()), default=0)
    free = disk_usage(next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())).free
    wall = max(seconds / max(beside, 1), longest)
    about = f"{len(costs)} of {len(cells)} cells to compute, {beside} side by side: about {duration(wall)}"
    sys.stdout.write(f"{about}, {_size(kept)} of disk ({_size(peak)} while it runs, {_size(free)} free)\n")
    if peak > free:
        say(f"{out}: the disk is too small for this grid: choose out=DIR on another one")


def cost(cell: Cell, options: Options, rates: Rates) -> Cost:
    """What a cell takes at these rates."""
    sizes = {name: len(split.label) for name, split in cell.dataset.splits.items()}
    stage2, trained = options.trainings(), 0
    for name in options.names():
        trained += not name.startswith(FIXED) and name not in IMAGE_CLASSIFIERS
    on_images = sum(name in IMAGE_CLASSIFIERS for name in options.names())
    settings = len(stage2.crt.lr) * len(stage2.crt.weight_decay) * stage2.seeds
    rows, classes = sizes["train"] * (1 + options.views), cell.dataset.classes
    # A step of a linear classifier is two products, that of the scores and that of the gradient.
    operations = trained * settings * stage2.crt.epochs * rows * rates.length * classes * 4
    seconds = (
        (0 if options.representation else options.epochs) * sizes["train"] / rates.train
        + (sum(sizes.values()) + options.views * sizes["train"]) / rates.extract
        + on_images * stage2.crt.epochs * sizes["train"] / rates.train
        + operations / rates.products
    )
    features = (sum(sizes.values()) + options.views * sizes["train"]) * rates.length * WEIGHT
    model = rates.weights * WEIGHT
    classifiers = len(options.names()) * stage2.seeds * rates.length * classes * WEIGHT
    kept = features + model * (1 + on_images) + classifiers
    return Cost(seconds, kept + UNDER_WAY * model, kept)


def _size(count: float) -> str:
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} TB"
