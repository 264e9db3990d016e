"""Crops, resizes, flips, jitters the colours of, and normalizes one image in a single pass: the CPU data path.

The results are those of torchvision on a PIL image: `F.resized_crop(..., antialias=True)` with bilinear or bicubic
interpolation, `F.hflip`, `F.adjust_brightness/contrast/saturation` with uint8 between the steps, then normalization.
Rows are resized first, then columns, with Pillow's 22-bit integer weights and rounding to uint8 after each pass, so
that each pass equals Pillow's bit for bit. Pillow 13 resizes columns first where it estimates that to be faster; there
a fifth of the pixels differ by one level. The result here does not depend on the installed Pillow.

Two cases must be distinguished. If an image is cropped, then resized (RandomResizedCrop), the resize filter ends at the
edges of the crop. If it is resized, then cropped (Resize + CenterCrop), the crop has fractional edges in the source,
and the filter reads pixels beyond them. Two rectangles describe both cases: the window of whole pixels that are read,
and inside it the box that the output shows. In the first case they are equal.

How it is fast. Four source rows are interleaved byte by byte, as [x][colour][row], so that a vector of 16 lanes has one
pixel of four rows (and four unused lanes). The horizontal pass then needs one multiply-add per filter tap and no
gather. Its result is one 32-bit word per pixel and colour with the four rows in its four bytes, stored by colour, so
that the vertical pass and the normalization run over contiguous x. The horizontally resized rows are kept in a ring
buffer that is just long enough for one output row. Flipping is free: the horizontal pass stores from the other end.
LLVM does not vectorize such loops by itself, so the vector operations of simd.py are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import carray, njit

from fastlt.kernels.simd import (
    BITS,
    LANES,
    as_pointer,
    fill,
    load_bytes,
    load_row,
    multiply_add,
    store_pixels,
    store_planes,
)
from fastlt.kernels.store_row import store_row

ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""The six orders in which brightness (0), contrast (1) and saturation (2) are applied; jitter[3] is an index of it."""

INTERPOLATIONS = ("bilinear", "bicubic")
"""The filters of the resize. Compiled code takes the index of a filter in this table."""

REACH = (1, 2)  # half width of each filter, in pixels of the input or the output, whichever are larger

_ORDERS = np.array(ORDERS, dtype=np.int64)
_HALF = 1 << (BITS - 1)


