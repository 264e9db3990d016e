"""A small source of drawn pictures, and conversions of it."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fastlt.data.convert import Conversion
from fastlt.data.shards.encode import Encoding
from fastlt.data.sources.base import Listing


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: smooth gradients, a hard edge and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(5, 30) + rng.uniform(0, 6)) + np.cos(y / rng.uniform(5, 30)) for _ in range(3)]
    image = 127 + 50 * np.stack(waves, axis=2) + rng.normal(0, 4, (height, width, 3))
    image[: height // 2, : width // 3] += rng.uniform(-60, 60, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """JPEG bytes of uint8 [H, W, 3] or [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass(frozen=True)
class Pictures:
    """A source of JPEGs of many sizes; class j has counts[j] training images, and 3 of val and test."""

    counts: tuple[int, ...] = (40, 20, 8, 3)
    pixels: bool = False  # give arrays of 32 x 32 instead of JPEG bytes
    broken: tuple[tuple[str, int], ...] = ()  # (split, index) whose bytes are cut off
    name: str = "pictures"
    class_names: list[str] = field(init=False)
    splits: dict[str, Listing] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", [f"class {j}" for j in range(len(self.counts))])
        splits = {}
        for split in ("train", "val", "test"):
            counts = self.counts if split == "train" else [3] * len(self.counts)
            labels = np.repeat(np.arange(len(counts)), counts)
            splits[split] = Listing([f"{split}/größe {i}.jpg" for i in range(len(labels))], labels)
        object.__setattr__(self, "splits", splits)

    def array(self, split: str, index: int) -> np.ndarray:
        seed = ("train", "val", "test").index(split) * 1000 + index
        rng = np.random.default_rng(seed)
        side = (32, 32) if self.pixels else (int(rng.integers(40, 90)), int(rng.integers(40, 90)))
        return picture(seed, *side)

    def load(self, split: str, index: int) -> bytes | np.ndarray:
        if self.pixels:
            return self.array(split, index)
        data = jpeg(self.array(split, index))
        return data[: len(data) // 2] if (split, index) in self.broken else data

    def where(self, split: str, index: int) -> str:
        return self.splits[split].keys[index]


def files(root: Path) -> dict[str, bytes]:
    """The files of a folder without subfolders, by name."""
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


def conversion(kind: str = "keep", shard_mb: int = 256, max_bad: float = 0, raw_fraction: float = 0) -> Conversion:
    """Options for `Pictures`."""
    mean, std = (0.48, 0.45, 0.4), (0.23, 0.22, 0.225)
    return Conversion("pictures", mean, std, "demo", Encoding(kind), shard_mb, raw_fraction, max_bad)
