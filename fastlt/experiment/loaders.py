"""Makes the loaders of an experiment."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.core.ranks import Ranks
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.longtail.sampler import InOrder, Order


def check_batch(batch: int, images: int, parts: int = 1) -> None:
    """Raises UserError if a batch of stage 1 is larger than the number of training images.

    parts: what the suggested batch is a multiple of.
    """
    if batch > images:
        fits = max(1, images // 4 // parts) * parts
        raise UserError(
            f"protocol.batch={batch} is larger than the number of training images ({images}): choose a smaller "
            f"one, such as protocol.batch={fits}"
        )


class Loaders:
    """Makes the loaders of an experiment: for training, for evaluation, and for features of augmented images."""

    def __init__(self, dataset: Dataset, config: TrainConfig, device: torch.device, threads: int, ranks: Ranks):
        self.dataset, self.config, self.device, self.threads, self.ranks = dataset, config, device, threads, ranks
        self.augment = replace(config.augment, views_per_image=1)  # several views are of stage 1
        seen = {"crop_pct": config.protocol.crop_pct, "interpolation": config.protocol.interpolation}
        self._evaluation = Augment(config.image_size, **seen)

    def train(self, order: Order, batch: int | None = None) -> Loader:
        """Returns a loader of this rank's share of full training batches.

        order: the sampler. batch: images that this rank loads at once; None takes those of stage 1, and its views.
        """
        augment = self.augment if batch else self.config.augment
        batch = batch or self._batch_of_a_rank(len(order))
        shared = {"drop_last": True, "rank": self.ranks.rank, "world": self.ranks.world}
        return self._loader("train", order, augment, batch, **shared)

    def evaluation(self, split: str, ids: np.ndarray, share: bool = False) -> Loader:
        """Returns a loader of each of these samples once, with the evaluation transform.

        ids: sample ids of the split, int64 [n]. share: only of this rank's share of them. A damaged sample of train
        is replaced by another one of its class; in val and test, it is an error.
        """
        order = InOrder(ids, self.dataset.split(split).label[ids] if split == "train" else None)
        return self._loader(split, order, self._evaluation, min(self.config.protocol.batch, 256), **self._of(share))

    def augmented(self, ids: np.ndarray, share: bool = False) -> Loader:
        """Returns a loader of these training images in this order, augmented as in stage 1.

        ids: sample ids of train, int64 [n]. share: only of this rank's share of them. Each epoch of the loader is
        a pass with its own random augmentation.
        """
        order = InOrder(ids, self.dataset.split("train").label[ids])
        return self._loader("train", order, self.augment, min(self.config.protocol.batch, 256), **self._of(share))

    def _of(self, share: bool) -> dict[str, Any]:
        return {"rank": self.ranks.rank, "world": self.ranks.world} if share else {}

    def _batch_of_a_rank(self, images: int) -> int:
        """Returns how many images a rank loads at once in stage 1.

        images: number of training images. Raises UserError if the batch is larger than that, or is not a multiple of
        the number of ranks times `accumulate`.
        """
        batch, parts = self.config.protocol.batch, self.ranks.world * self.config.accumulate
        check_batch(batch, images, parts)
        if batch % parts:
            raise UserError(
                f"protocol.batch={batch} cannot be shared out to {self.ranks.world} ranks in {self.config.accumulate} "
                f"parts: choose a multiple of {parts}"
            )
        return batch // parts

    def _loader(self, split: str, order: Order, augment: Augment, batch: int, **shared: Any) -> Loader:
        return Loader(
            self.dataset,
            split,
            order,
            augment,
            batch,
            self.config.seed,
            self.device,
            self.threads,
            channels_last=True,  # the memory format of the model
            max_damaged=self.config.max_damaged,
            **self.config.normalization(self.dataset),
            **shared,
        )
