"""torchvision's decoder of JPEG on a GPU, and its transforms there. Workers of a DataLoader only read the files.

decode_jpeg takes a batch of files at once; crops differ in size, so each image is cropped and resized by itself.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peer_protocol import serve
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2


class Bytes(Dataset):
    """A dataset of files as they are."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.frombuffer(bytearray(Path(self.paths[index]).read_bytes()), dtype=torch.uint8)


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Builds the loader, with workers that persist over all epochs."""
    device, size = torch.device(request["device"]), request["size"]
    each = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    together = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(request["mean"], request["std"], inplace=True)]
    )
    loader = DataLoader(
        Bytes(request["paths"]),
        batch_size=request["batch"],
        shuffle=True,
        num_workers=request["threads"],
        drop_last=True,
        persistent_workers=True,
        collate_fn=list,
    )

    def epoch() -> Iterator[torch.Tensor]:
        for files in loader:
            images = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
            batch = together(torch.stack([each(image) for image in images]))
            yield batch.to(torch.float16, memory_format=torch.channels_last) if device.type == "cuda" else batch

    return epoch


if __name__ == "__main__":
    serve(build)
