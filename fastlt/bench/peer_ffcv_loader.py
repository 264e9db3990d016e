"""FFCV's Loader on a file of its own format (see peer_ffcv_writer.py). It compiles its code in the first epoch."""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from peer_protocol import serve


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Builds the loader. Batches have the shape NCHW and are channels-last in memory, which is fastest for FFCV."""
    mean, std = (np.array(request[key]) * 255 for key in ("mean", "std"))
    image = [
        RandomResizedCropRGBImageDecoder((request["size"], request["size"])),
        RandomHorizontalFlip(),
        NormalizeImage(mean, std, np.float32),
        ToTensor(),
        ToTorchImage(),
    ]
    loader = Loader(
        request["data"],
        batch_size=request["batch"],
        num_workers=request["threads"],
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label": None},
    )
    return lambda: (batch[0] for batch in loader)


if __name__ == "__main__":
    serve(build)
