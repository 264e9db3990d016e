"""One experiment: representation (trained or reused) -> features -> all classifiers -> results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt import device as machine
from fastlt.backbones import parameters
from fastlt.classifiers import CLASSIFIERS
from fastlt.classifiers.base import Features, Task, Training
from fastlt.errors import UserError
from fastlt.evaluate import evaluate
from fastlt.features import FeatureStore
from fastlt.groups import class_groups, group_sizes
from fastlt.log import say
from fastlt.pipeline.loader import Loader
from fastlt.plan import Augment
from fastlt.representation import Representation, Schedule, Settings, hold_out, train_representation
from fastlt.sampler import InOrder, Order, Sampler
from fastlt.shards.reader import Dataset

SCHEMA = 1
CHOOSE_ON = ("auto", "val", "held_out", "train", "test")
STAGE_2 = ("crt", "lws")  # sections of a protocol that concern no representation


@dataclass(frozen=True)
class Options:
    """What one experiment does; plain values, checked at construction. Meanings as in config.TrainConfig."""

    backbone: str
    sampler: str
    drawing: str
    protocol: dict[str, Any]
    seed: int
    epochs: int
    image_size: int
    classifiers: list[str]
    hold_out: float
    choose_on: str
    precision: str
    overwrite: bool
    max_damaged: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.classifiers if name not in CLASSIFIERS]
        if unknown or not self.classifiers:
            raise UserError(f"classifiers={self.classifiers}: allowed are {', '.join(CLASSIFIERS)}, one or more")
        if self.choose_on not in CHOOSE_ON:
            raise UserError(f"choose_on={self.choose_on} is unknown: allowed are {', '.join(CHOOSE_ON)}")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}: it must be 0 or more")
        if self.max_damaged < 0:
            raise UserError(f"max_damaged={self.max_damaged}: it must be 0 or more")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision={self.precision} is unknown: allowed are auto, fp32, bf16")

    def settings(self, digest: str) -> Settings:
        """What determines the representation trained on the dataset of this digest."""
        stage_1 = {name: value for name, value in self.protocol.items() if name not in STAGE_2}
        protocol = {
            f"protocol.{name}": value
            for name, value in stage_1.items()
            if name not in ("backbone", "epochs", "image_size")
        }
        return Settings(
            {
                "dataset": digest,
                "backbone": self.backbone,
                "sampler": self.sampler,
                "drawing": self.drawing,
                "epochs": self.epochs,
                "image_size": self.image_size,
                "seed": self.seed,
                "hold_out": self.hold_out,
                "precision": self.precision,
                **protocol,
            }
        )

    def choose_split(self, dataset: Dataset) -> str:
        """The split hyper-parameters are chosen on."""
        offered = {"held_out": self.hold_out > 0, "val": "val" in dataset.splits, "train": True, "test": True}
        if self.choose_on == "auto":
            return next(name for name, there in offered.items() if there)
        if not offered[self.choose_on]:
            raise UserError(
                f"choose_on={self.choose_on}: there is no such split here; allowed are "
                f"{', '.join(name for name, there in offered.items() if there)} (hold_out=0.1 makes held_out)"
            )
        return self.choose_on

    def run_name(self, dataset: Dataset) -> str:
        """A folder name that tells runs apart, by eye and by the representation's key."""
        key = self.settings(dataset.digest).key[:8]
        return f"{dataset.name}_{self.backbone}_{self.sampler}_seed{self.seed}_{key}"


def run_experiment(
    dataset: Dataset, options: Options, folder: Path, device: torch.device, threads: int
) -> dict[str, Any]:
    """Does what `options` say in the run folder and returns what results.json holds.

    A finished representation and its features are reused. Raises UserError before anything is written where options and
    dataset do not fit.
    """
    if "test" not in dataset.splits:
        raise UserError(f"{dataset.root} has no test split to evaluate on: convert it with one")
    choose_on = options.choose_split(dataset)
    train_index = dataset.split("train")
    kept, held = hold_out(train_index.class_start, train_index.class_members, options.hold_out, options.seed)
    orders: dict[str, tuple[str, np.ndarray]] = {"train": ("train", kept)}
    if choose_on == "held_out":
        orders["held_out"] = ("train", held)
    for split in ("val", "test"):
        if split in dataset.splits:
            orders[split] = (split, dataset.split(split).class_members)

    loaders = _Loaders(dataset, options, device, threads)
    representation = _representation(dataset, options, folder, loaders, orders)
    store = FeatureStore(folder / "features.h5", representation.key)
    if not all(store.has(split) for split in orders):
        stored = {name: loaders.evaluation(split, ids) for name, (split, ids) in orders.items()}
        store.write(stored, representation.model, options.precision)
        for loader in stored.values():
            loader.close()

    features = {}
    for split in {"train", choose_on, "test"}:
        x, labels = store.read(split)
        features[split] = Features(torch.from_numpy(x).to(device), torch.from_numpy(labels).to(device))
    groups = class_groups(train_index.counts)
    joint = representation.model.classifier
    task = Task(
        train=features["train"],
        choose=features[choose_on],
        choose_on=choose_on,
        weight=joint.weight.detach(),
        bias=joint.bias.detach(),
        groups=groups,
        training={name: Training(**options.protocol[name]) for name in STAGE_2},
        seed=options.seed,
    )
    if "tau_norm" in options.classifiers:
        _say_choice(choose_on)
    return {
        **_about(dataset, options, representation, choose_on),
        "classifiers": {name: _classifier(name, task, features, choose_on) for name in options.classifiers},
        "versions": machine.versions(),
        "device": machine.describe(device, threads),
    }


