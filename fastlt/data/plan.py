"""The plan: for every position of an epoch the sample, its crop box, flip and colour factors. Plain arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.kernels.draw_plan import draw_flips, draw_jitter, draw_pad_crops, draw_resized_crops
from fastlt.registry import check_options, find_part

CROPS = ("resized", "pad", "center")
MAX_SIDE = 1 << 30  # of an image resized for evaluation
NO_JITTER = np.array([1, 1, 1, 0], np.float32)


@dataclass(frozen=True)
class Augment:
    """How images become inputs of `size` x `size` pixels.

    crop: `resized` (torchvision's RandomResizedCrop), `pad` (random window of the padded image, CIFAR) or `center`
    (evaluation: torchvision's Resize(round(size / keep)) + CenterCrop(size): the central `keep` share of the short
    side. Resize(256) + CenterCrop(224) is size = 224, keep = 224/256).
    jitter: strength of brightness, contrast and saturation jitter, 0 for none.
    image_hook: what is done to each image after all this, `package.module:NAME` of the user's own; "" for nothing. It
    is called as NAME(image, key, **image_hook_options) with the image as the loader gives it, [3, size, size] on its
    device, and key = (seed, epoch, position), which makes it a pure function, and gives such an image.
    """

    size: int
    crop: str = "center"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    keep: float = 1.0
    flip: bool = False
    jitter: float = 0.0
    image_hook: str = ""
    image_hook_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"crop={self.crop} is unknown: allowed are {', '.join(CROPS)}")
        if self.size < 1:
            raise UserError(f"image_size={self.size}: it must be at least 1 pixel")
        if not 0 < self.keep <= 1:
            raise UserError(f"keep={self.keep}: the share of the short side must be in (0, 1]")
        if self.size / self.keep > MAX_SIDE:
            raise UserError(
                f"keep={self.keep}: images would be resized to a short side of {self.size / self.keep:.3g} pixels for "
                f"image_size={self.size}; at least keep={self.size / MAX_SIDE:.3g} is needed"
            )
        if not 0 <= self.jitter <= 1:
            raise UserError(f"jitter={self.jitter}: the strength must be in [0, 1]")
        self.hook()

    def hook(self) -> Callable[..., Any] | None:
        """The function (image, key) -> image that `image_hook` names; None where there is none."""
        if not self.image_hook:
            return None
        function = find_part("protocol.image_hook", self.image_hook, {})
        check_options("protocol.image_hook", self.image_hook, function, self.image_hook_options, 2)
        return partial(function, **self.image_hook_options)


@dataclass(frozen=True)
class Plan:
    """Columns of n positions: ids int64 [n]; box float64 [n, 4] and window int32 [n, 4] (y, x, height, width in pixels
    of the stored image); flip uint8 [n]; jitter float32 [n, 4] (brightness, contrast, saturation, order).

    box: what the output shows of the image. window: the pixels that the resize may read. Where images are cropped, then
    resized (training), the window is the box, and both may stick out of the image. Where they are resized, then cropped
    (evaluation), the box has fractions, and the window is larger by the reach of the filter, within the image.
    """

    ids: np.ndarray
    box: np.ndarray
    window: np.ndarray
    flip: np.ndarray
    jitter: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Plan":
        return Plan(self.ids[part], self.box[part], self.window[part], self.flip[part], self.jitter[part])


def center_boxes(height: np.ndarray, width: np.ndarray, size: int, keep: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float64 [n, 4] and windows int32 [n, 4] of Resize(round(size / keep)) + CenterCrop(size), as in Plan.

    height, width: int32 [n], sizes of the stored images.
    """
    sides = np.stack([height, width], axis=1).astype(np.int64)
    # The whole image is resized to whole pixels, the long side rounded down, and the crop begins at one of them.
    resized = round(size / keep) * sides // sides.min(axis=1, keepdims=True)
    first = np.rint((resized - size) / 2)
    scale = sides / resized
    box = np.concatenate([first * scale, size * scale], axis=1)
    # Beyond the centres of the first and last output pixel the filter reaches as far as output pixels lie apart.
    reach = np.maximum(scale, 1) - scale / 2
    begin = np.maximum(np.floor(box[:, :2] - reach + 0.5), 0)
    end = np.minimum(np.floor(box[:, :2] + box[:, 2:] + reach + 0.5), sides)
    return box, np.concatenate([begin, end - begin], axis=1).astype(np.int32)


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
        window = draw_resized_crops(height, width, positions, augment.scale, augment.ratio, seed, epoch)
        box = window.astype(np.float64)
    elif augment.crop == "pad":
        window = draw_pad_crops(height, width, positions, augment.size, augment.pad, seed, epoch)
        box = window.astype(np.float64)
    else:
        box, window = center_boxes(height, width, augment.size, augment.keep)
    flip = draw_flips(positions, seed, epoch) if augment.flip else np.zeros(n, np.uint8)
    jitter = draw_jitter(positions, augment.jitter, seed, epoch) if augment.jitter else np.tile(NO_JITTER, (n, 1))
    return Plan(ids, box, window, flip, jitter)
