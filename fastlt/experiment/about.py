"""Collects the facts about an experiment that results.json holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastlt.core import device as machine
from fastlt.core.config import changed
from fastlt.core.groups import group_sizes
from fastlt.core.identity import Identity
from fastlt.core.typed import typed
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.departures import settled
from fastlt.experiment.given import GivenDataset
from fastlt.experiment.results import SCHEMA, Checkpoint, ClassifierResult, Evaluation, RegionFrame, Results
from fastlt.models.backbones import parameters
from fastlt.registry import is_own, part_digest
from fastlt.stage2.classify import Classified
from fastlt.training.representation import Representation

_PROTOCOLS = {path.stem for path in Path(__file__).parents[1].glob("conf/protocol/*.yaml")}


def describe(
    dataset: Dataset,
    config: TrainConfig,
    representation: Representation,
    choose_on: str,
    classified: Classified,
    frame: dict[str, Any] | None,
    device: torch.device,
    threads: int,
) -> Results:
    """Returns the Results of an experiment: its data, representation, configuration and classifiers.

    frame: as `region_frame` returns it, or None if features are not two-dimensional. threads: CPU threads.
    departures and cell of the result are left for the caller to set.
    """
    settings, seconds = representation.about, representation.seconds
    given = dataset if isinstance(dataset, GivenDataset) else None
    told = {name: {**row, "source": _source(name)} for name, row in classified.rows.items()}
    rows = {name: typed(ClassifierResult, row, f"classifiers.{name}") for name, row in told.items()}
    return Results(
        schema=SCHEMA,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        backbone=representation.model.backbone_name,
        sampler=settings.get("sampler", "unknown"),
        drawing=settings.get("sampler.drawing", "quota") if "sampler" in settings else None,
        seed=config.seed,
        protocol=config.protocol.name,
        key=representation.key,
        features_key=representation.features_key or None,
        trained_by=_trained_by(config, settings),
        epochs=settings.get("epochs"),
        image_size=None if given else config.image_size,
        evaluation=None if given else _evaluation(dataset, config),
        feature_scale=given.scale(config) if given else scale if (scale := representation.feature_scale) != 1 else None,
        parameters=parameters(representation.model),
        checkpoint=Checkpoint(epoch=representation.epoch, chosen=representation.chosen),
        seconds=round(seconds, 3),
        images_per_second=round(representation.images / seconds, 1) if seconds else None,
        trained_on=", then ".join(representation.devices) or None,
        class_names=dataset.class_names,
        class_counts={name: split.counts.tolist() for name, split in dataset.splits.items()},
        groups=group_sizes(dataset.split("train").counts),
        choose_on=choose_on,
        temperature_on=None if choose_on in ("train", "folds", "none") else choose_on,
        hold_out=config.hold_out,
        precision=config.precision,
        mode=config.mode,
        bn=config.bn,
        augmented_passes=config.augmented_passes,
        feature_dtype=config.feature_dtype,
        decision_regions=None if frame is None else RegionFrame(**frame),
        classifiers=rows,
        failed=classified.failed,
        versions=machine.versions(),
        device=machine.describe(device, threads),
        departures={},
    )


def _source(name: str) -> str | None:
    return part_digest("classifiers", name) if is_own(name) else None


def _trained_by(config: TrainConfig, settings: Mapping[str, Any]) -> str | None:
    given = config.representation is not None
    told = {
        name: value
        for name, value in settings.items()
        if (name not in ("seed", "crop_seed") if given else name.endswith(".source"))
    }
    if config.protocol.name not in _PROTOCOLS:  # a file of the user's, which may be edited
        told |= {key: value for key, value in changed(config).items() if settled(key)}
    return Identity(told).key if told or given else None


def _evaluation(dataset: Dataset, config: TrainConfig) -> Evaluation:
    stored = dataset.about["options"]
    return Evaluation(
        crop_pct=config.protocol.crop_pct,
        interpolation=config.protocol.interpolation,
        **config.normalization(dataset),
        **{name: stored[name] for name in ("kind", "quality", "max_short_side", "orientation")},
        background=stored.get("background", ""),
    )
