"""The settings that determine the representation of an experiment, and the run folder that is named after them."""

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastlt.core.config import RUN, STAGE_2, changed
from fastlt.core.identity import Identity
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import PARTS, TrainConfig
from fastlt.experiment.given import GivenDataset
from fastlt.experiment.grown import given_identity
from fastlt.longtail.losses import LOSSES, classifier_of
from fastlt.longtail.losses.reweighting import Reweighting
from fastlt.longtail.sampler import by_quota
from fastlt.models.backbones import build_model
from fastlt.models.checkpoint.pretrained import pretrained_identity
from fastlt.models.checkpoint.read import open_checkpoint
from fastlt.models.heads import HeadConfig
from fastlt.registry import is_own, own_sources


def determined_by(config: TrainConfig, dataset: Dataset) -> Identity:
    """Returns the Identity of the representation that a configuration trains.

    It covers the dataset, the source of the user's own parts, and every setting that concerns stage 1 and is not at its
    default. So the key of a representation does not change when a new setting is added to fastlt.
    """
    if isinstance(dataset, GivenDataset):
        return dataset.determined_by(config)
    if config.epochs == 0:
        joint = {**config.joint_training, "feature_scale": config.feature_scale, "sampler": config.sampler.name}
        return Identity({**features_determined_by(config, dataset).about, "epochs": 0, **joint, "seed": config.seed})
    protocol, sampler, pretrained = config.protocol, config.sampler, _weights(config)
    used: dict[str, Any] = {"milestones": config.schedule.milestones, "loss_options": protocol.options_of_loss()}
    plain = replace(config, protocol=replace(protocol, pretrained=pretrained, **used))
    if by_quota(sampler.name, sampler.drawing):
        plain = replace(plain, sampler=replace(sampler, drawing="quota"))
    about = {"dataset": dataset.digest, **changed(plain, RUN, STAGE_2)}
    for name in ("backbone", "epochs", "image_size"):  # the protocol's values of these; the experiment's own are used
        del about[f"protocol.{name}"]
    parts = {key: about[key] for key in PARTS if key in about}
    return Identity({**about, **own_sources(**parts)})


def reweighting_of(about: Mapping[str, Any]) -> Reweighting:
    """Returns how the classes were weighted in the training of a representation. about: of its Identity."""
    prefix = "protocol.drw."
    return Reweighting(**{key.removeprefix(prefix): value for key, value in about.items() if key.startswith(prefix)})


def head_scale_of(about: Mapping[str, Any]) -> float:
    """Returns the factor on the cosines of a joint classifier in the training of a representation.

    about: of its Identity. Losses on cosines have a factor of their own. Networks of LDAM-DRW and of the codes that are
    built on it, which are imported, were trained with the factor that is its default here.
    """
    loss = about.get("protocol.loss", "ldam" if "imported" in about else "cross_entropy")
    usual = about.get("protocol.head_scale", HeadConfig.head_scale)
    if not is_own(loss):
        if classifier_of(loss) == "linear":
            return float(usual)
        usual = inspect.signature(LOSSES[loss]).parameters["scale"].default
    return float(about.get("protocol.loss_options", {}).get("scale", usual))


def features_determined_by(config: TrainConfig, dataset: Dataset) -> Identity:
    """Returns the Identity of the features of a backbone that is not trained.

    It covers the images and their preprocessing, the network, and its weights.
    """
    name, protocol = config.backbone.name, config.protocol
    about = {
        "dataset": dataset.digest,
        "backbone": name,
        "pretrained": _weights(config) or weights_digest(name, config.seed, config.image_size, config.backbone.options),
        "image_size": config.image_size,
        "crop_pct": protocol.crop_pct,
        "interpolation": protocol.interpolation,
        "precision": config.precision,
        **config.normalization(dataset),
        **own_sources(backbone=name),
    }
    about |= {"backbone.options": dict(config.backbone.options)} if config.backbone.options else {}
    about |= {"hold_out": config.hold_out, "seed": config.seed} if config.hold_out else {}
    about |= {"augment": changed(config.augment), "seed": config.seed} if config.augmented_passes else {}
    return Identity(about)


def _weights(config: TrainConfig) -> str | None:
    pretrained = config.protocol.pretrained
    return pretrained_identity(config.backbone.name, pretrained) if pretrained else None


def weights_digest(name: str, seed: int, image_size: int, options: Mapping[str, Any]) -> str:
    """Returns a digest of the initial weights of a backbone without pretrained weights.

    name, image_size, options: as in `build_backbone`. seed: of the random weights.
    """
    return _weights_digest(name, seed, image_size, json.dumps(options, sort_keys=True))


@functools.lru_cache(maxsize=4)
def _weights_digest(name: str, seed: int, image_size: int, options: str) -> str:
    state = build_model(name, 1, seed, image_size, options=json.loads(options)).backbone.state_dict()
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {list(value.shape)}".encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"made:{digest.hexdigest()}"


def run_name(config: TrainConfig, dataset: Dataset) -> str:
    """Returns the name of the default run folder: readable settings, and a part of the representation's key."""
    if config.representation:
        # The files of all runs have one name, so a key stands after it: without the dataset, which may grow.
        path = Path(config.representation)
        key = given_identity(open_checkpoint(path), "", config, dataset).key[:8]
        return f"{dataset.name}_{path.stem}_seed{config.seed}_{key}"
    key = determined_by(config, dataset).key[:8]
    if isinstance(dataset, GivenDataset):
        return f"{dataset.name}_{config.sampler.name}_seed{config.seed}_{key}"
    backbone, sampler = (name.replace(":", ".") for name in (config.backbone.name, config.sampler.name))
    return f"{dataset.name}_{backbone}_{sampler}_seed{config.seed}_{key}"


def run_folder(config: TrainConfig, dataset: Dataset) -> Path:
    """Returns the run folder: the key `run`, or else `runs/` with the name of `run_name`."""
    return Path(config.run or f"runs/{run_name(config, dataset)}")
