"""Draws crop boxes, flips and colour factors for the positions of an epoch.

Random numbers are counter-based (see philox.py): every draw is a pure function of (seed, epoch, position).

`resized_crop` is torchvision's RandomResizedCrop: the area is uniform in `scale` (a share of the image's area), the
aspect ratio log-uniform in `ratio`. After ten boxes that do not fit, the largest centred box with an allowed ratio is
taken. `pad_crop` is a window of the output's size anywhere in the image padded by `pad` pixels on every side.

There is no CUDA version: the host reads the files and passes crop boxes to the decoder, so it needs the plan itself.
"""

import math

import numpy as np
from numba import njit, prange, uint64

from fastlt.kernels import philox as generator
from fastlt.kernels.philox import philox, unit
from fastlt.kernels.threads import start_threads

TRIES = 10
# What a random number of a position is used for; 0..9 are the tries of the crop.
_FLIP, _COLOUR = 10, 11


def reference_resized_crop(height, width, positions, scale, ratio, seed, epoch):
    """The definition of `draw_resized_crops` in Python, one position at a time."""
    box = [_reference_crop(*one, scale, ratio, seed, epoch) for one in zip(height, width, positions, strict=True)]
    return np.array(box, np.int32).reshape(-1, 4)


def _reference_crop(height, width, position, scale, ratio, seed, epoch):
    height, width = int(height), int(width)
    for attempt in range(TRIES):
        u = [_reference_unit(word) for word in _reference_words(seed, epoch, position, attempt)]
        area = height * width * (scale[0] + u[0] * (scale[1] - scale[0]))
        aspect = math.exp(math.log(ratio[0]) + u[1] * (math.log(ratio[1]) - math.log(ratio[0])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[2] * (height - h + 1)), int(u[3] * (width - w + 1)), h, w
    h = min(height, max(1, round(width / ratio[0])))
    w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def reference_pad_crop(height, width, positions, size, pad, seed, epoch):
    """The definition of `draw_pad_crops` in Python."""
    box = []
    for h, w, position in zip(height, width, positions, strict=True):
        u = [_reference_unit(word) for word in _reference_words(seed, epoch, position, 0)]
        room = [int(side) + 2 * pad - size + 1 for side in (h, w)]
        box.append([int(u[0] * room[0]) - pad, int(u[1] * room[1]) - pad, size, size])
    return np.array(box, np.int32).reshape(-1, 4)


def reference_flip(positions, seed, epoch):
    """The definition of `draw_flips` in Python."""
    return np.array([_reference_words(seed, epoch, one, _FLIP)[0] >> 31 for one in positions], np.uint8)


def reference_jitter(positions, strength, seed, epoch):
    """The definition of `draw_jitter` in Python."""
    words = [_reference_words(seed, epoch, one, _COLOUR) for one in positions]
    u = np.array([[_reference_unit(word) for word in four] for four in words]).reshape(-1, 4)
    return np.column_stack([1 + strength * (2 * u[:, :3] - 1), np.floor(6 * u[:, 3])]).astype(np.float32)


def _reference_words(seed, epoch, position, purpose):
    position = int(position)
    return generator.reference(seed, position, position >> 32, purpose, epoch)


def _reference_unit(word):
    return (word + 0.5) / 2**32


@njit(inline="always")
def position_words(seed, epoch, position, purpose):
    """Returns the four random words (32 bits each, as uint64) that a position of an epoch has for one purpose."""
    return philox(seed, position, position >> 32, purpose, epoch)


@njit(cache=True)
def _resized_crop(height, width, scale, ratio, seed, epoch, position):
    """Returns (y, x, height, width) of the crop of one position."""
    area = np.float64(height) * np.float64(width)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(TRIES):
        w0, w1, w2, w3 = position_words(seed, epoch, position, attempt)
        target = area * (scale[0] + unit(w0) * (scale[1] - scale[0]))
        aspect = math.exp(low + unit(w1) * (high - low))
        w = int(round(math.sqrt(target * aspect)))
        h = int(round(math.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return int(unit(w2) * (height - h + 1)), int(unit(w3) * (width - w + 1)), h, w
    h, w = height, width
    if width < height * ratio[0]:
        h = max(1, int(round(width / ratio[0])))
    elif width > height * ratio[1]:
        w = max(1, int(round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


@njit(cache=True, parallel=True)
def cpu_resized_crop(height, width, positions, scale, ratio, seed, epoch):
    """Compiled loop of `draw_resized_crops`; returns boxes int32 [n, 4]."""
    box = np.empty((positions.shape[0], 4), np.int32)
    for i in prange(positions.shape[0]):
        y, x, h, w = _resized_crop(height[i], width[i], scale, ratio, seed, epoch, positions[i])
        box[i, 0], box[i, 1], box[i, 2], box[i, 3] = y, x, h, w
    return box


@njit(cache=True)
def cpu_pad_crop(height, width, positions, size, pad, seed, epoch):
    """Compiled loop of `draw_pad_crops`; returns boxes int32 [n, 4]."""
    box = np.empty((positions.shape[0], 4), np.int32)
    for i in range(positions.shape[0]):
        w0, w1, _, _ = position_words(seed, epoch, positions[i], 0)
        box[i, 0] = int(unit(w0) * (height[i] + 2 * pad - size + 1)) - pad
        box[i, 1] = int(unit(w1) * (width[i] + 2 * pad - size + 1)) - pad
        box[i, 2] = box[i, 3] = size
    return box


@njit(cache=True)
def cpu_flip(positions, seed, epoch):
    """Compiled loop of `draw_flips`; returns uint8 [n]."""
    flip = np.empty(positions.shape[0], np.uint8)
    for i in range(positions.shape[0]):
        flip[i] = position_words(seed, epoch, positions[i], _FLIP)[0] >> uint64(31)
    return flip


@njit(cache=True)
def cpu_jitter(positions, strength, seed, epoch):
    """Compiled loop of `draw_jitter`; returns float32 [n, 4]."""
    jitter = np.empty((positions.shape[0], 4), np.float32)
    for i in range(positions.shape[0]):
        w0, w1, w2, w3 = position_words(seed, epoch, positions[i], _COLOUR)
        jitter[i, 0] = 1.0 + strength * (2.0 * unit(w0) - 1.0)
        jitter[i, 1] = 1.0 + strength * (2.0 * unit(w1) - 1.0)
        jitter[i, 2] = 1.0 + strength * (2.0 * unit(w2) - 1.0)
        jitter[i, 3] = int(unit(w3) * 6.0)
    return jitter


def draw_resized_crops(height, width, positions, scale, ratio, seed, epoch):
    """Draws the boxes of RandomResizedCrop: (y, x, height, width) in pixels of the stored image, int32 [n, 4].

    height, width: int32 [n], the sizes in pixels of the images at these positions.
    positions: int64 [n], positions in the epoch.
    scale: (low, high), the share of the image's area, in (0, 1].
    ratio: (low, high), width divided by height.

    Raises ValueError for empty ranges.
    """
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"scale must be 0 < low <= high <= 1 and ratio 0 < low <= high, not {scale} and {ratio}")
    start_threads()
    scale, ratio = (float(scale[0]), float(scale[1])), (float(ratio[0]), float(ratio[1]))
    return cpu_resized_crop(height, width, positions, scale, ratio, uint64(seed), np.int64(epoch))


def draw_pad_crops(height, width, positions, size, pad, seed, epoch):
    """Draws boxes of `size` x `size` pixels in images padded by `pad` pixels on every side, int32 [n, 4].

    Boxes are (y, x, height, width) in pixels of the image without its padding, so y and x may be negative and a box may
    extend beyond the image. Raises ValueError if a padded image is smaller than the box.
    """
    if len(positions) and min(int(height.min()), int(width.min())) + 2 * pad < size:
        raise ValueError(
            f"a crop of {size} px does not fit an image of {height.min()} x {width.min()} px padded by {pad}"
        )
    return cpu_pad_crop(height, width, positions, np.int64(size), np.int64(pad), uint64(seed), np.int64(epoch))


def draw_flips(positions, seed, epoch):
    """Draws horizontal flips, uint8 [n]: 1 (flip) or 0, each with probability one half."""
    return cpu_flip(positions, uint64(seed), np.int64(epoch))


def draw_jitter(positions, strength, seed, epoch):
    """Draws colour jitter, float32 [n, 4]: the factors of brightness, contrast and saturation, and their order.

    Factors are uniform in [1 - strength, 1 + strength]; the order is one of the six permutations, 0 to 5.
    """
    return cpu_jitter(positions, float(strength), uint64(seed), np.int64(epoch))
