"""One experiment: representation (trained or reused) -> features -> all classifiers -> results."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt.core import device as machine
from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.core.log import say
from fastlt.core.ranks import ALONE, Ranks, leave
from fastlt.core.settings import Settings
from fastlt.data.hold_out import hold_out
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.loaders import Loaders
from fastlt.experiment.options import Options
from fastlt.experiment.results import about
from fastlt.experiment.retrain import Choose, Retraining, retrain
from fastlt.longtail.losses import classifier_of
from fastlt.longtail.sampler import make_sampler
from fastlt.models.backbones import Model, build_model, freeze_before
from fastlt.models.checkpoint.pretrained import load_pretrained
from fastlt.models.checkpoint.store import load_model
from fastlt.registry import is_own
from fastlt.stage2.classifiers.base import Features, Task
from fastlt.stage2.classify import Job, classify
from fastlt.stage2.decision_regions import plane_of
from fastlt.stage2.features import FeatureStore
from fastlt.training.representation import Representation, train_representation
from fastlt.training.trainer import Trainer


def run_experiment(
    dataset: Dataset, options: Options, folder: Path, device: torch.device, threads: int, ranks: Ranks = ALONE
) -> dict[str, Any] | None:
    """Does what `options` say in the run folder and returns what results.json holds; None on all ranks but the first,
    which train with it and are done then.

    What is finished, a representation, its features, a classifier, is used again. Raises UserError before anything is
    written where options and dataset do not fit.
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

    _say_choice(choose_on, options.names(), "val" in dataset.splits)
    loaders = Loaders(dataset, options, device, threads, ranks)
    representation = _representation(dataset, options, folder, loaders, orders, ranks)
    bases = dict.fromkeys(options.names(), representation)
    for name, retraining in options.retrainings().items():
        keeping = options.keeping(folder / name)
        start = _class_start(dataset, kept)
        chosen = Choose(choose_on, *orders[choose_on]) if choose_on in orders else None
        bases[name] = retrain(retraining, representation, loaders, kept, start, keeping, ranks, chosen)
    leave(ranks)
    if not ranks.main:
        return None
    features = _features(representation, options, folder, loaders, orders, options.views)

    test = features["test"]
    plane = plane_of(test.x.cpu().numpy(), test.labels.cpu().numpy()) if test.x.shape[1] == 2 else None

    def jobs() -> Iterator[Job]:
        for name, base in bases.items():
            retraining = options.retrainings().get(name)
            own = retraining is not None and not retraining.keeps_backbone
            seen = _features(base, options, folder / name, loaders, orders) if own else features
            if base is representation:  # absolute, if it lies elsewhere: a run folder is read from anywhere
                path = str(Path(options.representation).resolve()) if options.representation else "checkpoint.pt"
            else:
                path = f"{name}/checkpoint.pt"
            job = _job(name, base, dataset, options, seen, choose_on, path, None if own else plane)
            yield replace(job, trained=_trained(retraining, base, choose_on)) if retraining else job

    return {
        **about(dataset, options, representation, choose_on),
        **({} if plane is None else {"plane": plane}),
        "classifiers": classify(jobs(), folder / "classifiers", len(bases)),
        "versions": machine.versions(),
        "device": machine.describe(device, threads),
    }


def _features(
    representation: Representation,
    options: Options,
    folder: Path,
    loaders: Loaders,
    orders: dict[str, tuple[str, np.ndarray]],
    views: int = 0,
) -> dict[str, Features]:
    """Features of every split, and `views`: those of train with the augmented passes behind them."""
    store = FeatureStore(folder / "features.h5", representation.key, options.feature_dtype, views)
    if not all(store.has(split) for split in orders):
        with contextlib.ExitStack() as stack:
            stored = {name: stack.enter_context(loaders.evaluation(*order)) for name, order in orders.items()}
            passes = stack.enter_context(loaders.views(orders["train"][1])) if views else None
            store.write(stored, representation.model, options.precision, passes)

    def read(split: str) -> Features:
        x, labels = store.read(split, views=split == "train")
        return Features(torch.from_numpy(x).to(loaders.device), torch.from_numpy(labels).to(loaders.device))

    features = {split: read(split) for split in orders}
    every = features["train"]
    seen = len(every) // (1 + views)
    return {**features, "train": Features(every.x[:seen], every.labels[:seen]), "views": every}


