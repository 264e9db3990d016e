"""Extracts features from batches of images."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from fastlt.core.batches import Batch, Batches
from fastlt.stage2.features.network import Network

AHEAD = 2  # batches that are queued on a GPU before the features of an earlier one are waited for


class Rows(NamedTuple):
    """Features float32 [n, D], class indices int64 [n] and sample ids int64 [n] of a batch, as arrays."""

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


class _UnderWay(NamedTuple):
    """Rows that may still be being copied from a GPU.

    arrived: event that the GPU records after the copy; None on a CPU.
    images: the batch, which is referenced until then because the loader reuses the memory of released images.
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


@torch.no_grad()  # not inference_mode: it is no faster, and tensors that a network caches in it cannot be trained on
def extract(model: Network, loader: Batches, precision: str, epoch: int, position: int) -> Iterator[Rows]:
    """Yields the features of the images of an epoch, batch by batch, and puts the model into eval mode.

    precision: fp32 or bf16 (autocast). epoch, position: of the loader; the first `position` images are skipped.

    On a GPU the following batches are queued before rows are yielded, so the GPU works while the caller uses the rows.
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
    # A copy from the GPU is asynchronous only into pinned memory.
    pinned = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (features, batch.labels)]
    for target, x in zip(pinned, (features, batch.labels), strict=True):
        target.copy_(x, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return _UnderWay(batch.images, pinned[0], pinned[1], batch.ids, arrived)
