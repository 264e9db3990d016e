"""The plan: for every position of an epoch the sample, its crop box, flip and colour factors. Plain arrays."""

from dataclasses import dataclass

import numpy as np

from fastlt.errors import UserError
from fastlt.kernels.draw_plan import draw_flips, draw_jitter, draw_pad_crops, draw_resized_crops

CROPS = ("resized", "pad", "center")
NO_JITTER = np.array([1, 1, 1, 0], np.float32)


@dataclass(frozen=True)
class Augment:
    """How images become inputs of `size` x `size` pixels.

    crop: `resized` (torchvision's RandomResizedCrop), `pad` (random window of the padded image, CIFAR) or `center`
    (evaluation: the central `keep` share of the short side, as Resize(256) + CenterCrop(224) with keep = 224/256).
    jitter: strength of brightness, contrast and saturation jitter, 0 for none.
    """

    size: int
    crop: str = "center"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    keep: float = 1.0
    flip: bool = False
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"crop={self.crop} is unknown: allowed are {', '.join(CROPS)}")
        if self.size < 1:
            raise UserError(f"image_size={self.size}: it must be at least 1 pixel")
        if not 0 < self.keep <= 1:
            raise UserError(f"keep={self.keep}: the share of the short side must be in (0, 1]")
        if not 0 <= self.jitter <= 1:
            raise UserError(f"jitter={self.jitter}: the strength must be in [0, 1]")


@dataclass(frozen=True)
class Plan:
    """Columns of n positions: ids int64 [n]; box int32 [n, 4] (y, x, height, width in pixels of the stored image, may
    stick out of it); flip uint8 [n]; jitter float32 [n, 4] (brightness, contrast, saturation, order)."""

    ids: np.ndarray
    box: np.ndarray
    flip: np.ndarray
    jitter: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Plan":
        return Plan(self.ids[part], self.box[part], self.flip[part], self.jitter[part])


def center_boxes(height: np.ndarray, width: np.ndarray, keep: float) -> np.ndarray:
    """The central square of `keep` times the short side, int32 [n, 4]."""
    side = np.maximum(1, np.rint(np.minimum(height, width) * keep)).astype(np.int32)
    return np.stack([(height - side) // 2, (width - side) // 2, side, side], axis=1).astype(np.int32)


def draw_plan(
    ids: np.ndarray,
    positions: np.ndarray,
    height: np.ndarray,
    width: np.ndarray,
    augment: Augment,
    seed: int,
    epoch: int,
) -> Plan:
    """The plan of some positions of an epoch; the same whatever other positions are drawn with them.

    ids, positions: int64 [n]. height, width: int32 [n], sizes of the stored images. seed, epoch: not negative.
    """
    n = len(ids)
    if augment.crop == "resized":
        box = draw_resized_crops(height, width, positions, augment.scale, augment.ratio, seed, epoch)
    elif augment.crop == "pad":
        box = draw_pad_crops(height, width, positions, augment.size, augment.pad, seed, epoch)
    else:
        box = center_boxes(height, width, augment.keep)
    flip = draw_flips(positions, seed, epoch) if augment.flip else np.zeros(n, np.uint8)
    jitter = draw_jitter(positions, augment.jitter, seed, epoch) if augment.jitter else np.tile(NO_JITTER, (n, 1))
    return Plan(ids, box, flip, jitter)
