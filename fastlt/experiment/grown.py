"""Representations of a dataset to which images were added, or from which some were removed, since they were trained.

The joint classifier gets rows for new classes, and features that were extracted earlier are used again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastlt.core.config import changed
from fastlt.core.identity import Identity
from fastlt.core.log import say
from fastlt.core.words import counted
from fastlt.data.plan import Augment
from fastlt.data.shards.history import ancestors, ids_since, steps
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.models.backbones import Model
from fastlt.models.checkpoint.read import checkpoint_path, classifier_kind, is_ours, load_state
from fastlt.models.checkpoint.sources import weights_file
from fastlt.models.heads import JOINT
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.features import FeatureStore
from fastlt.stage2.features.earlier import Earlier

# Settings of a checkpoint that a training of the backbone is determined by and its features are not (epochs=0).
_OF_JOINT = ("epochs", "joint", "rate", "decay", "stepped", "feature_scale", "sampler")


@dataclass(frozen=True)
class EarlierFile:
    """A feature file of an earlier state of the dataset. digest: of that state. key: of the features in the file."""

    path: Path
    key: str
    digest: str


def is_earlier(settings: Mapping[str, Any], dataset: Dataset) -> bool:
    """Returns whether a checkpoint with these settings was trained on an earlier state of the dataset."""
    return settings.get("dataset") in ancestors(dataset.about)


def given_identity(state: Mapping[str, Any], digest: str, config: TrainConfig, dataset: Dataset) -> Identity:
    """Returns what determines the features of a checkpoint of another run.

    state: of the checkpoint. digest: of the dataset, or of an earlier state of it.
    """
    about = {
        "representation": state["key"],
        "dataset": digest,
        "image_size": config.image_size,
        "crop_pct": config.protocol.crop_pct,
        "precision": config.precision,
    }
    if config.protocol.interpolation != "bilinear":
        about["interpolation"] = config.protocol.interpolation
    if config.protocol.mean:
        about |= config.normalization(dataset)
    if config.augmented_passes:
        about |= {"augment": changed(config.augment), "seed": config.seed}
    return Identity(about)


def earlier_files(state: Mapping[str, Any], config: TrainConfig, dataset: Dataset, folder: Path) -> list[EarlierFile]:
    """Returns the feature files that may hold features of a checkpoint, of earlier states of the dataset.

    folder: the run folder, where the same command may have stored features before the dataset grew. The other place is
    the run folder of the checkpoint itself.
    """
    own = folder / "features.h5"
    plain = replace(config, augmented_passes=0)
    both = [config, plain] if config.augmented_passes else [config]
    found = [
        EarlierFile(own, given_identity(state, digest, one, dataset).key, digest)
        for digest in ancestors(dataset.about)
        for one in both
    ]
    settings = dict(state["settings"])
    if is_earlier(settings, dataset) and _same_view(settings, config, dataset):
        assert config.representation
        beside = checkpoint_path(Path(config.representation)).with_name("features.h5")
        key = state["key"]
        if settings.get("epochs") == 0:
            drawn = "hold_out" in settings or "augment" in settings
            left_out = _OF_JOINT if drawn else (*_OF_JOINT, "seed")
            key = Identity({name: value for name, value in settings.items() if name not in left_out}).key
        found.append(EarlierFile(beside, key, settings["dataset"]))
    return found


def _same_view(settings: Mapping[str, Any], config: TrainConfig, dataset: Dataset) -> bool:
    """Returns whether the run of a checkpoint saw images as this configuration does when features are extracted."""
    usual = Augment(config.image_size)

    def told(name: str, default: Any) -> Any:
        return settings.get(f"protocol.{name}", settings.get(name, default))

    norm = {name: list(dataset.about[name]) for name in ("mean", "std")}
    return (
        settings.get("image_size") == config.image_size
        and settings.get("precision") == config.precision
        and told("crop_pct", usual.crop_pct) == config.protocol.crop_pct
        and told("interpolation", usual.interpolation) == config.protocol.interpolation
        and {name: list(told(name, None) or norm[name]) for name in norm} == config.normalization(dataset)
    )


def known_features(
    files: list[EarlierFile], dataset: Dataset, orders: Mapping[str, tuple[str, np.ndarray]], dtype: str
) -> dict[str, Earlier]:
    """Returns, for each name of `orders`, the features that its images have in one of the files.

    orders: for every split of the store, (split of the dataset, sample ids int64 [n]). dtype: of the features.

    The first file that holds features is used; names without any are left out.
    """
    for file in files:
        if not file.path.is_file():
            continue
        store = FeatureStore(file.path, file.key, dtype)
        then = {split: ids_since(dataset.about, file.digest, split) for split in dataset.splits}
        stored = {name: store.stored(name) for name in ("train", "held_out", "val", "test")}
        found: dict[str, Earlier] = {}
        for name, (split, ids) in orders.items():
            sources = ("train", "held_out") if split == "train" else (split,)
            best = max((_known(stored[one], then[split], dataset, split, ids) for one in sources), key=_count)
            if _count(best):
                assert best is not None
                found[name] = best
        if found:
            known, total = sum(map(_count, found.values())), sum(len(ids) for _, ids in orders.values())
            say(
                f"features: those of {counted(known, 'image')} are taken from {file.path}, as the dataset grew since; "
                f"those of {counted(total - known, 'image')} are extracted"
            )
            return found
    return {}


def _known(
    stored: tuple[np.ndarray, np.ndarray] | None, then: np.ndarray, dataset: Dataset, split: str, ids: np.ndarray
) -> Earlier | None:
    if stored is None:
        return None
    x, of = stored
    rows = np.full(len(dataset.split(split)), -1, np.int64)
    now = np.where(of < len(then), then[np.minimum(of, len(then) - 1)], -1) if len(then) else np.full(len(of), -1)
    rows[now[now >= 0]] = np.flatnonzero(now >= 0)
    return Earlier(ids, dataset.split(split).label[ids].astype(np.int64), x, rows[ids])


def _count(known: Earlier | None) -> int:
    return 0 if known is None else int((known.rows >= 0).sum())


@torch.no_grad()
def with_new_classes(joint: Any, train: Features, classes: int) -> nn.Module:
    """Returns a joint classifier with rows for the classes that it lacks (weight imprinting, Qi et al. 2018).

    joint: the classifier of C' classes. train: the training features. classes: C.

    The weight vector of a new class has the direction of the mean of its features, and the mean length of the vectors
    that are there; its bias is their mean. The rows that are there do not change.
    """
    weight: Tensor = joint.weight.detach()
    length = weight.norm(dim=1).mean()
    rows = []
    for label in range(len(weight), classes):
        mean = train.x[train.labels == label].float().sum(0).to(weight.dtype)
        rows.append(mean / mean.norm().clamp_min(1e-12) * length)
    kind = "cosine" if joint.bias is None else "linear"
    return _filled(kind, torch.stack([*weight, *rows]), joint.bias)


def _filled(kind: str, weight: Tensor, bias: Tensor | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        made = JOINT[kind](weight.shape[1], len(weight))
    made = made.to(weight.device)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None and made.bias is not None:
            more = len(weight) - len(bias)
            made.bias.copy_(torch.cat([bias, bias.mean().expand(more)]))
    return made


def take_earlier_classifier(model: Model, source: str, dataset: Dataset) -> None:
    """Copies the classifier of a checkpoint into a model if it was trained on an earlier state of the dataset.

    source: the value of protocol.pretrained. The rows of new classes keep their initial weights, and a line says
        what was taken. Any other file changes nothing.
    """
    if not steps(dataset.about):
        return
    path = weights_file(model.backbone_name, source)
    state, _ = load_state(path)
    if not is_ours(state) or not is_earlier(state["settings"], dataset):
        return
    rows = state["model"]["classifier.weight"]
    if len(rows) > dataset.classes or classifier_kind(state) != model.classifier_kind:
        return
    if model.classifier_kind == "etf" and len(rows) < dataset.classes:
        return  # rows of a smaller frame and of another one are no frame together
    with torch.no_grad():
        model.classifier.weight[: len(rows)].copy_(rows)
        if model.classifier.bias is not None:
            model.classifier.bias[: len(rows)].copy_(state["model"]["classifier.bias"])
    new = dataset.classes - len(rows)
    more = f"; the rows of {counted(new, 'new class')} are as they are drawn" if new else ""
    say(f"protocol.pretrained={source}: its classifier begins with the rows of {counted(len(rows), 'class')}{more}")
