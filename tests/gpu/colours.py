"""A source that any training learns in a few steps, so that what two devices learn can be compared."""

from dataclasses import dataclass

import numpy as np
from pictures import Pictures

from fastlt.data.sources.base import Listing

COLOURS = np.array([(200, 60, 60), (60, 190, 70), (60, 80, 200), (190, 180, 60)])
EACH = 12  # images of a class in val and test


@dataclass(frozen=True)
class Colours(Pictures):
    """32 x 32 pixels of noise around the colour of the class, with a shade of its own."""

    counts: tuple[int, ...] = (120, 60, 25, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in ("val", "test"):
            labels = np.repeat(np.arange(len(self.counts)), EACH)
            self.splits[split] = Listing([f"{split}/{i}.png" for i in range(len(labels))], labels)

    def array(self, split: str, index: int) -> np.ndarray:
        rng = np.random.default_rng([("train", "val", "test").index(split), index])
        shade = COLOURS[self.splits[split].labels[index]] + rng.normal(0, 8, 3)
        return np.clip(shade + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)

    def load(self, split: str, index: int) -> np.ndarray:
        return self.array(split, index)
