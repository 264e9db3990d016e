"""Carries out the operations of augment_codes.py on one image, after crop and resize: part of the CPU data path.

Each colour is a plane of its own, so that LLVM vectorizes the loops over pixels. Operations that change each pixel
value by itself become a table of 256 entries. Successive tables are combined, so that the pixels are read and written
once for all of them.
"""

import math

import numpy as np
from numba import njit

from fastlt.kernels import augment_codes as codes
from fastlt.kernels.augment_hue_cpu import turn_hue
from fastlt.kernels.augment_move_cpu import copy_row, move_pixels
from fastlt.kernels.store_row import store_row

_PART = 4096  # pixels whose grey values are added in 32 bits
_LEAST_WEIGHT = np.float32(1e-6)  # of a tap of a blur: all those below it move no level by a hundredth
# Grey value of RGB (ITU-R 601-2) as Pillow has it, in units of 2**-16.
_RED, _GREEN, _BLUE, _HALF = 19595, 38470, 7471, 32768


@njit(cache=True, nogil=True)
def augment_into(out, pixels, spare, slots, mean, inv_std, erased):
    """Carries out the operations of one image, and normalizes it. Arguments are not checked.

    out: [3, T, T] with any strides, overwritten: float32, uint16 (the bits of float16) or uint8 (not normalized).
    pixels: the image, uint8 [3, T, T], contiguous. It is overwritten, as is spare, an array like it.
    slots: the operations in their order, float64 [K, WIDTH], as augment_codes.py describes them.
    mean, inv_std: float32 [3], for pixel values 0..255. erased: float32 [3], the value of erased pixels in `out`.
    """
    size = pixels.shape[1]
    tables = np.empty((3, 256), np.uint8)
    waiting = False  # whether `tables` has still to be applied
    for k in range(slots.shape[0]):
        slot = slots[k]
        code = int(slot[0])
        if code == codes.NOTHING or code == codes.ERASE:
            continue
        if code == codes.AUTOCONTRAST or code == codes.EQUALIZE:
            if not waiting:
                _identity(tables)
            waiting = _adapt(tables, pixels, code) or waiting
            continue
        if waiting:
            _apply(pixels, tables)
            waiting = False
        if code == codes.NEAREST or code == codes.BILINEAR or code == codes.VERTICAL_FLIP:
            move_pixels(spare, pixels, code, slot)
            pixels, spare = spare, pixels
        elif code == codes.SHARPNESS:
            if size > 2:
                _sharpen(spare, pixels, np.float32(slot[1]))
                pixels, spare = spare, pixels
        elif code == codes.BLUR:
            _blur(pixels, int(slot[1]), slot[2])
        elif code == codes.HUE:
            turn_hue(pixels, slot[1])
        elif code == codes.SATURATION or code == codes.GRAYSCALE:
            _mix_with_grey(pixels, code, np.float32(slot[1]))
        else:
            _level(pixels, code, slot[1])
    if waiting:
        _apply(pixels, tables)
    flat = pixels.reshape(-1)
    for i in range(size):
        store_row(out, i, flat[i * size :], size * size, mean, inv_std)
    for k in range(slots.shape[0]):
        if slots[k, 0] == codes.ERASE:
            _erase(out, slots[k], erased)


@njit(cache=True, nogil=True)
def _identity(tables):
    for level in range(256):
        tables[0, level] = tables[1, level] = tables[2, level] = level


@njit(cache=True, nogil=True)
def _clipped(value):
    """A float as a level: the fraction is dropped, as Pillow does."""
    return np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))


@njit(cache=True, nogil=True)
def _level(pixels, code, argument):
    """An operation on each level by itself, in place."""
    flat = pixels.reshape(-1)
    if code == codes.POSTERIZE:
        mask = np.uint8(256 - (1 << (8 - int(argument))))
        for t in range(len(flat)):
            flat[t] &= mask
    elif code == codes.INVERT or code == codes.SOLARIZE:
        threshold = np.int32(0 if code == codes.INVERT else math.ceil(argument))
        for t in range(len(flat)):
            level = np.int32(flat[t])
            flat[t] = np.uint8(level if level < threshold else np.int32(255) - level)
    else:
        factor = np.float32(argument)
        base = _mean_grey(pixels) if code == codes.CONTRAST else np.float32(0)
        for t in range(len(flat)):
            flat[t] = _clipped(base + factor * (np.float32(flat[t]) - base))


