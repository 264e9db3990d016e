"""Extraction: batches of images become rows of features."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from fastlt.core.batches import Batch, Batches
from fastlt.stage2.features.network import Network

AHEAD = 2  # batches queued on a GPU behind the one whose rows are waited for


class Rows(NamedTuple):
    """features float32 [n, D], labels int64 [n], ids int64 [n] (sample ids)."""

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class _UnderWay(NamedTuple):
    """Rows that may still be on their way from a GPU; `arrived` comes behind them there.

    images: kept for so long, for the loader may fill their memory again once nobody has them.
    """

    images: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray
    arrived: torch.cuda.Event | None

    def rows(self) -> Rows:
        if self.arrived is not None:
            self.arrived.synchronize()
        return Rows(self.features.numpy(), self.labels.numpy(), self.ids)


@torch.no_grad()  # inference_mode is no faster here, and what an own network caches in it could not be trained on
def extract(model: Network, loader: Batches, precision: str, epoch: int, position: int) -> Iterator[Rows]:
    """The rows of an epoch from a position on, batch by batch; the model is in eval mode from then on.

    precision: fp32 or bf16. The device never waits for what is done with the rows: the next batch is queued by then.
    """
    model.eval()
    under_way: deque[_UnderWay] = deque()
    ahead = 0 if loader.device.type == "cpu" else AHEAD
    for batch in loader.epoch(epoch, position):
        images = batch.images.float().to(memory_format=torch.channels_last)
        with torch.autocast(loader.device.type, torch.bfloat16, enabled=precision == "bf16"):
            features = model.backbone(images).float()
        under_way.append(_send(batch, features))
        if len(under_way) > ahead:
            yield under_way.popleft().rows()
    for last in under_way:
        yield last.rows()


def _send(batch: Batch, features: torch.Tensor) -> _UnderWay:
    if features.device.type == "cpu":
        return _UnderWay(batch.images, features, batch.labels, batch.ids, None)
    # Only pinned memory is copied to without waiting.
    pinned = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (features, batch.labels)]
    for target, x in zip(pinned, (features, batch.labels), strict=True):
        target.copy_(x, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return _UnderWay(batch.images, pinned[0], pinned[1], batch.ids, arrived)
