"""The plan of an epoch: for every position the sample id, crop box, flip, colour factors and augmentations, as arrays.

A plan is drawn before any image is read, and the pipeline executes it. It is a pure function of seed, epoch and
position, so augmentation does not depend on batch size, threads, ranks or resumption.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from fastlt.core.checks import range_within, whole
from fastlt.core.errors import UserError
from fastlt.data.augmentations import Augmentation, draw_slots, make_augmentations
from fastlt.kernels.crop_resize import INTERPOLATIONS, REACH
from fastlt.kernels.draw_plan import draw_flips, draw_jitter, draw_pad_crops, draw_resized_crops
from fastlt.registry import check_options, find_part

CROPS = ("resized", "pad", "center")
MAX_VIEWS = 16  # of an image in a batch
LEAST_SHARE, MAX_RATIO = 1e-4, 1e3  # of a crop: its share of the image's area, and width / height or the inverse
MAX_SIDE = 1 << 30  # pixels of the short side that an image may be resized to for evaluation
NO_JITTER = np.array([1, 1, 1, 0], np.float32)


@dataclass(frozen=True)
class Augment:
    """How stored images become network inputs of `image_size` x `image_size` pixels.

    image_size: height and width of the inputs, in pixels.
    crop: one of
        `resized`: torchvision's RandomResizedCrop (training on ImageNet and the like);
        `pad`: a random window of the image padded by `pad` pixels on every side (training on CIFAR);
        `center`: torchvision's Resize(round(image_size / crop_pct)) + CenterCrop(image_size) (evaluation).
    scale: for `resized`, the range of the crop's share of the image's area.
    ratio: for `resized`, the range of the crop's width / height.
    pad: for `pad`, in pixels.
    crop_pct: for `center`, the share of the short side that is kept, in (0, 1]. Resize(256) + CenterCrop(224) is
    image_size=224, crop_pct=224 / 256.
    flip: whether images are mirrored horizontally with probability one half.
    jitter: strength of brightness, contrast and saturation jitter, 0 (none) to 1.
    interpolation: the filter of every resize, Pillow's `bilinear` or `bicubic` with antialiasing.
    augment: names of augmentations that are applied next, in this order.
    augment_options: the options of each augmentation by its name, such as {"randaugment": {"magnitude": 7}}.
    image_hook: a function of your own that is applied to each normalized image last, as `package.module:NAME`; "" for
    none. It is called as NAME(image, key, **image_hook_options) and returns an image of the same shape. `image` is a
    tensor of shape [3, image_size, image_size] on the loader's device; key = (seed, epoch, position) should be the only
    source of randomness, so that epochs can be repeated.
    image_hook_options: keyword arguments of the image hook.
    views_per_image: V, how often each image is in its batch, each time with its own crop, flip and augmentations. The
    image at position p is drawn as those at the positions V p, ..., V p + V - 1 of a plan of single views.

    Raises UserError for values that are not allowed.

    Example:

        >>> train = Augment(image_size=224, crop="resized", flip=True, augment=("randaugment",))
        >>> test = Augment(image_size=224, crop_pct=224 / 256)
        >>> test.crop
        'center'
    """

    image_size: int
    crop: str = "center"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    crop_pct: float = 1.0
    flip: bool = False
    jitter: float = 0.0
    interpolation: str = "bilinear"
    augment: tuple[str, ...] = ()
    augment_options: dict[str, Any] = field(default_factory=dict)
    image_hook: str = ""
    image_hook_options: dict[str, Any] = field(default_factory=dict)
    views_per_image: int = 1

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UserError(f"crop={self.crop} is unknown: allowed are {', '.join(CROPS)}")
        if self.image_size < 1:
            raise UserError(f"image_size={self.image_size}: it must be at least 1 pixel")
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"crop_pct={self.crop_pct}: the share of the short side must be in (0, 1]")
        if self.image_size / self.crop_pct > MAX_SIDE:
            side = self.image_size / self.crop_pct
            raise UserError(
                f"crop_pct={self.crop_pct}: images would be resized to a short side of {side:.3g} pixels for "
                f"image_size={self.image_size}; at least crop_pct={self.image_size / MAX_SIDE:.3g} is needed"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation={self.interpolation} is unknown: allowed are {', '.join(INTERPOLATIONS)}")
        whole("views_per_image", self.views_per_image, 1, MAX_VIEWS)
        range_within("scale", self.scale, LEAST_SHARE, 1)
        range_within("ratio", self.ratio, 1 / MAX_RATIO, MAX_RATIO)
        if self.crop == "pad":
            whole("pad", self.pad, 0, self.image_size - 1)  # so that every crop shows a part of the image
        if not 0 <= self.jitter <= 1:
            raise UserError(f"jitter={self.jitter}: the strength must be in [0, 1]")
        assert self.augmentations is not None  # makes them once, so that wrong options are reported here
        self.hook()

    @cached_property
    def augmentations(self) -> list[Augmentation]:
        """The augmentations that `augment` names, with their options."""
        return make_augmentations(self.augment, self.augment_options)

    def hook(self) -> Callable[..., Any] | None:
        """Returns the function (image, key) -> image that `image_hook` names, or None if there is no hook.

        Raises UserError if it cannot be imported or does not take `image_hook_options`.
        """
        if not self.image_hook:
            return None
        function = find_part("protocol.image_hook", self.image_hook, {})
        check_options("protocol.image_hook", self.image_hook, function, self.image_hook_options, 2)
        return partial(function, **self.image_hook_options)


@dataclass(frozen=True)
class Plan:
    """The plan of n positions of an epoch. A slice of a plan is a plan.

    ids: int64 [n], the sample ids.
    box: float64 [n, 4], the part of the stored image that the output shows: (y, x, height, width) in pixels.
    window: int32 [n, 4], the pixels that resizing may read, in the same form.
    flip: uint8 [n], 1 where the image is mirrored horizontally.
    jitter: float32 [n, 4], the factors of brightness, contrast and saturation, and their order (0 to 5).
    slots: float64 [n, K, WIDTH], the operations of `augment` (augment_codes.py).

    In training images are cropped, then resized: the window equals the box, and both may extend beyond a padded image.
    In evaluation they are resized, then cropped: the box has fractions, and the window is larger by the support of the
    resize filter, but stays within the image.
    """

    ids: np.ndarray
    box: np.ndarray
    window: np.ndarray
    flip: np.ndarray
    jitter: np.ndarray
    slots: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Plan":
        columns = self.ids, self.box, self.window, self.flip, self.jitter, self.slots
        return Plan(*(column[part] for column in columns))


def center_boxes(
    height: np.ndarray, width: np.ndarray, size: int, crop_pct: float, interpolation: str = "bilinear"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns box float64 [n, 4] and window int32 [n, 4], as in `Plan`, for evaluation.

    They are those of torchvision's Resize(round(size / crop_pct)) + CenterCrop(size).

    height, width: int32 [n], the sizes of the stored images in pixels. interpolation: as in `Augment`; the window is as
    much larger than the box as its filter needs.
    """
    sides = np.stack([height, width], axis=1).astype(np.int64)
    # As in torchvision, the resized image has whole pixels, its long side rounded down, and the crop begins at a pixel.
    resized = round(size / crop_pct) * sides // sides.min(axis=1, keepdims=True)
    first = np.rint((resized - size) / 2)
    scale = sides / resized
    box = np.concatenate([first * scale, size * scale], axis=1)
    # Around the centres of output pixels the filter extends by REACH input or output pixels, whichever are larger.
    reach = REACH[INTERPOLATIONS.index(interpolation)] * np.maximum(scale, 1) - scale / 2
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
    """Draws the plan of some positions of an epoch. It does not depend on which other positions are drawn with them.

    ids, positions: int64 [n], the sample ids and their positions in the epoch.
    height, width: int32 [n], the sizes of the stored images in pixels.
    augment: what to draw. seed, epoch: integers, not negative.
    """
    n = len(ids)
    if augment.crop == "resized":
        window = draw_resized_crops(height, width, positions, augment.scale, augment.ratio, seed, epoch)
        box = window.astype(np.float64)
    elif augment.crop == "pad":
        window = draw_pad_crops(height, width, positions, augment.image_size, augment.pad, seed, epoch)
        box = window.astype(np.float64)
    else:
        box, window = center_boxes(height, width, augment.image_size, augment.crop_pct, augment.interpolation)
    flip = draw_flips(positions, seed, epoch) if augment.flip else np.zeros(n, np.uint8)
    jitter = draw_jitter(positions, augment.jitter, seed, epoch) if augment.jitter else np.tile(NO_JITTER, (n, 1))
    slots = draw_slots(augment.augmentations, positions, augment.image_size, seed, epoch)
    return Plan(ids, box, window, flip, jitter, slots)
