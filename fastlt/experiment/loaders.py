"""The loaders of one experiment."""

from typing import Any

import numpy as np
import torch

from fastlt.core.ranks import Ranks
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.options import Options
from fastlt.longtail.sampler import InOrder, Order


class Loaders:
    """Loaders of one experiment."""

    def __init__(self, dataset: Dataset, options: Options, device: torch.device, threads: int, ranks: Ranks):
        self.dataset, self.options, self.device, self.threads, self.ranks = dataset, options, device, threads, ranks
        protocol = options.protocol
        self.augment = Augment(
            size=options.image_size,
            crop=protocol["crop"],
            scale=tuple(protocol["scale"]),
            pad=protocol["pad"],
            flip=True,
            jitter=protocol["jitter"],
            image_hook=protocol["image_hook"],
            image_hook_options=protocol["image_hook_options"],
        )
        self._evaluation = Augment(size=options.image_size, keep=protocol["keep"])

    def train(self, order: Order, batch: int | None = None) -> Loader:
        """Training batches of full size, this rank's share of every one. batch: images of it, stage 1's by default."""
        batch = batch or self.options.batch_of_a_rank(self.ranks.world)
        shared = {"drop_last": True, "rank": self.ranks.rank, "world": self.ranks.world}
        return self._loader("train", order, self.augment, batch, **shared)

    def evaluation(self, split: str, ids: np.ndarray) -> Loader:
        """Every one of these samples once. Damaged ones of train are replaced; in val and test there must be none."""
        order = InOrder(ids, self.dataset.split(split).label[ids] if split == "train" else None)
        return self._loader(split, order, self._evaluation, min(self.options.protocol["batch"], 256))

    def views(self, ids: np.ndarray) -> Loader:
        """These training images in this order, augmented as in stage 1; epoch v is pass v, a draw of its own."""
        order = InOrder(ids, self.dataset.split("train").label[ids])
        return self._loader("train", order, self.augment, min(self.options.protocol["batch"], 256))

    def _loader(self, split: str, order: Order, augment: Augment, batch: int, **shared: Any) -> Loader:
        return Loader(
            self.dataset,
            split,
            order,
            augment,
            batch,
            self.options.seed,
            self.device,
            self.threads,
            channels_last=True,  # as the model wants it
            max_damaged=self.options.max_damaged,
            **self.options.normalization(self.dataset),
            **shared,
        )
