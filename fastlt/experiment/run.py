"""Runs one experiment: trains or reuses the representation, extracts features, fits classifiers, measures them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.core.log import regrets, say
from fastlt.core.ranks import ALONE, Ranks, leave
from fastlt.core.typed import typed
from fastlt.core.words import counted
from fastlt.data.hold_out import hold_out
from fastlt.data.shards.history import steps
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.about import describe
from fastlt.experiment.announce import announced
from fastlt.experiment.choosing import choose_split, say_choice
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.extraction import Extraction
from fastlt.experiment.frozen import check_frozen, frozen_representation
from fastlt.experiment.given import JOINT_FILE, GivenDataset
from fastlt.experiment.grown import (
    earlier_files,
    given_identity,
    is_earlier,
    take_earlier_classifier,
    with_new_classes,
)
from fastlt.experiment.identity import determined_by, head_scale_of, reweighting_of
from fastlt.experiment.kept import refuse_another
from fastlt.experiment.loaders import Loaders
from fastlt.experiment.results import ClassifierResult, Results
from fastlt.experiment.retrain import Choose, Retraining, retrain, retrainings
from fastlt.longtail.sampler import make_sampler
from fastlt.models.backbones import Model, build_model, freeze_before
from fastlt.models.checkpoint.pretrained import load_pretrained
from fastlt.models.checkpoint.read import classifier_kind, open_checkpoint
from fastlt.models.checkpoint.store import load_model
from fastlt.registry import is_own
from fastlt.stage2.classifiers.base import Features, Task
from fastlt.stage2.classifiers.folds import ONE_GROUP
from fastlt.stage2.classifiers.joint import linear_layer
from fastlt.stage2.classify import CLASSIFIERS, Job, classify, joined
from fastlt.stage2.decision_regions import region_frame
from fastlt.training.representation import Representation, devices_of, train_representation
from fastlt.training.trainer import Stage, Trainer


def run_experiment(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    threads: int,
    ranks: Ranks = ALONE,
    begun: Callable[[], None] = lambda: None,
) -> Results | None:
    """Runs the experiment of a configuration in a run folder and returns its results.

    Ranks other than 0 take part in the training, in the extraction of features and in the fitting of classifiers, and
    return None. Whatever the folder already holds is reused: the representation, its features, and every fitted
    classifier. A classifier that cannot be fitted does not stop the others; it is listed in `Results.failed`.

    folder: the run folder. threads: CPU threads of the loaders.
    begun: is called before anything is computed, once it is known that the folder holds no other representation.

    Raises UserError, before anything is written, if the configuration does not fit the dataset.
    """
    if config.representation:
        config = config.with_classifiers_for(classifier_kind(open_checkpoint(Path(config.representation))))
    if "test" not in dataset.splits:
        raise UserError(f"{dataset.root} has no test split to evaluate on: convert it with one")
    choose_on = choose_split(config, dataset)
    if config.epochs == 0 and not config.representation:
        check_frozen(config)
    train_index = dataset.split("train")
    groups = dataset.image_groups("train") if config.hold_out or choose_on == "folds" else None
    kept, held = hold_out(train_index.class_start, train_index.class_members, config.hold_out, config.seed, groups)
    image_groups = None if groups is None else np.unique(groups[kept], return_inverse=True)[1]
    if choose_on == "folds" and image_groups is not None and not image_groups.any():
        raise UserError(ONE_GROUP)  # before stage 1, not after it
    orders: dict[str, tuple[str, np.ndarray]] = {"train": ("train", kept)}
    if choose_on == "held_out":
        orders["held_out"] = ("train", held)
    for split in ("val", "test"):
        if split in dataset.splits:
            orders[split] = (split, dataset.split(split).class_members)

    def begin() -> None:
        """Tells what will be done, only once nothing is refused any more, as an error is one line."""
        begun()
        for line in announced(config, dataset, choose_on, device, threads):
            say(line)
        say(f"run folder: {folder}")
        say_choice(choose_on, config.classifier_names, "val" in dataset.splits)

    loaders = Loaders(dataset, config, device, threads, ranks)
    representation = _representation(dataset, config, folder, loaders, orders, ranks, begin)
    bases = dict.fromkeys(config.classifier_names, representation)
    on_images = retrainings(config)
    for name, retraining in on_images.items():
        start = _class_start(dataset, kept)
        chosen = Choose(choose_on, *orders[choose_on]) if choose_on in orders else None
        bases[name] = retrain(retraining, representation, loaders, kept, start, folder / name, config, ranks, chosen)
    usual = Extraction(representation, config, folder, loaders, orders, config.augmented_passes)
    usual.write(ranks)
    # Of classifiers that come with a backbone of their own.
    own_features = {
        name: Extraction(bases[name], config, folder / name, loaders, orders)
        for name, retraining in on_images.items()
        if not retraining.keeps_backbone
    }
    for extraction in own_features.values():
        extraction.write(ranks)
    features = usual.read()
    test = features["test"]
    frame = region_frame(test.x.cpu().numpy(), test.labels.cpu().numpy()) if test.x.shape[1] == 2 else None

    def jobs(names: list[str]) -> Iterator[Job]:
        for name in names:
            base, retraining, own = bases[name], on_images.get(name), name in own_features
            seen = own_features[name].read() if own else features
            # The path of a representation outside the run folder is absolute, as the folder is read from anywhere.
            if base is representation:
                stored = JOINT_FILE if isinstance(dataset, GivenDataset) else "checkpoint.pt"
                path = str(Path(config.representation).resolve()) if config.representation else stored
            else:
                path = f"{name}/checkpoint.pt"
            job = _job(name, base, dataset, config, seen, choose_on, path, None if own else frame, image_groups)
            yield replace(job, trained=_trained(retraining, base, choose_on)) if retraining else job

    # Every rank fits some of the classifiers. Rank 0 then takes those of the others from their files.
    names, kept_in = list(bases), folder / CLASSIFIERS
    mine = names[ranks.rank :: ranks.world]
    check = partial(typed, ClassifierResult)
    fitted = classify(jobs(mine), kept_in, len(mine), check)
    ranks.wait()
    leave(ranks)
    if not ranks.main:
        regrets()  # rank 0 tells what could not be fitted
        return None
    rest = [name for name in names if name not in mine]
    classified = fitted if not rest else joined(names, fitted, classify(jobs(rest), kept_in, len(rest), check))
    return describe(dataset, config, representation, choose_on, classified, frame, device, threads)


def _job(
    name: str,
    base: Representation,
    dataset: Dataset,
    config: TrainConfig,
    features: dict[str, Features],
    choose_on: str,
    checkpoint: str,
    frame: dict[str, Any] | None,
    image_groups: np.ndarray | None,
) -> Job:
    counts = dataset.split("train").counts
    task = Task(
        train=features["train"],
        augmented=features["augmented"],
        choose=features.get(choose_on),
        choose_on=choose_on,
        joint=_joint(base),
        counts=np.bincount(features["train"].labels.cpu().numpy(), minlength=dataset.classes),
        groups=class_groups(counts),
        stage2=config.trainings,
        seed=config.seed,
        law=base.about.get("sampler", "instance"),
        loss=base.about.get("protocol.loss", "cross_entropy"),
        loss_options=base.about.get("protocol.loss_options", {}),
        drw=reweighting_of(base.about),
        head_scale=head_scale_of(base.about),
        image_groups=image_groups,
    )
    determined = {
        "representation": base.key,
        "feature_dtype": config.feature_dtype,
        "hold_out": config.hold_out,
        "seed": config.seed,
    }
    return Job(name, task, features["test"], counts, determined, checkpoint, frame)


def _joint(base: Representation) -> Any:
    """Returns the joint classifier for features that are divided by the representation's feature_scale."""
    joint, scale = base.model.classifier, base.feature_scale
    return joint if scale == 1 else linear_layer(joint.weight.detach() * scale, joint.bias)


