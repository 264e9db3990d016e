"""The batches that a loader yields, and the interface of a loader that training and feature extraction rely on."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import torch


class Batch(NamedTuple):
    """One batch of n images.

    images: normalized RGB, [n, 3, size, size], float32 or float16, on the loader's device.
    labels: class indices, int64 [n], on the loader's device.
    ids: indices of the samples in their split, int64 [n], a NumPy array.

    With V views of each image, n is V times the number of images: the first view of all, then the second, ...
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray


class Batches(Protocol):
    """The part of the interface of a Loader that training and feature extraction use.

    device: where the batches lie. len(): the number of batches of an epoch on this rank.
    """

    device: torch.device

    @property
    def images(self) -> int:
        """Returns the number of images of an epoch on this rank."""
        ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterable[Batch]:
        """Returns the batches of an epoch.

        position: the number of images of this epoch that all ranks together have been given already; these are skipped.
        """
        ...
