"""Experiments on features of another network (`features=FILE`), which replace the dataset and stage 1."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.core.log import say
from fastlt.core.torch_file import Unreadable, read_torch_file, write_torch_file
from fastlt.data.shards.reader import Dataset, SplitIndex
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.results import GIVEN
from fastlt.longtail.sampler import LAWS
from fastlt.stage2.classifiers import IMAGE_CLASSIFIERS
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.classifiers.joint import linear_layer, train_joint
from fastlt.stage2.estimators.scale import fixed_scale
from fastlt.stage2.estimators.trained import EPOCHS, usual_training
from fastlt.stage2.features import FeatureStore
from fastlt.stage2.features.given.given import GivenFeatures
from fastlt.stage2.features.given.labels import SPLITS
from fastlt.training.representation import Representation

PROTOCOL = GIVEN
# Keys that concern images or stage 1. With features=FILE they would have no effect, so they are refused.
OF_IMAGES = (
    "data",
    "backbone",
    "epochs",
    "image_size",
    "representation",
    "mode",
    "bn",
    "augmented_passes",
    "max_damaged",
)
OF_IMAGES += ("precision", "accumulate", "compile", "save_epochs", "save_minutes")
OF_IMAGES += ("logger", "logger_options")
JOINT_FILE = "joint.pt"  # in the run folder


class GivenDataset(Dataset):
    """A dataset that consists of features instead of images. Its classes, splits and labels are those of any Dataset.

    path: the file or folder of features. Raises UserError if it is damaged or lacks something.
    """

    def __init__(self, path: Path):
        self.root = path
        self.given = GivenFeatures(path)
        self.name, self.class_names = path.stem, self.given.class_names
        self.digest = self.given.survey.digest
        self.about = {"protocol": PROTOCOL}
        labels = {split: self.given.labels[self.given.rows(split)] for split in SPLITS}
        self.splits = {split: _index(known, self.classes) for split, known in labels.items() if len(known)}

    def image_groups(self, split: str) -> np.ndarray | None:
        """Returns the group of every training row as a number, int64 [N]; None for other splits, or without groups."""
        return self.given.groups if split == "train" else None

    def overrides(self, given: Sequence[str]) -> list[str]:
        """Returns overrides of batch size and epochs that suit the number of training rows.

        given: the user's own overrides; a key among them is not overridden again. Raises UserError if one of them
        concerns images or stage 1.
        """
        keys = [one.partition("=")[0].lstrip("+") for one in given]
        for key in keys:
            if key.partition(".")[0] in OF_IMAGES:
                raise UserError(f"{key}: with features={self.root} there are no images, leave it out")
        usual = usual_trainings(len(self.splits["train"]))
        return [f"{key}={value}" for key, value in usual.items() if key not in keys]

    def scale(self, config: TrainConfig) -> float:
        """Returns the number that features are divided by."""
        fixed = fixed_scale(config.feature_scale)
        return self.given.survey.rms if fixed is None else fixed

    def determined_by(self, config: TrainConfig) -> Identity:
        """Returns the settings that determine the features and the joint classifier.

        Raises UserError if the configuration asks for classifiers on images, an own sampler, another loss than
        cross_entropy, or a head that is not linear.
        """
        wrong = [name for name in config.classifier_names if name in IMAGE_CLASSIFIERS]
        if wrong:
            raise UserError(f"classifiers={wrong}: these are trained on images, features={self.root} has none")
        law = config.sampler.name
        if law not in LAWS and not law.startswith("root_"):
            raise UserError(f"sampler={law}: with features={self.root} allowed are {', '.join(LAWS)} and root_N")
        if config.protocol.loss != "cross_entropy":
            raise UserError(f"protocol.loss={config.protocol.loss}: with features={self.root} it is cross_entropy")
        if config.protocol.head not in ("auto", "linear"):
            raise UserError(f"protocol.head={config.protocol.head}: with features={self.root} it is linear")
        return Identity(
            {
                "features": self.digest,
                "scale": self.scale(config),
                "sampler": law,
                "seed": config.seed,
                "hold_out": config.hold_out,
                **config.joint_training,
            }
        )

    def store(self, config: TrainConfig, folder: Path, orders: dict[str, tuple[str, np.ndarray]]) -> FeatureStore:
        """Returns the feature store of the run folder, to which it writes the features if they are missing.

        orders: for every split of the store, (split of the features, sample ids int64 [N]).
        """
        store = FeatureStore(folder / "features.h5", self.determined_by(config).key, config.feature_dtype)
        rows = {name: self.given.rows(split)[ids] for name, (split, ids) in orders.items()}
        self.given.write(store, rows, self.scale(config))
        return store

    def representation(
        self,
        config: TrainConfig,
        folder: Path,
        orders: dict[str, tuple[str, np.ndarray]],
        device: torch.device,
        begun: Callable[[], None],
    ) -> Representation:
        """Returns a representation that is only a joint classifier, trained on the features or read from the folder.

        orders: as in `store`. begun: as in `run_experiment`.
        """
        settings, path = self.determined_by(config), folder / JOINT_FILE
        state = None if config.overwrite else _read(path, settings.key)
        begun()
        if state is None:
            x, labels = self.store(config, folder, orders).read("train")
            rows = Features(torch.from_numpy(x).to(device), torch.from_numpy(labels).to(device))
            start = time.monotonic()
            layer = train_joint(rows, self.classes, config.trainings, config.seed, config.sampler.name)
            weights = {"weight": layer.weight.detach().cpu(), "bias": layer.bias.detach().cpu()}
            state = {"key": settings.key, **weights, "seconds": time.monotonic() - start}
            write_torch_file(state, path, again="give the same command again")
        layer = linear_layer(state["weight"], state["bias"]).to(device)
        crt = config.trainings.crt
        images = crt.epochs * len(orders["train"][1])
        told = {"sampler": config.sampler.name, "epochs": crt.epochs}
        model: Any = OnFeatures(layer)
        return Representation(model, settings.key, told, crt.epochs, "last epoch", state["seconds"], images)


class OnFeatures(nn.Module):
    """A model that takes features [N, D] instead of images: its backbone is the identity."""

    def __init__(self, classifier: nn.Linear):
        super().__init__()
        self.backbone_name, self.backbone, self.classifier = "features", nn.Identity(), classifier


def usual_trainings(rows: int) -> dict[str, int]:
    """Returns batch sizes and epochs, by key, that suit a number of training features.

    Few features get smaller batches and more epochs.
    """
    batch, steps = usual_training(rows)
    wanted = {f"protocol.{kind}.batch": batch for kind in EPOCHS}
    return wanted | {f"protocol.{kind}.epochs": max(usual, steps) for kind, usual in EPOCHS.items()}


def open_dataset(config: Any) -> Dataset:
    """Returns the dataset that the key `features` or `data` names. config: a TrainConfig or its composed DictConfig."""
    return GivenDataset(Path(config.features)) if config.features else Dataset(config.data)


def _index(labels: np.ndarray, classes: int) -> SplitIndex:
    start = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=classes))])
    nothing = dict.fromkeys(
        ("shard", "offset", "length", "height", "width", "encoding", "crc32"), np.empty(0, np.int64)
    )
    return SplitIndex(label=labels, class_start=start, class_members=np.argsort(labels, kind="stable"), **nothing)


def _read(path: Path, key: str) -> dict | None:
    try:
        state = read_torch_file(path) if path.exists() else None
    except Unreadable as error:
        say(f"{path} {error}; the joint classifier is trained anew")
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
