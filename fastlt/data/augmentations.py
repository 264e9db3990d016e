"""Augmentations of an image after its crop, flip and jitter, by name; each draws operations (augment_codes.py) of its
own for every position. Laws and values are those of torchvision's transforms of the same purpose.

A new one is a dataclass here, and its line in AUGMENTATIONS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from fastlt.core.checks import range_within, whole, within
from fastlt.core.errors import UserError
from fastlt.data import policies
from fastlt.kernels import augment_codes as codes
from fastlt.kernels import draw_augment as draws
from fastlt.registry import call_part

INTERPOLATIONS = ("nearest", "bilinear")
MAX_OPERATIONS = 16  # of one augmentation
PURPOSES = 64  # random numbers of a position that each augmentation of a list has for itself
LEVELS = 10  # of AutoAugment's magnitudes

Key = tuple[Any, Any, Any]  # seed, epoch, first purpose, with the types that draws take


class Augmentation(Protocol):
    """operations: how many slots it fills for an image."""

    @property
    def operations(self) -> int: ...

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        """Fills slots, float64 [n, operations, WIDTH], zeros, of the positions int64 [n]; size: pixels of a side."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """What moves pixels. interpolation: `nearest` or `bilinear`. fill: level of what lies outside of the image."""

    interpolation: str = "nearest"
    fill: float = 0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"interpolation={self.interpolation} is unknown: allowed are {', '.join(INTERPOLATIONS)}")
        within("fill", self.fill, 0, 255)

    @property
    def affine(self) -> tuple[bool, float]:
        return self.interpolation == "bilinear", float(int(self.fill))


@dataclass(frozen=True, kw_only=True)
class _AutoAugment(_Placed):
    """One of 25 sub-policies, each two operations with a probability and a magnitude (Cubuk et al. 2019)."""

    policy: ClassVar[Sequence[policies.SubPolicy]]

    @property
    def operations(self) -> int:
        return 2

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        levels = _magnitudes(policies.RANGES, LEVELS, size)
        table = [[_row(name, share, levels, level) for name, share, level in pair] for pair in self.policy]
        draws.draw_policy(slots, positions, np.array(table), size, *self.affine, *key)


class AutoAugmentCifar(_AutoAugment):
    policy = policies.CIFAR


class AutoAugmentImagenet(_AutoAugment):
    policy = policies.IMAGENET


@dataclass(frozen=True, kw_only=True)
class RandAugment(_Placed):
    """num_ops operations, each one of 14, all with one magnitude (Cubuk et al. 2020): `magnitude` of
    `num_magnitude_bins` levels."""

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("num_ops", self.num_ops, 1, MAX_OPERATIONS)
        whole("num_magnitude_bins", self.num_magnitude_bins, 2, 1000)
        whole("magnitude", self.magnitude, 0, self.num_magnitude_bins - 1)

    @property
    def operations(self) -> int:
        return self.num_ops

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        levels = _magnitudes(policies.RANGES, self.num_magnitude_bins, size)
        table = np.array([[_row(name, 1.0, levels, self.magnitude)] for name in policies.RANDOM_OPERATIONS])
        seed, epoch, purpose = key
        for j in range(self.num_ops):
            draws.draw_policy(slots[:, j : j + 1], positions, table, size, *self.affine, seed, epoch, purpose + 2 * j)


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(_Placed):
    """One operation of 14, with any magnitude of a wide range (Mueller and Hutter 2021, "Wide")."""

    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("num_magnitude_bins", self.num_magnitude_bins, 2, 1000)

    @property
    def operations(self) -> int:
        return 1

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        bins = self.num_magnitude_bins
        levels = _magnitudes(policies.WIDE_RANGES, bins, 1)  # shifts are in pixels
        names = policies.RANDOM_OPERATIONS
        table = np.array([[_row(name, 1.0, levels, level)] for name in names for level in range(bins)])
        draws.draw_policy(slots, positions, table, size, *self.affine, *key)


@dataclass(frozen=True, kw_only=True)
class Rotation(_Placed):
    """A turn around the centre by an angle in -+`degrees`."""

    degrees: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within("degrees", self.degrees, 0, 180)

    @property
    def operations(self) -> int:
        return 1

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        draws.draw_rotations(slots, positions, float(self.degrees), size, *self.affine, *key)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, in any order; p: how often. Strengths as of torchvision's ColorJitter:
    factors in 1 -+ strength, hue in -+strength of the circle."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 1.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation", "p"):
            within(name, getattr(self, name), 0, 1)
        within("hue", self.hue, 0, 0.5)

    @property
    def operations(self) -> int:
        return 4

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue], np.float64)
        draws.draw_colours(slots, positions, strengths, float(self.p), *key)


@dataclass(frozen=True, kw_only=True)
class _Sometimes:
    """An operation without arguments; p: how often."""

    code: ClassVar[int]
    p: float = 0.5

    def __post_init__(self) -> None:
        within("p", self.p, 0, 1)

    @property
    def operations(self) -> int:
        return 1

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        draws.draw_sometimes(slots, positions, self.code, float(self.p), *key)


@dataclass(frozen=True, kw_only=True)
class Grayscale(_Sometimes):
    code = codes.GRAYSCALE
    p: float = 0.1


@dataclass(frozen=True, kw_only=True)
class VerticalFlip(_Sometimes):
    code = codes.VERTICAL_FLIP


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A Gaussian blur with sigma in `sigma` pixels; p: how often. kernel_size: its taps, an odd number; 0 is the odd
    number next to a tenth of the image's side, at least 3."""

    kernel_size: int = 0
    sigma: Sequence[float] = (0.1, 2.0)
    p: float = 0.5

    def __post_init__(self) -> None:
        whole("kernel_size", self.kernel_size, 0, codes.MAX_TAPS)
        if self.kernel_size and self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size={self.kernel_size}: it must be odd, or 0 for a tenth of the image's side")
        range_within("sigma", self.sigma, 1e-3, 1e3)
        within("p", self.p, 0, 1)

    @property
    def operations(self) -> int:
        return 1

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        taps = min(self.kernel_size or max(3, size // 10 // 2 * 2 + 1), 2 * size - 1)
        draws.draw_blurs(slots, positions, taps, float(self.sigma[0]), float(self.sigma[1]), float(self.p), *key)


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Squares of `size` pixels become the mean colour, 0 after the normalization; their centres lie anywhere in the
    image, so that they may end at its edge (DeVries and Taylor 2017). p: how often, of each."""

    size: int = 16
    holes: int = 1
    p: float = 1.0

    def __post_init__(self) -> None:
        whole("size", self.size, 1, 1 << 16)
        whole("holes", self.holes, 1, MAX_OPERATIONS)
        within("p", self.p, 0, 1)

    @property
    def operations(self) -> int:
        return self.holes

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        draws.draw_cutouts(slots, positions, self.size, size, float(self.p), *key)


@dataclass(frozen=True, kw_only=True)
class Erasing:
    """A rectangle of `scale` of the area and of `ratio` height over width becomes the mean colour, 0 after the
    normalization (Zhong et al. 2020). p: how often."""

    p: float = 0.5
    scale: Sequence[float] = (0.02, 0.33)
    ratio: Sequence[float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        within("p", self.p, 0, 1)
        range_within("scale", self.scale, 1e-6, 1)
        range_within("ratio", self.ratio, 1e-3, 1e3)

    @property
    def operations(self) -> int:
        return 1

    def draw(self, slots: np.ndarray, positions: np.ndarray, size: int, key: Key) -> None:
        scale, ratio = (tuple(float(one) for one in pair) for pair in (self.scale, self.ratio))
        draws.draw_erasings(slots, positions, size, scale, ratio, float(self.p), *key)


AUGMENTATIONS: dict[str, type[Any]] = {
    "autoaugment_cifar": AutoAugmentCifar,
    "autoaugment_imagenet": AutoAugmentImagenet,
    "randaugment": RandAugment,
    "trivialaugment": TrivialAugment,
    "color_jitter": ColorJitter,
    "grayscale": Grayscale,
    "blur": Blur,
    "vertical_flip": VerticalFlip,
    "rotation": Rotation,
    "cutout": Cutout,
    "erasing": Erasing,
}
ERASING = ("cutout", "erasing")


def make_augmentations(names: Sequence[str], options: Mapping[str, Any]) -> list[Augmentation]:
    """The augmentations of these names, with their options by name. Raises UserError for what is not known, and where
    one that changes pixels stands after one that erases them, as erasing comes after the normalization."""
    made: list[Augmentation] = []
    for place, name in enumerate(names):
        if name not in AUGMENTATIONS:
            raise UserError(f"augment={name} is unknown: allowed are {', '.join(AUGMENTATIONS)}")
        if name not in ERASING and set(names[:place]) & set(ERASING):
            raise UserError(f"augment=[{','.join(names)}]: {name} must stand in front of {', '.join(ERASING)}")
        given = options.get(name, {})
        if not isinstance(given, Mapping):
            raise UserError(f"augment_options.{name}={given}: options are given by name, as augment_options.{name}.p=1")
        try:
            made.append(call_part("augment", name, AUGMENTATIONS[name], given))
        except UserError as error:
            raise UserError(f"augment_options.{name}.{str(error).removeprefix('augment_options.')}") from None
    unused = [name for name in options if name not in names]
    if unused:
        raise UserError(f"augment_options.{unused[0]}: augment=[{','.join(names)}] has no {unused[0]}")
    return made


def draw_slots(
    augmentations: Sequence[Augmentation], positions: np.ndarray, size: int, seed: int, epoch: int
) -> np.ndarray:
    """The operations of some positions: float64 [n, K, WIDTH]. positions: int64 [n]. size: pixels of a side."""
    slots = np.zeros((len(positions), sum(one.operations for one in augmentations), codes.WIDTH))
    first = 0
    for place, one in enumerate(augmentations, start=1):
        part = slots[:, first : first + one.operations]
        one.draw(part, positions, size, draws.key(seed, epoch, place * PURPOSES))
        first += one.operations
    return slots


def _magnitudes(ranges: Mapping[str, float], bins: int, size: int) -> dict[str, list[float]]:
    """Levels of every operation, from the weakest to the strongest, in float32 as torchvision has them."""
    levels = {}
    for name, end in ranges.items():
        if name == "Posterize":
            levels[name] = (8 - torch.arange(bins) / ((bins - 1) / (8 - end))).round().tolist()
        elif name.startswith("Translate"):
            levels[name] = torch.linspace(0.0, end * size, bins).tolist()
        else:
            levels[name] = torch.linspace(1.0 if name == "Solarize" else 0.0, end, bins).tolist()
    return levels


def _row(name: str, share: float, levels: Mapping[str, list[float]], level: int) -> tuple[float, ...]:
    """A policy's operation as `draw_policy` takes it."""
    magnitude = 0.0 if name in policies.PLAIN else levels[name][level]
    return policies.KINDS[name], share, magnitude, name in policies.SIGNED
