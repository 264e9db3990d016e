"""SPDL: FFmpeg decodes, crops, scales and flips in `threads` threads, and torch normalizes batches."""

# pyright: reportMissingImports=false

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import spdl.io
import torch
from peer_protocol import serve
from spdl.pipeline import PipelineBuilder

READY = 2  # prefetched batches


def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Draws the box of torchvision's RandomResizedCrop: (width, height, x, y)."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return w, h, random.randint(0, width - w), random.randint(0, height - h)
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return w, h, (width - w) // 2, (height - h) // 2


def build(request: dict[str, Any]) -> Callable[[], Iterator[torch.Tensor]]:
    """Builds the loader, with a new pipeline for every epoch as in SPDL's examples."""
    size, paths = request["size"], request["paths"]
    torch.set_num_threads(request["threads"])
    mean, std = (torch.tensor(request[key]).view(3, 1, 1) * 255 for key in ("mean", "std"))

    def decode(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        w, h, x, y = crop_box(packets.codec.width, packets.codec.height)
        flip = ",hflip" if random.random() < 0.5 else ""
        window = f"crop={w}:{h}:{x}:{y}:exact=1,scale={size}:{size}:flags=bilinear{flip},format=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=window)

    def collate(frames: list[Any]) -> torch.Tensor:
        pixels = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)

    def epoch() -> Iterator[torch.Tensor]:
        pipeline = (
            PipelineBuilder()
            .add_source(random.sample(paths, len(paths)))
            .pipe(decode, concurrency=request["threads"])
            .aggregate(request["batch"], drop_last=True)
            .pipe(collate)
            .add_sink(READY)
            .build(num_threads=request["threads"])
        )
        with pipeline.auto_stop():
            yield from pipeline

    return epoch


if __name__ == "__main__":
    serve(build)