def reference(
    image: np.ndarray,
    box: Sequence[float],
    size: tuple[int, int],
    flip: bool = False,
    jitter: Sequence[float] | None = None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    window: Sequence[int] | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """The definition of `crop_resize_into` in NumPy; returns float64 [3, T_h, T_w] = (pixel - mean) / std.

    image: uint8 [h, w, 3].
    box: (y, x, height, width) in pixels of `image`: the part that the output shows.
    size: (T_h, T_w) in pixels. flip: whether to mirror horizontally.
    jitter: None, or factors of brightness, contrast and saturation, where 1 is off, and their order, see ORDERS. As in
    torchvision on uint8, brightness scales; contrast blends with the rounded mean of the current grey image; saturation
    blends with the grey image (L = 0.299 R + 0.587 G + 0.114 B, rounded). Each step clamps to 0..255 and drops the
    fraction.
    mean, std: three numbers each, in units of pixel values 0..255. interpolation: one of INTERPOLATIONS.
    window: (y, x, height, width) in whole pixels: the part that the filter may read, black beyond the image. By default
    it is the box, which then must be whole numbers (crop, then resize); the whole image means resize, then crop.
    """
    y, x, crop_h, crop_w = (int(v) for v in (box if window is None else window))
    crop = np.zeros((crop_h, crop_w, 3), dtype=np.uint8)
    top, bottom = (min(max(v, 0), image.shape[0]) for v in (y, y + crop_h))
    left, right = (min(max(v, 0), image.shape[1]) for v in (x, x + crop_w))
    crop[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    weights_y = _reference_weights(crop_h, size[0], box[0] - y, box[2], interpolation)
    weights_x = _reference_weights(crop_w, size[1], box[1] - x, box[3], interpolation)
    rows = np.floor(np.einsum("ok,ykc->yoc", weights_x, crop) + 0.5).clip(0, 255)
    pixels = np.floor(np.einsum("ok,kxc->oxc", weights_y, rows) + 0.5).clip(0, 255)
    if flip:
        pixels = pixels[:, ::-1]
    if jitter is not None:
        for op in ORDERS[int(jitter[3])]:
            grey = np.floor((pixels @ np.array([19595.0, 38470.0, 7471.0]) + 32768) / 65536)[:, :, None]
            base = (np.float64(0), np.floor(grey.mean() + 0.5), grey)[op]
            blend = np.float32(base) + np.float32(jitter[op]) * (pixels - base).astype(np.float32)  # Pillow: C floats
            pixels = np.floor(np.clip(blend, 0, 255)).astype(np.float64)
    return ((pixels - np.asarray(mean)) / np.asarray(std)).transpose(2, 0, 1)


def _reference_weights(n: int, size: int, first: float, extent: float, interpolation: str) -> np.ndarray:
    """Returns the filter's weights, float64 [size, n], around the centre of each output pixel.

    bilinear is a triangle, bicubic that of Keys 1981 with a = -1/2; both are stretched by max(1, extent / size).
    """
    scale = extent / size
    centre = first + (np.arange(size) + 0.5) * scale
    x = np.abs(np.arange(n) + 0.5 - centre[:, None]) / max(1.0, scale)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = (
        np.maximum(0.0, 1.0 - x) if interpolation == "bilinear" else np.where(x < 1, near, np.where(x < 2, far, 0))
    )
    return weights / weights.sum(axis=1, keepdims=True)


@njit(cache=True, nogil=True)
def _filter(x, bicubic):
    """Returns the filter's weight at distance x, computed in Pillow's order, on which the last bit depends."""
    x = abs(x)
    if not bicubic:
        return max(0.0, 1.0 - x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


@njit(cache=True, nogil=True)
def _weights(n, size, begin, extent, bicubic):
    """Computes Pillow's filter weights for resizing `extent` of n pixels, beginning at `begin`, to `size` pixels.

    Returns int32 weights [size, K] in units of 2**-22 (0 beyond an output pixel's taps), first tap and taps int64
    [size].
    """
    scale = extent / size
    stretch = max(1.0, scale)
    support = (2.0 if bicubic else 1.0) * stretch
    inverse = 1.0 / stretch
    taps = min(n, int(2 * support) + 2)
    weights = np.zeros((size, taps), np.int32)
    first, count = np.zeros(size, np.int64), np.ones(size, np.int64)
    exact = np.empty(taps, np.float64)
    for i in range(size):
        centre = begin + (i + 0.5) * scale
        start = max(0, int(centre - support + 0.5))
        stop = min(n, int(centre + support + 0.5))
        total = 0.0
        for k in range(start, stop):
            exact[k - start] = _filter((k - centre + 0.5) * inverse, bicubic)
            total += exact[k - start]
        for k in range(stop - start):
            share = exact[k] / total * (1 << BITS)
            weights[i, k] = np.int32(share + 0.5 if share >= 0 else share - 0.5)
            if weights[i, k] != 0:
                count[i] = k + 1
        first[i] = start
    return weights, first, count


@njit(cache=True, nogil=True)
def _row(image, zeros, y, x, n):
    """Returns n bytes of row y, beginning at column x, as a flat array; zeros if y is outside the image."""
    if y < 0 or y >= image.shape[0]:
        return carray(as_pointer(zeros.ctypes.data), (n,))
    return carray(as_pointer(image.ctypes.data + y * image.strides[0] + x * image.strides[1]), (n,))


@njit(cache=True, nogil=True)
def _interleave(quad, a, b, c, d):
    """Interleaves four rows: quad[4 t + r] = byte t of row r."""
    for t in range(len(a)):
        quad[4 * t] = a[t]
        quad[4 * t + 1] = b[t]
        quad[4 * t + 2] = c[t]
        quad[4 * t + 3] = d[t]


@njit(cache=True, nogil=True)
def _split(red, green, blue, source):
    """Separates interleaved RGB bytes into three arrays."""
    for t in range(len(source) // 3):
        red[t] = source[3 * t]
        green[t] = source[3 * t + 1]
        blue[t] = source[3 * t + 2]


@njit(cache=True, nogil=True)
def _resize_four_rows(ring, slot, plane, quad, weights, first, taps, flip):
    """Resizes four interleaved rows horizontally and stores them in the ring buffer, mirrored if `flip`."""
    size = len(first)
    for i in range(size):
        total = fill(_HALF)
        at = first[i] * 12
        for k in range(taps):
            total = multiply_add(total, load_bytes(quad, at + 12 * k), weights[i, k])
        store_planes(total, ring, slot + (size - 1 - i if flip else i), plane)


@njit(cache=True, nogil=True)
def _resize_column(row, ring, mask, plane, weights, start, taps):
    """Computes one output row vertically from the rows `start` to `start + taps - 1` in the ring buffer."""
    for x in range(0, plane, LANES):
        red, green, blue = fill(_HALF), fill(_HALF), fill(_HALF)
        for k in range(taps):
            at = ((start + k) >> 2 & mask) * 3 * plane + x
            shift = (start + k & 3) * 8
            red = multiply_add(red, load_row(ring, at, shift), weights[k])
            green = multiply_add(green, load_row(ring, at + plane, shift), weights[k])
            blue = multiply_add(blue, load_row(ring, at + 2 * plane, shift), weights[k])
        store_pixels(red, row, x)
        store_pixels(green, row, x + plane)
        store_pixels(blue, row, x + 2 * plane)


@njit(cache=True, nogil=True)
def _jitter(rows, plane, width, jitter):
    """Applies brightness, contrast and saturation in place, in float32 as Pillow does. rows: uint8 [T_h, 3 * plane]."""
    red, green, blue = np.float32(19595), np.float32(38470), np.float32(7471)  # sums are exact, as they are below 2**24
    half, unit = np.float32(32768), np.float32(1 / 65536)
    zero, top = np.float32(0), np.float32(255)
    for step in range(3):
        op = _ORDERS[int(jitter[3]), step]
        factor = jitter[op]
        if factor == 1:
            continue
        base = zero
        if op == 1:
            total = 0
            for i in range(rows.shape[0]):
                r, g, b = rows[i, :width], rows[i, plane : plane + width], rows[i, 2 * plane : 2 * plane + width]
                for x in range(width):
                    fr, fg, fb = np.float32(r[x]), np.float32(g[x]), np.float32(b[x])
                    total += np.int32((red * fr + green * fg + blue * fb + half) * unit)
            base = np.float32(int(total / (rows.shape[0] * width) + 0.5))
        for i in range(rows.shape[0]):
            if op == 2:
                r, g, b = rows[i, :width], rows[i, plane : plane + width], rows[i, 2 * plane : 2 * plane + width]
                for x in range(width):
                    fr, fg, fb = np.float32(r[x]), np.float32(g[x]), np.float32(b[x])
                    grey = np.float32(np.int32((red * fr + green * fg + blue * fb + half) * unit))
                    r[x] = np.uint8(np.int32(min(max(grey + factor * (fr - grey), zero), top)))
                    g[x] = np.uint8(np.int32(min(max(grey + factor * (fg - grey), zero), top)))
                    b[x] = np.uint8(np.int32(min(max(grey + factor * (fb - grey), zero), top)))
            else:
                for t in range(rows.shape[1]):
                    value = base + factor * (np.float32(rows[i, t]) - base)
                    rows[i, t] = np.uint8(np.int32(min(max(value, zero), top)))


@njit(cache=True, nogil=True)
def crop_resize_into(out, image, window, box, flip, jitter, mean, inv_std, bicubic):
    """Processes one image in the calling thread, without checks. Compiled, for other compiled functions and for DALI.

    out: [3, T_h, T_w] of any strides, overwritten: float32, uint16 (the bits of float16) or uint8 (not normalized).
    image: uint8 [h, w, 3] with strides 3 and 1 in its last two axes. Only pixels inside the window are read.
    window: int32 or float64 [4], whole numbers: y, x, crop_h, crop_w in pixels of `image`, with crop_h, crop_w >= 1. It
    may extend beyond the image, where pixels are black.
    box: float64 [4]: y, x, height, width of what the output shows, relative to the window and inside it.
    flip: mirrors horizontally if not 0. bicubic: the index of the filter in INTERPOLATIONS.
    jitter: float32 [4]: factors of brightness, contrast, saturation (>= 0; 1 is off), and their order, see ORDERS.
    mean, inv_std: float32 [3], in units of pixel values 0..255.
    """
    y, x, crop_h, crop_w = int(window[0]), int(window[1]), int(window[2]), int(window[3])
    height, width = out.shape[1], out.shape[2]
    copied = box[2] == height and box[3] == width and box[0] == int(box[0]) and box[1] == int(box[1])
    if copied:
        y, x, crop_h, crop_w = y + int(box[0]), x + int(box[1]), height, width
    left, right = max(0, -x), min(crop_w, image.shape[1] - x)
    inside = 3 * max(0, right - left)
    jitters = jitter[0] != 1 or jitter[1] != 1 or jitter[2] != 1
    plane = (width + LANES - 1) // LANES * LANES
    rows = np.zeros((height if jitters else 1, 3 * plane), np.uint8)
    zeros = np.zeros(inside, np.uint8)
    if copied:
        for i in range(height):
            row = rows[i if jitters else 0]
            source = _row(image, zeros, y + i, x + left, inside)
            red, green, blue = row[left:width], row[plane + left : plane + width], row[2 * plane + left :]
            if flip:
                end = width - left
                red, green, blue = row[:end], row[plane : plane + end], row[2 * plane : 2 * plane + end]
                _split(red[::-1], green[::-1], blue[::-1], source)
            else:
                _split(red, green, blue, source)
            if not jitters:
                store_row(out, i, row, plane, mean, inv_std)
    else:
        weights_x, first_x, count_x = _weights(crop_w, width, box[1], box[3], bicubic != 0)
        weights_y, first_y, count_y = _weights(crop_h, height, box[0], box[2], bicubic != 0)
        taps_x, taps_y = count_x.max(), count_y.max()
        slots = 2
        while slots < taps_y // 4 + 2:
            slots *= 2  # a power of two, so that positions in the ring need a mask instead of a division
        ring = np.empty(slots * 3 * plane, np.uint32)
        quad = np.zeros(12 * (crop_w + taps_x + 2), np.uint8)  # black outside the image; bytes after the end weigh 0
        ready = first_y[0] >> 2 << 2
        for i in range(height):
            last = first_y[i] + count_y[i]
            while ready < last:
                a = _row(image, zeros, y + ready, x + left, inside)
                b = _row(image, zeros, y + min(ready + 1, crop_h - 1), x + left, inside)
                c = _row(image, zeros, y + min(ready + 2, crop_h - 1), x + left, inside)
                d = _row(image, zeros, y + min(ready + 3, crop_h - 1), x + left, inside)
                _interleave(quad[12 * left :], a, b, c, d)
                slot = (ready >> 2 & slots - 1) * 3 * plane
                _resize_four_rows(ring, slot, plane, quad, weights_x, first_x, taps_x, flip != 0)
                ready += 4
            row = rows[i if jitters else 0]
            _resize_column(row, ring, slots - 1, plane, weights_y[i], first_y[i], count_y[i])
            if not jitters:
                store_row(out, i, row, plane, mean, inv_std)
    if jitters:
        _jitter(rows, plane, width, jitter)
        for i in range(height):
            store_row(out, i, rows[i], plane, mean, inv_std)


_NO_JITTER = np.array([1, 1, 1, 0], np.float32)
_NO_MEAN, _NO_STD = np.zeros(3, np.float32), np.ones(3, np.float32)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a whole image as `crop_resize_into` does, without normalization; returns uint8 [T_h, T_w, 3].

    image: uint8 [h, w, 3], contiguous. size: (T_h, T_w) in pixels, at least 1.
    """
    pixels = np.empty((*size, 3), np.uint8)
    box = np.array([0, 0, *image.shape[:2]])
    out = pixels.transpose(2, 0, 1)
    crop_resize_into(out, image, box.astype(np.int32), box.astype(np.float64), 0, _NO_JITTER, _NO_MEAN, _NO_STD, 0)
    return pixels
