"""The work of every case as torchvision does it: bytes of a file -> float32 [3, size, size]."""

# pyright: reportMissingImports=false

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2


def augmentation(request: dict[str, Any]) -> Callable[[bytes], torch.Tensor]:
    """Decode, random crop, flip, normalize; peer_protocol.py says what `request` holds.

    decoder: `pillow`, what torchvision's ImageFolder does by default, or `torchvision`, whose decoder gives tensors.
    """
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(request["size"], antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(request["mean"], request["std"], inplace=True),
        ]
    )

    def pillow(data: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(data)) as image:
            return transform(image.convert("RGB"))

    def torchvision(data: bytes) -> torch.Tensor:
        return transform(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))

    return {"pillow": pillow, "torchvision": torchvision}[request["decoder"]]
