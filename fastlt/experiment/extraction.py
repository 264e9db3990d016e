"""Extracts the features of an experiment on all ranks, and reads them."""

import contextlib
from pathlib import Path

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.core.ranks import Ranks
from fastlt.data.pipeline.loader import Loader
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.given import GivenDataset
from fastlt.experiment.grown import known_features
from fastlt.experiment.loaders import Loaders
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.features import FeatureStore, Shares
from fastlt.stage2.features.earlier import Earlier
from fastlt.training.representation import Representation


class Extraction:
    """The features of a representation in a folder.

    orders: for every name of features, such as train, (split, sample ids int64 [N]).
    passes: number of augmented passes.
    """

    def __init__(
        self,
        representation: Representation,
        config: TrainConfig,
        folder: Path,
        loaders: Loaders,
        orders: dict[str, tuple[str, np.ndarray]],
        passes: int = 0,
    ):
        self.representation, self.config, self.loaders = representation, config, loaders
        self.orders, self.passes = orders, passes
        if isinstance(loaders.dataset, GivenDataset):
            self.store = loaders.dataset.store(config, folder, orders)
        else:
            key = representation.features_key or representation.key
            self.store = FeatureStore(folder / "features.h5", key, config.feature_dtype, passes)

    def write(self, ranks: Ranks) -> None:
        """Extracts and stores the features, if they are not stored. All ranks must call this, and all take part."""
        if ranks.tell(ranks.main and all(self.store.has(split) for split in self.orders)):
            return
        model, precision, train = self.representation.model, self.config.precision, self.orders["train"][1]
        with contextlib.ExitStack() as stack:
            shares = None
            if ranks.world > 1:
                parts = {
                    name: stack.enter_context(self.loaders.evaluation(*order, share=True))
                    for name, order in self.orders.items()
                }
                mine = stack.enter_context(self.loaders.augmented(train, share=True)) if self.passes else None
                shares = Shares(ranks, parts, mine)
                if not ranks.main:
                    shares.help(model, precision)
                    return
            known = self._known()
            stored: dict[str, Loader | None] = {}
            for name, (split, ids) in self.orders.items():
                ids = known[name].missing if name in known else ids
                stored[name] = stack.enter_context(self.loaders.evaluation(split, ids)) if len(ids) else None
            augmented = stack.enter_context(self.loaders.augmented(train)) if self.passes else None
            self.store.write(stored, model, precision, augmented, shares, known)
            if shares is not None:
                shares.end()

    def _known(self) -> dict[str, Earlier]:
        """Returns the features that were extracted before the dataset grew, by name of `orders`.

        Augmented passes are extracted anew, as they depend on the position of every image.
        """
        files = list(self.representation.earlier)
        asked = {name: order for name, order in self.orders.items() if not (self.passes and name == "train")}
        return known_features(files, self.loaders.dataset, asked, self.config.feature_dtype) if files else {}

    def read(self) -> dict[str, Features]:
        """Returns the features of every name of `orders`, from the file.

        The entry `augmented` holds the features of train followed by those of the augmented passes.

        Raises UserError if the file holds features of other images.
        """
        features = {name: self._read(name) for name in self.orders}
        every = features["train"]
        seen = len(every) // (1 + self.passes)
        return {**features, "train": Features(every.x[:seen], every.labels[:seen]), "augmented": every}

    def _read(self, name: str) -> Features:
        x, labels = self.store.read(name, augmented=name == "train")
        split, ids = self.orders[name]
        known = self.loaders.dataset.split(split).label[ids]
        seen = 1 + (self.passes if name == "train" else 0)
        dim = self.representation.model.classifier.weight.shape[1]
        if x.shape[1] != dim or not np.array_equal(labels, np.tile(known, seen)):
            raise UserError(
                f"{self.store.path} holds features of other images or of another network: delete it, and they are "
                "extracted anew"
            )
        rows = torch.from_numpy(x).to(self.loaders.device)
        if self.representation.feature_scale != 1:
            rows = rows / self.representation.feature_scale
        return Features(rows, torch.from_numpy(labels).to(self.loaders.device))
