"""Batches of images: what a loader gives, and training and feature extraction take."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import torch


class Batch(NamedTuple):
    """images: [n, 3, size, size] on the loader's device. labels: int64 [n] there. ids: int64 [n], the samples."""

    images: torch.Tensor
    labels: torch.Tensor
    ids: np.ndarray


class Batches(Protocol):
    """What is trained on: a Loader, or what looks like one."""

    device: torch.device

    @property
    def images(self) -> int:
        """Images of an epoch on this rank."""
        ...

    def __len__(self) -> int: ...

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterable[Batch]:
        """The batches of an epoch, from a position on that all ranks together have come to."""
        ...
