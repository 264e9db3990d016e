"""Tells, before an experiment begins, what it will do."""

import torch

from fastlt.core import device as machine
from fastlt.core.groups import GROUPS, group_sizes
from fastlt.core.words import counted
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.given import GivenDataset
from fastlt.stage2.classifiers import NEED_LINEAR, SETS

CHOSEN_ON = {
    "val": "val",
    "held_out": "held-out training images",
    "folds": "five folds of train",
    "train": "the training images themselves",
    "test": "test, as asked",
}
SHOWN = 8  # classifiers that are named; of more, the number is told


def announced(config: TrainConfig, dataset: Dataset, choose_on: str, device: torch.device, threads: int) -> list[str]:
    """Returns lines for the log: the data and its groups of classes, stage 1, and stage 2.

    choose_on: as `choose_split` returns it. threads: of the CPU.
    """
    counts = dataset.split("train").counts
    groups = ", ".join(f"{many} {name}" for name, many in group_sizes(counts).items() if name in GROUPS and many)
    given = isinstance(dataset, GivenDataset)
    kind = "training row" if given else "training image"
    others = [f"{len(dataset.split(name)):,} for {name}" for name in ("val", "test") if name in dataset.splits]
    data = f"data: {dataset.name}, {counted(dataset.classes, 'class')} ({groups}), {counted(int(counts.sum()), kind)}"
    data += f" ({100 * config.hold_out:g} % of them held out)" if config.hold_out else ""
    data += f", from {counts.max():,} to {counts.min():,} a class; {', '.join(others)}"

    names = config.classifier_names
    told = f"stage 2: {', '.join(names) if len(names) <= SHOWN else counted(len(names), 'classifier')}"
    if choose_on in CHOSEN_ON and names != ["joint"]:
        told += f"; settings are chosen on {CHOSEN_ON[choose_on]}"
    left_out = [name for name in NEED_LINEAR if any(name in SETS.get(asked, ()) for asked in config.classifiers)]
    if left_out and config.head_kind != "linear":
        told += f"; without {', '.join(left_out)}, as the head is no linear one"
    lines = [data, *([] if given else [_stage_1(config, device, threads)]), told]
    return lines


def _stage_1(config: TrainConfig, device: torch.device, threads: int) -> str:
    where = f"{config.precision} on {machine.describe(device, threads)}"
    backbone = f"{config.backbone.name}, images of {config.image_size} px"
    if config.representation:
        return f"stage 1: none, as representation={config.representation} is given; {backbone}, {where}"
    if config.epochs == 0:
        return f"stage 1: none, as epochs=0; features of {backbone}, {where}"
    protocol = config.protocol
    how = f"{counted(config.epochs, 'epoch')} with {config.sampler.name} sampling in batches of {protocol.batch}"
    how += f" with {protocol.views_per_image} views each" if protocol.views_per_image > 1 else ""
    more = "; SAM takes two passes over every batch" if protocol.sam.rho else ""
    more += "; SWA takes one more pass over train at the end" if protocol.swa.after < 1 else ""
    return f"stage 1: {backbone}, {how}, protocol {protocol.name}, {where}{more}"
