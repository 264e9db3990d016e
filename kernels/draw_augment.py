"""Operations on pixels (augment_codes.py), drawn by counter: a pure function of (seed, epoch, position, purpose).

Every function fills the slots of n positions. purpose: the first of a few numbers that no other draw of these positions
has. There is no CUDA form, as in draw_plan.py.
"""

import math

import numpy as np
from numba import njit, uint64

from fastlt.kernels import augment_codes as codes
from fastlt.kernels.draw_plan import position_words
from fastlt.kernels.philox import unit

# Operations of policies that are not carried out as they stand: they become an affine map.
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, ROTATE = range(32, 37)
TRIES = 10  # to find a rectangle


@njit(cache=True)
def _affine(slot, bilinear, fill, a, b, c, d, e, f):
    slot[0] = codes.BILINEAR if bilinear else codes.NEAREST
    slot[1], slot[2], slot[3], slot[4], slot[5], slot[6], slot[7] = a, b, c, d, e, f, fill


@njit(cache=True)
def _rotated(slot, degrees, size, bilinear, fill):
    """Turned counter-clockwise around the image's centre, as Pillow's Image.rotate."""
    angle = -math.radians(degrees)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    centre = size / 2
    c = cosine * -centre + sine * -centre + centre
    f = -sine * -centre + cosine * -centre + centre
    _affine(slot, bilinear, fill, cosine, sine, c, -sine, cosine, f)


@njit(cache=True)
def _operation(slot, kind, magnitude, size, bilinear, fill):
    """An operation of a policy as a slot. magnitude: as in the policy's paper, with its sign."""
    if kind == SHEAR_X:
        _affine(slot, bilinear, fill, 1, math.tan(math.atan(magnitude)), 0, 0, 1, 0)
    elif kind == SHEAR_Y:
        _affine(slot, bilinear, fill, 1, 0, 0, math.tan(math.atan(magnitude)), 1, 0)
    elif kind == TRANSLATE_X:
        _affine(slot, bilinear, fill, 1, 0, -int(magnitude), 0, 1, 0)
    elif kind == TRANSLATE_Y:
        _affine(slot, bilinear, fill, 1, 0, 0, 0, 1, -int(magnitude))
    elif kind == ROTATE:
        _rotated(slot, magnitude, size, bilinear, fill)
    else:
        slot[0] = kind
        if kind == codes.POSTERIZE:
            slot[1] = int(magnitude)
        elif kind == codes.SOLARIZE:
            slot[1] = 255.0 * magnitude
        elif codes.BRIGHTNESS <= kind <= codes.SHARPNESS:
            slot[1] = 1.0 + magnitude


@njit(cache=True)
def draw_policy(slots, positions, table, size, bilinear, fill, seed, epoch, purpose):
    """One row of a policy's table, each as likely as the others, and then which of its operations are carried out.

    slots: float64 [n, J, WIDTH], zeros, filled. positions: int64 [n]. table: float64 [S, J, 4] = kind of operation,
    probability, magnitude, and whether its sign is drawn (1) or not. size: pixels of a side. bilinear, fill: of affine
    maps. seed: uint64. epoch, purpose: integers.
    """
    rows, length = table.shape[0], table.shape[1]
    for i in range(positions.shape[0]):
        row = int(unit(position_words(seed, epoch, positions[i], purpose)[0]) * rows)
        for j in range(length):
            w0, w1, _, _ = position_words(seed, epoch, positions[i], purpose + 1 + j)
            if unit(w0) > table[row, j, 1]:
                continue
            magnitude = table[row, j, 2]
            if table[row, j, 3] != 0 and unit(w1) <= 0.5:
                magnitude = -magnitude
            _operation(slots[i, j], int(table[row, j, 0]), magnitude, size, bilinear, fill)


@njit(cache=True)
def draw_sometimes(slots, positions, code, probability, seed, epoch, purpose):
    """An operation without arguments. slots: float64 [n, 1, WIDTH]."""
    for i in range(positions.shape[0]):
        if unit(position_words(seed, epoch, positions[i], purpose)[0]) <= probability:
            slots[i, 0, 0] = code


