"""torch.utils.data.DataLoader over files, with torchvision's transforms; `threads` worker processes.

For a GPU: pinned memory, copies that are not waited for, and float16, channels last, only there.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peer_protocol import serve
from peer_transforms import augmentation
from torch.utils.data import DataLoader, Dataset


class Files(Dataset):
    """Files, decoded and augmented in the workers."""

    def __init__(self, paths: list[str], load: Callable[[bytes], torch.Tensor]):
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.load(Path(self.paths[index]).read_bytes())


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Workers live for all epochs."""
    gpu = request["device"] == "cuda"
    loader = DataLoader(
        Files(request["paths"], augmentation(request)),
        batch_size=request["batch"],
        shuffle=True,
        num_workers=request["threads"],
        drop_last=True,
        persistent_workers=True,
        pin_memory=gpu,
    )

    def on_gpu() -> Iterator[torch.Tensor]:
        for batch in loader:
            there = batch.to("cuda", non_blocking=True)
            yield there.to(torch.float16, memory_format=torch.channels_last)

    return on_gpu if gpu else lambda: iter(loader)


if __name__ == "__main__":
    serve(build)
