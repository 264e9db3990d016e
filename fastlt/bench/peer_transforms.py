"""The work of every case in torchvision: the bytes of a file become float32 [3, size, size]."""

# pyright: reportMissingImports=false

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image, decode_jpeg
from torchvision.transforms import v2


def augmentation(request: dict[str, Any]) -> Callable[[Any], torch.Tensor]:
    """Returns a function that decodes, crops, flips, augments and normalizes an image, or a batch of them.

    request: as described in peer_protocol.py, with these options.
    decoder: `pillow`, the default of torchvision's ImageFolder; `torchvision`, which decodes to tensors; `array`, for
    pixels such as CIFAR's; or `device`, which takes the files of a batch as a list and works on the request's device.
    augment: `randaugment`; `autoaugment_cifar`, which adds Cutout, for pixels; or absent.
    """
    pixels = request["decoder"] == "array"
    size, augment = request["size"], request.get("augment")
    policies = {
        "randaugment": lambda: [v2.RandAugment()],
        "autoaugment_cifar": lambda: [v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)],
    }
    transform = v2.Compose(
        [
            v2.RandomCrop(size, padding=4) if pixels else v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            *(policies[augment]() if augment else []),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(request["mean"], request["std"], inplace=True),
            *([v2.Lambda(cutout)] if augment == "autoaugment_cifar" else []),
        ]
    )

    def pillow(data: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(data)) as image:
            return transform(image.convert("RGB"))

    def torchvision(data: bytes) -> torch.Tensor:
        return transform(decode_image(as_tensor(data), ImageReadMode.RGB))

    def array(data: np.ndarray) -> torch.Tensor:
        return transform(Image.fromarray(data))

    def on_device(files: list[torch.Tensor]) -> torch.Tensor:
        images = decode_jpeg(files, mode=ImageReadMode.RGB, device=request["device"])
        return torch.stack([transform(image) for image in images])  # crops differ in size, so one by one

    known = {"pillow": pillow, "torchvision": torchvision, "array": array, "device": on_device}
    return known[request["decoder"]]


def as_tensor(data: bytes) -> torch.Tensor:
    """Returns the bytes of a file as uint8 [n]."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def cutout(image: torch.Tensor, length: int = 16) -> torch.Tensor:
    """Cutout of DeVries and Taylor 2017, as in their code."""
    height, width = image.shape[-2:]
    y, x = (int(torch.randint(side, ())) for side in (height, width))
    top, left = max(y - length // 2, 0), max(x - length // 2, 0)
    image[:, top : y + length // 2, left : x + length // 2] = 0
    return image