class _Loaders:
    """Loaders of one experiment."""

    def __init__(self, dataset: Dataset, options: Options, device: torch.device, threads: int):
        self.dataset, self.options, self.device, self.threads = dataset, options, device, threads
        protocol = options.protocol
        self._train = Augment(
            size=options.image_size,
            crop=protocol["crop"],
            scale=tuple(protocol["scale"]),
            pad=protocol["pad"],
            flip=True,
            jitter=protocol["jitter"],
        )
        self._evaluation = Augment(size=options.image_size, keep=protocol["keep"])

    def train(self, order: Order) -> Loader:
        """Training batches of full size."""
        return self._loader("train", order, self._train, self.options.protocol["batch"], drop_last=True)

    def evaluation(self, split: str, ids: np.ndarray) -> Loader:
        """Every one of these samples once. Damaged ones of train are replaced; in val and test there must be none."""
        order = InOrder(ids, self.dataset.split(split).label[ids] if split == "train" else None)
        return self._loader(split, order, self._evaluation, min(self.options.protocol["batch"], 256))

    def _loader(self, split: str, order: Order, augment: Augment, batch: int, drop_last: bool = False) -> Loader:
        options = {"drop_last": drop_last, "max_damaged": self.options.max_damaged}
        return Loader(
            self.dataset, split, order, augment, batch, self.options.seed, self.device, self.threads, **options
        )


def _representation(
    dataset: Dataset, options: Options, folder: Path, loaders: _Loaders, orders: dict[str, tuple[str, np.ndarray]]
) -> Representation:
    protocol = options.protocol
    schedule = Schedule(
        options.epochs, protocol["lr"], protocol["momentum"], protocol["weight_decay"], protocol["warmup_epochs"]
    )
    kept = orders["train"][1]
    labels = dataset.split("train").label[kept]
    start = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=dataset.classes))]).astype(np.int64)
    sampler = Sampler(kept, start, options.sampler, options.seed, options.epochs, options.drawing)
    with loaders.train(sampler) as train:
        val = loaders.evaluation(*orders["val"]) if "val" in orders else None
        representation = train_representation(
            options.settings(dataset.digest),
            schedule,
            options.backbone,
            dataset.classes,
            options.seed,
            train,
            val,
            folder,
            options.precision,
            options.overwrite,
        )
        if val is not None:
            val.close()
    return representation


def _about(dataset: Dataset, options: Options, representation: Representation, choose_on: str) -> dict[str, Any]:
    counts = dataset.split("train").counts
    return {
        "schema": SCHEMA,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "backbone": options.backbone,
        "sampler": options.sampler,
        "drawing": options.drawing,
        "seed": options.seed,
        "protocol": options.protocol["name"],
        "key": representation.key,
        "epochs": options.epochs,
        "image_size": options.image_size,
        "parameters": parameters(representation.model),
        "checkpoint": {"epoch": representation.epoch, "chosen": representation.chosen},
        "seconds": round(representation.seconds, 3),
        "images_per_second": round(representation.images / representation.seconds, 1),
        "class_names": dataset.class_names,
        "class_counts": {name: split.counts.tolist() for name, split in dataset.splits.items()},
        "groups": group_sizes(counts),
        "choose_on": choose_on,
        "hold_out": options.hold_out,
    }


def _classifier(name: str, task: Task, features: dict[str, Features], choose_on: str) -> dict[str, Any]:
    fitted = CLASSIFIERS[name](task)
    result = evaluate(fitted.scores, features["test"], task.groups)
    result["choices"] = fitted.choices
    if fitted.weight is not None:
        result["weight_norms"] = fitted.weight.norm(dim=1).tolist()
    if fitted.curves is not None:
        result["curves"] = {split: fitted.curves(features[split]) for split in dict.fromkeys((choose_on, "test"))}
    return result


def _say_choice(choose_on: str) -> None:
    if choose_on == "train":
        say("no val split: tau is chosen on the training images themselves; hold_out=0.1 keeps some apart for it")
    if choose_on == "test":
        say("tau is chosen on the test split, as asked: its results are marked, and no fair test of it")


def write_results(results: dict[str, Any], folder: Path) -> Path:
    """Writes results.json whole or not at all; its path."""
    path = folder / "results.json"
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)
    return path
