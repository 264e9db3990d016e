"""torch.utils.data.DataLoader over files, with torchvision's transforms and `threads` worker processes.

On a GPU it uses pinned memory and asynchronous copies; batches become float16 and channels-last on the GPU. With the
decoder `device` the workers only read the files, and torchvision decodes and transforms them on the device.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_protocol import serve
from peer_transforms import as_tensor, augmentation
from torch.utils.data import DataLoader, Dataset


class Files(Dataset):
    """A dataset of files, which are decoded and augmented in the workers."""

    def __init__(self, paths: list[str], load: Callable[[bytes], torch.Tensor]):
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.load(Path(self.paths[index]).read_bytes())


class Arrays(Dataset):
    """A dataset of pixels in memory, which are augmented in the workers."""

    def __init__(self, path: str, load: Callable[[np.ndarray], torch.Tensor]):
        self.pixels, self.load = np.load(path), load

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.load(self.pixels[index])


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Builds the loader, with workers that persist over all epochs."""
    gpu, there = request["device"] == "cuda", request["decoder"] == "device"
    load = augmentation(request)
    if request["decoder"] == "array":
        images: Dataset = Arrays(request["array"], load)
    else:
        images = Files(request["paths"], as_tensor if there else load)
    loader = DataLoader(
        images,
        batch_size=request["batch"],
        shuffle=True,
        num_workers=request["threads"],
        drop_last=True,
        persistent_workers=True,
        pin_memory=gpu and not there,
        collate_fn=list if there else None,
    )

    def epoch() -> Iterator[torch.Tensor]:
        for loaded in loader:
            batch = load(loaded) if there else loaded.to(request["device"], non_blocking=True)
            yield batch.to(torch.float16, memory_format=torch.channels_last) if gpu else batch

    return epoch


if __name__ == "__main__":
    serve(build)
