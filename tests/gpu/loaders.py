"""Loaders on the device under test, and what their epochs give."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from test_graph_gpu import OnCpu

from fastlt.core.batches import Batch
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import Sampler

KINDS = ("jpeg", "raw", "mixed")
AUGMENTS = {
    "jpeg": Augment(24, "resized", scale=(0.3, 1.0), flip=True),
    "raw": Augment(32, "pad", flip=True),
    "mixed": Augment(24, "resized", scale=(0.3, 1.0), flip=True),
}
# Pixel values 0..255 that images may be off on average, all together and each: decoders differ, and where a resize
# rounds.
ALL, EACH = 1.0, 2.5


class Epoch(NamedTuple):
    """images float32 [n, 3, size, size] in pixel values, labels and ids int64 [n], all on the CPU."""

    images: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray


def class_order(dataset: Dataset, law: str = "class") -> Sampler:
    index = dataset.split("train")
    return Sampler(index.class_members, index.class_start, law, seed=1, epochs=4)


def gpu_graph(dataset: Dataset, device: torch.device, augment: Augment, batch: int = 16, **options: Any) -> Loader:
    """A loader of the GPU graph; where the device is a CPU, with the graph's operators there."""
    kind = OnCpu if device.type == "cpu" else Loader
    order = options.pop("order", None) or class_order(dataset)
    usual = {"dtype": torch.float16, "channels_last": True, "seed": 1}
    return kind(dataset, "train", order, augment, batch, device=device, **{**usual, **options})


def cpu_graph(dataset: Dataset, augment: Augment, batch: int = 16, **options: Any) -> Loader:
    order = options.pop("order", None) or class_order(dataset)
    return Loader(dataset, "train", order, augment, batch, **{"seed": 1, **options})


def pixels(images: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    """Images of a loader in pixel values, float32 on the CPU."""
    if images.dtype == torch.uint8:
        return images.cpu().float()
    mean, std = (torch.tensor(dataset.about[key])[:, None, None] * 255 for key in ("mean", "std"))
    return images.float().cpu() * std + mean


def joined(batches: Iterable[Batch], dataset: Dataset) -> Epoch:
    """An epoch's batches as one, each fetched from the device before the next is asked for."""
    parts = [(pixels(batch.images, dataset), batch.labels.cpu(), batch.ids) for batch in batches]
    images, labels, ids = zip(*parts, strict=True)
    return Epoch(torch.cat(images), torch.cat(labels), np.concatenate(ids))


def off(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of each pair of images, [n]."""
    return (images - others).abs().mean((1, 2, 3))


def assert_same(found: Epoch, expected: Epoch) -> None:
    """The same samples in the same order, cropped and flipped alike: a shift by one pixel is more than EACH."""
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert torch.equal(found.labels, expected.labels)
    difference = off(found.images, expected.images)
    assert difference.mean() <= ALL and difference.max() <= EACH