def _job(
    name: str,
    base: Representation,
    dataset: Dataset,
    options: Options,
    features: dict[str, Features],
    choose_on: str,
    checkpoint: str,
    plane: dict[str, Any] | None,
) -> Job:
    counts = dataset.split("train").counts
    task = Task(
        train=features["train"],
        views=features["views"],
        choose=features.get(choose_on),
        choose_on=choose_on,
        joint=base.model.classifier,
        counts=np.bincount(features["train"].labels.cpu().numpy(), minlength=dataset.classes),
        groups=class_groups(counts),
        stage2=options.trainings(),
        seed=options.seed,
    )
    determined = {
        "representation": base.key,
        "feature_dtype": options.feature_dtype,
        "hold_out": options.hold_out,
        "seed": options.seed,
    }
    return Job(name, task, features["test"], counts, determined, checkpoint, plane)


def _trained(retraining: Retraining, base: Representation, choose_on: str) -> dict[str, Any]:
    """How a classifier was trained on images, for results.json."""
    training = retraining.training
    told = {"epochs": training.epochs, "batch": training.batch, "lr": training.lr[0]}
    told |= {"weight_decay": training.weight_decay[0]}
    return told | ({"epoch": base.epoch, "chosen_on": choose_on} if retraining.stage2.keep == "best" else {})


def _class_start(dataset: Dataset, kept: np.ndarray) -> np.ndarray:
    """Where each class begins among the training images that are kept, int64 [C + 1]."""
    sizes = np.bincount(dataset.split("train").label[kept], minlength=dataset.classes)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _representation(
    dataset: Dataset,
    options: Options,
    folder: Path,
    loaders: Loaders,
    orders: dict[str, tuple[str, np.ndarray]],
    ranks: Ranks,
) -> Representation:
    if options.representation:
        return _given(Path(options.representation), dataset, options, loaders.augment, loaders.device)
    kept = orders["train"][1]
    start = _class_start(dataset, kept)
    drawn = options.sampler, options.seed, options.epochs, options.drawing, options.sampler_options
    sampler = make_sampler(kept, start, *drawn)
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(loaders.train(sampler))
        val = None
        if "val" in orders:
            split, ids = orders["val"]
            val = stack.enter_context(loaders.evaluation(split, ids[ranks.rank :: ranks.world]))
        model = _model(dataset, options, loaders.device, ranks)
        schedule, recipe = options.schedule(), options.recipe(np.diff(start).tolist())
        groups = class_groups(dataset.split("train").counts)
        how = options.seed, options.precision, ranks, options.stage(), groups
        fit = Trainer(model, schedule, recipe, train, val, *how)
        return train_representation(options.settings(dataset.digest), fit, options.keeping(folder))


def _given(path: Path, dataset: Dataset, options: Options, augment: Augment, device: torch.device) -> Representation:
    """A representation that was trained elsewhere. Its key here is of what its features depend on."""
    model, state = load_model(path, options.backbone if is_own(options.backbone) else None)
    classes = model.classifier.out_features
    if classes != dataset.classes:
        raise UserError(f"{path} has {classes} classes, {dataset.root} {dataset.classes}: choose another of the two")
    about = {
        "representation": state["key"],
        "dataset": dataset.digest,
        "image_size": options.image_size,
        "keep": options.protocol["keep"],
        "precision": options.precision,
    }
    if options.protocol["mean"]:
        about |= options.normalization(dataset)
    if options.views:
        about |= {"augment": {**asdict(augment), "scale": list(augment.scale)}, "seed": options.seed}
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    known = state["settings"], state["epoch"], f"given: {path}", state["seconds"], state["images"]
    return Representation(model, Settings(about).key, *known)


def _model(dataset: Dataset, options: Options, device: torch.device, ranks: Ranks) -> Model:
    """The model as stage 1 begins with it."""
    classifier = classifier_of(options.protocol["loss"])
    head = classifier, options.protocol["head_start"], options.backbone_options
    model = build_model(options.backbone, dataset.classes, options.seed, options.image_size, *head)
    if options.protocol["pretrained"]:
        with ranks.one_after_another():
            load_pretrained(model, options.protocol["pretrained"])
    if options.protocol["train_from"]:
        freeze_before(model, options.protocol["train_from"])
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _say_choice(choose_on: str, names: list[str], val: bool) -> None:
    """Before the training: to keep images apart behind it means to train again."""
    if choose_on == "none" and names != ["joint"]:
        say(
            f"{'as asked' if val else 'no val split'}: nothing is chosen (tau is 1 where none is given), and no "
            "temperature is fitted"
            + ("" if val else "; hold_out=0.1 keeps training images apart for these choices, from stage 1 on")
        )
    if choose_on == "train" and names != ["joint"]:
        say(
            "tau and other settings are chosen on the training images themselves, as asked: where the network knows "
            "them by heart the choice means nothing; no temperature is fitted"
        )
    if choose_on == "test":
        say("settings are chosen on the test split, as asked: results are marked, and no fair test of them")