def _trained(retraining: Retraining, base: Representation, choose_on: str) -> dict[str, Any]:
    """Returns how a classifier was trained on images, for its `choices` in results.json."""
    training = retraining.training
    told = {"epochs": training.epochs, "batch": training.batch, "lr": training.lr}
    told |= {"weight_decay": training.weight_decay}
    return told | ({"epoch": base.epoch, "chosen_on": choose_on} if retraining.stage2.keep == "best" else {})


def _class_start(dataset: Dataset, kept: np.ndarray) -> np.ndarray:
    """Returns where each class begins among the training images that are not held out, int64 [C + 1].

    kept: the ids of these images, grouped by class.
    """
    sizes = np.bincount(dataset.split("train").label[kept], minlength=dataset.classes)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _representation(
    dataset: Dataset,
    config: TrainConfig,
    folder: Path,
    loaders: Loaders,
    orders: dict[str, tuple[str, np.ndarray]],
    ranks: Ranks,
    begun: Callable[[], None],
) -> Representation:
    # A checkpoint in the folder is compared where it is loaded, which tells the setting that differs.
    if isinstance(dataset, GivenDataset) or not (config.representation or (folder / "checkpoint.pt").exists()):
        refuse_another(folder, [determined_by(config, dataset).key], config)
    if isinstance(dataset, GivenDataset):
        return dataset.representation(config, folder, orders, loaders.device, begun)
    if config.epochs == 0 and not config.representation:
        return frozen_representation(
            dataset,
            config,
            folder,
            lambda: _model(dataset, config, loaders.device, ranks),
            lambda raw: _train_features(
                Extraction(raw, config, folder, loaders, orders, config.augmented_passes), ranks
            ),
            begun,
            ranks,
        )
    if config.representation:
        given = _given(Path(config.representation), dataset, config, folder, loaders.device)
        begun()
        if given.model.classifier.out_features < dataset.classes:
            train = _train_features(Extraction(given, config, folder, loaders, orders, config.augmented_passes), ranks)
            given.model.classifier = with_new_classes(given.model.classifier, train, dataset.classes)  # type: ignore
        return given
    kept = orders["train"][1]
    start = _class_start(dataset, kept)
    sampler = make_sampler(kept, start, config.sampler, config.seed, config.epochs)
    with contextlib.ExitStack() as stack:
        train = stack.enter_context(loaders.train(sampler))
        val = None
        if "val" in orders:
            split, ids = orders["val"]
            val = stack.enter_context(loaders.evaluation(split, ids[ranks.rank :: ranks.world]))
        model = _model(dataset, config, loaders.device, ranks)
        groups = class_groups(dataset.split("train").counts)
        head, lr = config.protocol.head_lr, config.protocol.lr
        stage = Stage() if head is None else Stage(rates={"classifier": head / lr})
        how = config.schedule, config.protocol, train, val, config.seed, config, ranks, stage
        fit = Trainer(model, *how, np.diff(start), groups)
        return train_representation(determined_by(config, dataset), fit, folder, config, begun)