@njit(cache=True)
def draw_rotations(slots, positions, degrees, size, bilinear, fill, seed, epoch, purpose):
    """A turn by an angle uniform in -+degrees. slots: float64 [n, 1, WIDTH]."""
    for i in range(positions.shape[0]):
        angle = degrees * (2.0 * unit(position_words(seed, epoch, positions[i], purpose)[0]) - 1.0)
        _rotated(slots[i, 0], angle, size, bilinear, fill)


@njit(cache=True)
def draw_blurs(slots, positions, taps, low, high, probability, seed, epoch, purpose):
    """A Gaussian blur of sigma uniform in low..high. slots: float64 [n, 1, WIDTH]."""
    for i in range(positions.shape[0]):
        w0, w1, _, _ = position_words(seed, epoch, positions[i], purpose)
        if unit(w0) <= probability:
            slots[i, 0, 0], slots[i, 0, 1], slots[i, 0, 2] = codes.BLUR, taps, low + unit(w1) * (high - low)


@njit(cache=True)
def draw_colours(slots, positions, strengths, probability, seed, epoch, purpose):
    """Brightness, contrast, saturation and hue in any of their 24 orders, each as likely: torchvision's ColorJitter.

    slots: float64 [n, 4, WIDTH]. strengths: float64 [4]; factors are uniform in 1 -+ strength, the hue's turn in
    -+strength; 0 leaves an operation out.
    """
    for i in range(positions.shape[0]):
        w0, w1, w2, w3 = position_words(seed, epoch, positions[i], purpose)
        chosen, order, _, _ = position_words(seed, epoch, positions[i], purpose + 1)
        if unit(chosen) > probability:
            continue
        left = np.arange(4)
        code = int(unit(order) * 24)
        for place in range(4):
            pick = code % (4 - place)
            code //= 4 - place
            one = left[pick]
            left[pick:3] = left[pick + 1 :].copy()
            drawn = 2.0 * unit(w0 if one == 0 else w1 if one == 1 else w2 if one == 2 else w3) - 1.0
            if strengths[one] > 0:
                slots[i, place, 0] = codes.HUE if one == 3 else codes.BRIGHTNESS + one
                slots[i, place, 1] = strengths[one] * drawn + (0.0 if one == 3 else 1.0)


@njit(cache=True)
def draw_cutouts(slots, positions, length, size, probability, seed, epoch, purpose):
    """Squares whose centre is anywhere in the image, and which end at its edge (DeVries and Taylor 2017).

    slots: float64 [n, J, WIDTH], J squares. length, size: pixels of the square's and of the image's side.
    """
    for i in range(positions.shape[0]):
        for j in range(slots.shape[1]):
            w0, w1, w2, _ = position_words(seed, epoch, positions[i], purpose + j)
            if unit(w2) > probability:
                continue
            y, x = int(unit(w0) * size), int(unit(w1) * size)
            top, left = max(y - length // 2, 0), max(x - length // 2, 0)
            bottom, right = min(y - length // 2 + length, size), min(x - length // 2 + length, size)
            _erased(slots[i, j], top, left, bottom - top, right - left)


@njit(cache=True)
def draw_erasings(slots, positions, size, scale, ratio, probability, seed, epoch, purpose):
    """A rectangle, by the law of torchvision's RandomErasing. slots: float64 [n, 1, WIDTH]. scale: (low, high) share of
    the area. ratio: (low, high) of height over width."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(positions.shape[0]):
        if unit(position_words(seed, epoch, positions[i], purpose)[0]) > probability:
            continue
        for attempt in range(TRIES):
            w0, w1, w2, w3 = position_words(seed, epoch, positions[i], purpose + 1 + attempt)
            area = size * size * (scale[0] + unit(w0) * (scale[1] - scale[0]))
            aspect = math.exp(low + unit(w1) * (high - low))
            height, width = int(round(math.sqrt(area * aspect))), int(round(math.sqrt(area / aspect)))
            if height < size and width < size:
                y, x = int(unit(w2) * (size - height + 1)), int(unit(w3) * (size - width + 1))
                _erased(slots[i, 0], y, x, height, width)
                break


@njit(cache=True)
def _erased(slot, y, x, height, width):
    slot[0], slot[1], slot[2], slot[3], slot[4] = codes.ERASE, y, x, height, width


def key(seed, epoch, purpose):
    """Seed, epoch and purpose with the types that the draws are compiled for."""
    return uint64(seed), np.int64(epoch), np.int64(purpose)
