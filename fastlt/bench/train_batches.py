"""Sources of batches that training with fastlt's loader is compared with: synthetic batches and PyTorch's loader."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fastlt.bench.loader_data import MEAN, STD
from fastlt.core.batches import Batch

DISTINCT = 4  # different synthetic batches, which are used in turn


class Synthetic:
    """Batches of noise that are already on the device, as from a loader that takes no time."""

    def __init__(self, batches: int, batch: int, size: int, classes: int, device: torch.device, dtype: torch.dtype):
        self.device, self._batches = device, batches
        rng = torch.Generator().manual_seed(0)
        shape = (batch, 3, size, size)
        self._made = [
            Batch(
                torch.randn(shape, generator=rng).to(device, dtype, memory_format=torch.channels_last),  # type: ignore[call-overload]
                torch.randint(classes, (batch,), generator=rng).to(device),
                np.zeros(batch, np.int64),
            )
            for _ in range(min(DISTINCT, batches))
        ]

    @property
    def images(self) -> int:
        """The number of images of an epoch."""
        return self._batches * len(self._made[0].labels)

    def __len__(self) -> int:
        return self._batches

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        """Yields the same few batches in turn."""
        for number in range(self._batches):
            yield self._made[number % len(self._made)]


class _Files(Dataset):
    def __init__(self, paths: list[Path], labels: np.ndarray, size: int):
        from torchvision.transforms import v2

        self.paths, self.labels = paths, labels
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD, inplace=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(self.paths[index].read_bytes())) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


class TorchLoader:
    """torch.utils.data.DataLoader with torchvision's transforms, persistent workers and, for a GPU, pinned memory."""

    def __init__(
        self, paths: list[Path], labels: np.ndarray, batch: int, size: int, threads: int, device: torch.device
    ):
        self.device, self._batch = device, batch
        self._loader = DataLoader(
            _Files(paths, labels, size),
            batch_size=batch,
            shuffle=True,
            num_workers=threads,
            drop_last=True,
            persistent_workers=True,
            pin_memory=device.type == "cuda",
        )

    @property
    def images(self) -> int:
        """The number of images of an epoch."""
        return len(self) * self._batch

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, moved to the device."""
        for images, labels in self._loader:
            there = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            yield Batch(*there, np.zeros(len(labels), np.int64))