def _train_features(extraction: Extraction, ranks: Ranks) -> Features:
    extraction.write(ranks)
    return extraction.read()["train"]


def _given(path: Path, dataset: Dataset, config: TrainConfig, folder: Path, device: torch.device) -> Representation:
    """Returns a representation from a checkpoint of another run. Its key covers all that its features depend on.

    If it was trained before classes were added to the dataset, its classifier lacks them.
    """
    model, state = load_model(path, config.backbone.name if is_own(config.backbone.name) else None)
    classes = model.classifier.out_features
    grown = classes < dataset.classes and is_earlier(state["settings"], dataset)
    if classes != dataset.classes and not grown:
        raise UserError(
            f"{path} has {counted(classes, 'class')}, {dataset.root} {dataset.classes}: choose another of the two"
        )
    if grown:
        say(f"{path} was trained on {counted(classes, 'class')}: its classifier gets rows for those added since")
    files = tuple(earlier_files(state, config, dataset, folder)) if steps(dataset.about) else ()
    key = given_identity(state, dataset.digest, config, dataset).key
    earlier = [file.key for file in files if file.key != state["key"]]  # of this command before the dataset grew
    refuse_another(folder, [key, *earlier], config, [state["key"]])
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    known = state["settings"], state["epoch"], f"given: {path}", state["seconds"], state["images"]
    return Representation(model, key, *known, earlier=files, devices=devices_of(state))


def _model(dataset: Dataset, config: TrainConfig, device: torch.device, ranks: Ranks) -> Model:
    """Returns the model with its initial weights of stage 1, on the device."""
    protocol, backbone = config.protocol, config.backbone
    head = protocol.head_kind, protocol.head_start, backbone.options
    model = build_model(backbone.name, dataset.classes, config.seed, config.image_size, *head)
    if protocol.pretrained:
        with ranks.one_after_another():
            load_pretrained(model, protocol.pretrained)
            take_earlier_classifier(model, protocol.pretrained, dataset)
    if protocol.train_from:
        freeze_before(model, protocol.train_from)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