@njit(cache=True, nogil=True)
def _mean_grey(pixels):
    red, green, blue = pixels[0].reshape(-1), pixels[1].reshape(-1), pixels[2].reshape(-1)
    total = np.int64(0)
    for first in range(0, len(red), _PART):
        part = np.int32(0)  # of so few that it does not overflow
        r, g, b = red[first : first + _PART], green[first : first + _PART], blue[first : first + _PART]
        for t in range(len(r)):
            part = np.int32(part + _grey(r[t], g[t], b[t]))
        total += part
    return np.float32(int(total / len(red) + 0.5))


@njit(cache=True, nogil=True)
def _adapt(tables, pixels, code):
    """Puts autocontrast or equalize after those operations that the tables hold. Whether that changes them."""
    size, changes = pixels.shape[1] * pixels.shape[2], False
    new = np.empty(256, np.uint8)
    for colour in range(3):
        counts = _counts(pixels[colour].reshape(-1), tables[colour])
        low, high = 0, 255
        while counts[low] == 0:
            low += 1
        while counts[high] == 0:
            high -= 1
        if low == high:
            continue
        if code == codes.AUTOCONTRAST:
            scale = 255.0 / (high - low)
            offset = -low * scale
            for level in range(256):
                new[level] = np.uint8(min(max(int(level * scale + offset), 0), 255))
        else:
            step = (size - counts[high]) // 255
            if step == 0:
                continue
            reached = step // 2
            for level in range(256):
                new[level] = np.uint8(min(reached // step, 255))
                reached += counts[level]
        for level in range(256):
            changes = changes or new[level] != level
            tables[colour, level] = new[tables[colour, level]]
    return changes


@njit(cache=True, nogil=True)
def _counts(plane, table):
    """How many pixels of a plane have each level after a table: int64 [256]."""
    parts = np.zeros((4, 256), np.int32)  # neighbours are often alike, and a counter is slow to be counted up twice
    quarter = len(plane) // 4
    first, second, third, fourth = parts[0], parts[1], parts[2], parts[3]
    a, b, c, d = plane[:quarter], plane[quarter : 2 * quarter], plane[2 * quarter : 3 * quarter], plane[3 * quarter :]
    for t in range(quarter):
        first[a[t]] += 1
        second[b[t]] += 1
        third[c[t]] += 1
        fourth[d[t]] += 1
    for t in range(quarter, len(d)):
        fourth[d[t]] += 1
    counts = np.zeros(256, np.int64)
    for level in range(256):
        counts[table[level]] += first[level] + second[level] + third[level] + fourth[level]
    return counts


@njit(cache=True, nogil=True)
def _apply(pixels, tables):
    for colour in range(3):
        plane, table = pixels[colour].reshape(-1), tables[colour]
        for t in range(len(plane)):
            plane[t] = table[plane[t]]


@njit(cache=True, nogil=True)
def _grey(red, green, blue):
    total = np.int32(red) * np.int32(_RED) + np.int32(green) * np.int32(_GREEN) + np.int32(blue) * np.int32(_BLUE)
    return np.int32(np.int32(total + np.int32(_HALF)) >> np.int32(16))


@njit(cache=True, nogil=True)
def _mix_with_grey(pixels, code, factor):
    """Saturation or grayscale, in place."""
    red, green, blue = pixels[0].reshape(-1), pixels[1].reshape(-1), pixels[2].reshape(-1)
    if code == codes.GRAYSCALE:
        for t in range(len(red)):
            red[t] = green[t] = blue[t] = np.uint8(_grey(red[t], green[t], blue[t]))
        return
    for t in range(len(red)):
        grey = np.float32(_grey(red[t], green[t], blue[t]))
        red[t] = _clipped(grey + factor * (np.float32(red[t]) - grey))
        green[t] = _clipped(grey + factor * (np.float32(green[t]) - grey))
        blue[t] = _clipped(grey + factor * (np.float32(blue[t]) - grey))


@njit(cache=True, nogil=True)
def _sharpen(out, pixels, factor):
    """Writes smooth + factor * (pixels - smooth), where smooth is pixels filtered by (1 1 1, 1 5 1, 1 1 1) / 13.

    The outermost pixels are not filtered.
    """
    size = pixels.shape[1]
    columns = np.empty(size, np.int32)
    for colour in range(3):
        copy_row(out[colour, 0], pixels[colour, 0])
        copy_row(out[colour, size - 1], pixels[colour, size - 1])
        for i in range(1, size - 1):
            above, row, below, target = pixels[colour, i - 1], pixels[colour, i], pixels[colour, i + 1], out[colour, i]
            for x in range(size):
                columns[x] = np.int32(above[x]) + np.int32(row[x]) + np.int32(below[x])
            target[0], target[size - 1] = row[0], row[size - 1]
            left, middle, right = columns[: size - 2], columns[1 : size - 1], columns[2:]
            centre, sharp = row[1 : size - 1], target[1 : size - 1]
            for x in range(len(sharp)):
                level = np.int32(centre[x])
                total = np.int32(np.int32(left[x] + middle[x] + right[x]) + np.int32(4) * level)
                # (2 total + 13) // 26: the nearest level, exact for all that nine pixels add up to
                twice = np.int32(np.int32(2) * total + np.int32(13))
                smooth = np.float32(np.int32(np.int32(twice * np.int32(20165)) >> np.int32(19)))
                sharp[x] = _clipped(smooth + factor * (np.float32(level) - smooth))


@njit(cache=True, nogil=True)
def _blur(pixels, taps, sigma):
    """Gaussian blur in place; beyond the edge lies the image's mirror image, without the outermost pixels again."""
    size, reach = pixels.shape[1], taps // 2
    weights = np.empty(reach + 1, np.float32)
    total = 1.0
    for k in range(1, reach + 1):
        total += 2 * math.exp(-(k * k) / (2 * sigma * sigma))
    far = 0  # the last tap that could change a level
    for k in range(reach + 1):
        weights[k] = np.float32(math.exp(-(k * k) / (2 * sigma * sigma)) / total)
        if weights[k] > _LEAST_WEIGHT:
            far = k
    blurred = np.empty((size, size), np.float32)
    wide = np.empty(size + 2 * far, np.float32)
    sums = np.empty(size, np.float32)
    for colour in range(3):
        plane = pixels[colour]
        for i in range(size):
            row, middle = plane[i], wide[far : far + size]
            for x in range(size):
                middle[x] = np.float32(row[x])
            for x in range(1, far + 1):
                wide[far - x] = middle[x]
                wide[far + size - 1 + x] = middle[size - 1 - x]
            _weighted(blurred[i], middle, weights[0])
            for k in range(1, far + 1):
                _add_weighted(blurred[i], wide[far - k : far - k + size], wide[far + k : far + k + size], weights[k])
        for i in range(size):
            _weighted(sums, blurred[i], weights[0])
            for k in range(1, far + 1):
                above, below = abs(i - k), size - 1 - abs(size - 1 - i - k)
                _add_weighted(sums, blurred[above], blurred[below], weights[k])
            row = plane[i]
            for x in range(size):
                row[x] = _clipped(sums[x] + np.float32(0.5))


@njit(cache=True, nogil=True)
def _weighted(total, values, weight):
    for x in range(len(total)):
        total[x] = weight * values[x]


@njit(cache=True, nogil=True)
def _add_weighted(total, left, right, weight):
    for x in range(len(total)):
        total[x] += weight * (left[x] + right[x])


@njit(cache=True, nogil=True)
def _erase(out, slot, erased):
    y, x, height, width = int(slot[1]), int(slot[2]), int(slot[3]), int(slot[4])
    for colour in range(3):
        out[colour, y : y + height, x : x + width] = erased[colour]
