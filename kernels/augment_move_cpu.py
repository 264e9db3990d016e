"""Moves the pixels of one image by an affine map, or flips it vertically: operations of augment_codes.py on the CPU."""

import math

import numpy as np
from numba import njit

from fastlt.kernels import augment_codes as codes

_FIXED = 65536.0  # Pillow's fractions of a pixel


@njit(cache=True, nogil=True)
def copy_row(target, source):
    """Copies a row of pixels. LLVM vectorizes this loop, and not the assignment of a slice."""
    for t in range(len(target)):
        target[t] = source[t]


@njit(cache=True, nogil=True)
def _flood(target, level):
    for t in range(len(target)):
        target[t] = level


@njit(cache=True, nogil=True)
def move_pixels(out, pixels, code, slot):
    """Writes the image mapped by an affine map with nearest or bilinear interpolation, or flipped vertically.

    out, pixels: uint8 [3, T, T], contiguous. code: NEAREST, BILINEAR or VERTICAL_FLIP of augment_codes.py.
    slot: float64 [WIDTH]: the map from output to input pixels in 1 to 6, the value outside the image in 7.
    """
    size = pixels.shape[1]
    if code == codes.VERTICAL_FLIP:
        for colour in range(3):
            for i in range(size):
                copy_row(out[colour, i], pixels[colour, size - 1 - i])
        return
    fill = np.uint8(slot[7])
    a, b, c, d, e, f = slot[1], slot[2], slot[3], slot[4], slot[5], slot[6]
    if code == codes.BILINEAR:
        _bilinear(out, pixels, a, b, c, d, e, f, fill)
        return
    # Pillow's fixed point, whose rounding decides which pixel is the nearest one.
    a0, a1 = int(math.floor(a * _FIXED + 0.5)), int(math.floor(b * _FIXED + 0.5))
    a3, a4 = int(math.floor(d * _FIXED + 0.5)), int(math.floor(e * _FIXED + 0.5))
    x0 = int(math.floor((c + a * 0.5 + b * 0.5) * _FIXED + 0.5))
    y0 = int(math.floor((f + d * 0.5 + e * 0.5) * _FIXED + 0.5))
    indices, colours = np.empty(size, np.int32), np.empty(size, np.uint32)
    shifted = a0 == 65536 and a3 == 0  # whole rows
    packed = _pack(pixels) if not shifted else colours
    for i in range(size):
        xx, yy = x0 + i * a1, y0 + i * a4
        first, stop = _inside(xx, a0, size, 0, size)
        first, stop = _inside(yy, a3, size, first, stop)
        inside = stop - first
        for colour in range(3):
            _flood(out[colour, i, :first], fill)
            _flood(out[colour, i, stop:], fill)
        if shifted:
            start = first + (xx >> 16)
            for colour in range(3):
                source = pixels[colour, min(max(yy >> 16, 0), size - 1)]
                copy_row(out[colour, i, first:stop], source[start : start + inside])
            continue
        where, found = indices[:inside], colours[:inside]
        _fixed_indices(where, xx + first * a0, a0, yy + first * a3, a3, size)
        for x in range(inside):
            found[x] = packed[np.uint32(where[x])]
        _unpack(out[0, i, first:stop], out[1, i, first:stop], out[2, i, first:stop], found)


@njit(cache=True, nogil=True)
def _pack(pixels):
    """Returns the three colours of each pixel in one word, so that one load fetches them: uint32 [T * T]."""
    red, green, blue = pixels[0].reshape(-1), pixels[1].reshape(-1), pixels[2].reshape(-1)
    packed = np.empty(len(red), np.uint32)
    for t in range(len(red)):
        upper = np.uint32(np.uint32(green[t]) << np.uint32(8)) | np.uint32(np.uint32(blue[t]) << np.uint32(16))
        packed[t] = np.uint32(np.uint32(red[t]) | upper)
    return packed


@njit(cache=True, nogil=True)
def _unpack(red, green, blue, packed):
    for t in range(len(packed)):
        red[t] = np.uint8(packed[t])
        green[t] = np.uint8(packed[t] >> np.uint32(8))
        blue[t] = np.uint8(packed[t] >> np.uint32(16))


@njit(cache=True, nogil=True)
def _fixed_indices(where, xx, across, yy, down, size):
    """Writes the indices into a plane of the pixels along a line in fixed point, all of which are inside the image.

    Products may overflow 32 bits; the sums, which do not, are right nevertheless.
    """
    x, y, step_x, step_y, side = np.int32(xx), np.int32(yy), np.int32(across), np.int32(down), np.int32(size)
    for t in range(len(where)):
        n = np.int32(t)
        row = np.int32(np.int32(y + np.int32(n * step_y)) >> np.int32(16))
        where[t] = np.int32(np.int32(row * side) + np.int32(np.int32(x + np.int32(n * step_x)) >> np.int32(16)))


@njit(cache=True, nogil=True)
def _inside(start, step, size, first, stop):
    """Returns the part of first..stop where 0 <= start + step * x < size in fixed point; first == stop if empty."""
    end = size << 16
    if step == 0:
        return (first, stop) if 0 <= start < end else (first, first)
    if step > 0:
        low, high = -(start // step), -((start - end) // step)  # the first x that is in, the first that is out again
    else:
        low, high = (start - end) // -step + 1, start // -step + 1
    first, stop = max(first, low), min(stop, high)
    return first, max(first, stop)


@njit(cache=True, nogil=True)
def _bilinear(out, pixels, a, b, c, d, e, f, fill):
    size = pixels.shape[1]
    last = size - 1
    for i in range(size):
        for x in range(size):
            across = a * (x + 0.5) + b * (i + 0.5) + c
            down = d * (x + 0.5) + e * (i + 0.5) + f
            if across < 0 or across >= size or down < 0 or down >= size:
                out[0, i, x] = out[1, i, x] = out[2, i, x] = fill
                continue
            across, down = across - 0.5, down - 0.5
            left, top = int(math.floor(across)), int(math.floor(down))
            dx, dy = np.float32(across - left), np.float32(down - top)
            right, bottom = min(left + 1, last), min(top + 1, last)
            left, top = max(left, 0), max(top, 0)
            for colour in range(3):
                v1 = _between(pixels[colour, np.uint32(top)], left, right, dx)
                v2 = _between(pixels[colour, np.uint32(bottom)], left, right, dx)
                out[colour, i, x] = np.uint8(np.int32(v1 + (v2 - v1) * dy))


@njit(cache=True, nogil=True)
def _between(row, left, right, share):
    first = np.float32(row[np.uint32(left)])
    return first + (np.float32(row[np.uint32(right)]) - first) * share
