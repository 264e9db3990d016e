"""One experiment: representation (trained or reused) -> features -> all classifiers -> results."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt import device as machine
from fastlt.backbones import Model, build_model, freeze_before, is_own, parameters
from fastlt.checkpoint.pretrained import load_pretrained
from fastlt.checkpoint.store import load_model
from fastlt.classifiers import CLASSIFIERS
from fastlt.classifiers.base import Features, Task, Training
from fastlt.errors import UserError
from fastlt.evaluate import evaluate
from fastlt.features import FeatureStore
from fastlt.groups import class_groups, group_sizes
from fastlt.hold_out import hold_out
from fastlt.loaders import Loaders
from fastlt.log import say
from fastlt.options import STAGE_2, Options
from fastlt.ranks import ALONE, Ranks, leave
from fastlt.representation import Fit, Representation, Settings, train_representation
from fastlt.sampler import Sampler
from fastlt.shards.reader import Dataset

SCHEMA = 1


def run_experiment(
    dataset: Dataset, options: Options, folder: Path, device: torch.device, threads: int, ranks: Ranks = ALONE
) -> dict[str, Any] | None:
    """Does what `options` say in the run folder and returns what results.json holds; None on all ranks but the first,
    which train the representation with it and are done then.

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

    loaders = Loaders(dataset, options, device, threads, ranks)
    representation = _representation(dataset, options, folder, loaders, orders, ranks)
    leave(ranks)
    if not ranks.main:
        return None
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


def _representation(
    dataset: Dataset,
    options: Options,
    folder: Path,
    loaders: Loaders,
    orders: dict[str, tuple[str, np.ndarray]],
    ranks: Ranks,
) -> Representation:
    if options.representation:
        return _given(Path(options.representation), dataset, options, loaders.device)
    kept = orders["train"][1]
    labels = dataset.split("train").label[kept]
    start = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=dataset.classes))]).astype(np.int64)
    sampler = Sampler(kept, start, options.sampler, options.seed, options.epochs, options.drawing)
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(loaders.train(sampler))
        val = None
        if "val" in orders:
            split, ids = orders["val"]
            val = stack.enter_context(loaders.evaluation(split, ids[ranks.rank :: ranks.world]))
        model = _model(dataset, options, loaders.device, ranks)
        schedule, recipe = options.schedule(), options.recipe()
        fit = Fit(model, schedule, recipe, train, val, options.seed, options.precision, ranks)
        return train_representation(options.settings(dataset.digest), fit, options.keeping(folder))


def _given(path: Path, dataset: Dataset, options: Options, device: torch.device) -> Representation:
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
    model = model.to(device)  # type: ignore[call-overload]
    known = state["settings"], state["epoch"], f"given: {path}", state["seconds"], state["images"]
    return Representation(model, Settings(about).key, *known)


def _model(dataset: Dataset, options: Options, device: torch.device, ranks: Ranks) -> Model:
    """The model as stage 1 begins with it."""
    model = build_model(options.backbone, dataset.classes, options.seed, options.image_size)
    if options.protocol["pretrained"]:
        with ranks.one_after_another():
            load_pretrained(model, options.protocol["pretrained"])
    if options.protocol["train_from"]:
        freeze_before(model, options.protocol["train_from"])
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _about(dataset: Dataset, options: Options, representation: Representation, choose_on: str) -> dict[str, Any]:
    counts = dataset.split("train").counts
    about, seconds = representation.about, representation.seconds
    return {
        "schema": SCHEMA,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "backbone": representation.model.backbone_name,
        "sampler": about.get("sampler", "unknown"),
        "drawing": about.get("drawing"),
        "seed": options.seed,
        "protocol": options.protocol["name"],
        "key": representation.key,
        "epochs": about.get("epochs"),
        "image_size": options.image_size,
        "parameters": parameters(representation.model),
        "checkpoint": {"epoch": representation.epoch, "chosen": representation.chosen},
        "seconds": round(seconds, 3),
        "images_per_second": round(representation.images / representation.seconds, 1)
        if representation.seconds
        else None,
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
