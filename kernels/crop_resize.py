"""Crop, resize, flip, colour jitter and normalization of one image in one pass: the CPU data path.

The pixels are those of torchvision on a PIL image: `F.resized_crop(..., antialias=True)` with bilinear interpolation,
`F.hflip`, `F.adjust_brightness/contrast/saturation`, uint8 between the steps, then normalization. Rows are resampled
first, then columns, with Pillow's 22-bit integer weights and a rounding to uint8 after each pass, so each pass is
Pillow's bit for bit. Pillow 13 does columns first where it reckons that cheaper: there a fifth of the pixels differ by
one level, and the result here does not depend on the installed Pillow.

Two laws meet here. A crop that is resized sees nothing but itself: the filter ends at its edges (RandomResizedCrop). A
resized image that is cropped has a crop of fractional edges in the source, and its filter reads beyond them
(Resize + CenterCrop). So there are two rectangles: the window of whole pixels that are read, and in it the box that the
output shows; in the first case they are the same.

How the time is saved. Four source rows are interleaved byte by byte, [x][colour][row], so that one vector of 16 lanes
holds one pixel of four rows (and four lanes nobody reads): the horizontal pass needs one multiply-add per tap and no
gather. Its result is one 32-bit word per pixel and colour, the four rows in the four bytes, in planes, so that the
vertical pass and the normalization run over contiguous x. The horizontally resized rows live in a ring just long enough
for one output row. Flipping costs nothing: the horizontal pass stores from the other end. LLVM does not vectorize such
loops by itself, hence the vector operations of lanes.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import carray, njit

from fastlt.kernels.lanes import (
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

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
"""The six orders of brightness (0), contrast (1) and saturation (2); jitter[3] is an index into this table."""

_ORDERS = np.array(ORDERS, dtype=np.int64)
_HALF = 1 << (BITS - 1)


def reference(
    image: np.ndarray,
    box: Sequence[float] | np.ndarray,
    size: tuple[int, int],
    flip: bool = False,
    jitter: Sequence[float] | np.ndarray | None = None,
    mean: Sequence[float] | np.ndarray = IMAGENET_MEAN,
    std: Sequence[float] | np.ndarray = IMAGENET_STD,
    window: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """What `crop_resize` computes, spelled out in NumPy; arguments as there, float64 [3, T_h, T_w]."""
    y, x, crop_h, crop_w = (int(v) for v in (box if window is None else window))
    crop = np.zeros((crop_h, crop_w, 3), dtype=np.uint8)
    top, bottom = (min(max(v, 0), image.shape[0]) for v in (y, y + crop_h))
    left, right = (min(max(v, 0), image.shape[1]) for v in (x, x + crop_w))
    crop[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    weights_y = _reference_weights(crop_h, size[0], box[0] - y, box[2])
    weights_x = _reference_weights(crop_w, size[1], box[1] - x, box[3])
    rows = np.floor(np.einsum("ok,ykc->yoc", weights_x, crop) + 0.5)
    pixels = np.floor(np.einsum("ok,kxc->oxc", weights_y, rows) + 0.5)
    if flip:
        pixels = pixels[:, ::-1]
    if jitter is not None:
        for op in ORDERS[int(jitter[3])]:
            grey = np.floor((pixels @ np.array([19595.0, 38470.0, 7471.0]) + 32768) / 65536)[:, :, None]
            base = (np.float64(0), np.floor(grey.mean() + 0.5), grey)[op]
            blend = np.float32(base) + np.float32(jitter[op]) * (pixels - base).astype(np.float32)  # Pillow: C floats
            pixels = np.floor(np.clip(blend, 0, 255)).astype(np.float64)
    return ((pixels - np.asarray(mean)) / np.asarray(std)).transpose(2, 0, 1)


def _reference_weights(n: int, size: int, first: float, extent: float) -> np.ndarray:
    """Triangle filter of half width max(1, extent / size) around each output pixel's centre: float64 [size, n]."""
    scale = extent / size
    centre = first + (np.arange(size) + 0.5) * scale
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(n) + 0.5 - centre[:, None]) / max(1.0, scale))
    return weights / weights.sum(axis=1, keepdims=True)


@njit(cache=True, nogil=True)
def _weights(n, size, begin, extent):
    """Pillow's table for resizing `extent` of n pixels, those from `begin` on, to `size`.

    int32 weights [size, K] in units of 2**-22, first tap, taps. Weights beyond a pixel's own taps are 0.
    """
    scale = extent / size
    support = max(1.0, scale)
    inverse = 1.0 / support
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
            exact[k - start] = max(0.0, 1.0 - abs((k - centre + 0.5) * inverse))
            total += exact[k - start]
        for k in range(stop - start):
            weights[i, k] = np.int32(0.5 + exact[k] / total * (1 << BITS))
            if weights[i, k] > 0:
                count[i] = k + 1
        first[i] = start
    return weights, first, count


@njit(cache=True, nogil=True)
def _row(image, zeros, y, x, n):
    """n bytes of row y from column x, as a flat array; a black row where y lies outside of the image."""
    if y < 0 or y >= image.shape[0]:
        return carray(as_pointer(zeros.ctypes.data), (n,))
    return carray(as_pointer(image.ctypes.data + y * image.strides[0] + x * image.strides[1]), (n,))


@njit(cache=True, nogil=True)
def _interleave(quad, a, b, c, d):
    """quad[4 t + r] = byte t of row r."""
    for t in range(len(a)):
        quad[4 * t] = a[t]
        quad[4 * t + 1] = b[t]
        quad[4 * t + 2] = c[t]
        quad[4 * t + 3] = d[t]


@njit(cache=True, nogil=True)
def _split(red, green, blue, source):
    for t in range(len(source) // 3):
        red[t] = source[3 * t]
        green[t] = source[3 * t + 1]
        blue[t] = source[3 * t + 2]


@njit(cache=True, nogil=True)
def _resize_four_rows(ring, slot, plane, quad, weights, first, taps, flip):
    size = len(first)
    for i in range(size):
        total = fill(_HALF)
        at = first[i] * 12
        for k in range(taps):
            total = multiply_add(total, load_bytes(quad, at + 12 * k), weights[i, k])
        store_planes(total, ring, slot + (size - 1 - i if flip else i), plane)


@njit(cache=True, nogil=True)
def _resize_column(row, ring, mask, plane, weights, start, taps):
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
    """Brightness, contrast and saturation in place; rows uint8 [T_h, 3 * plane], float32 arithmetic as Pillow's."""
    red, green, blue = np.float32(19595), np.float32(38470), np.float32(7471)  # exact: all sums stay below 2**24
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
def crop_resize_into(out, image, window, box, flip, jitter, mean, inv_std):
    """The njit core: one image, the calling thread, nothing checked. For use inside other compiled functions and DALI.

    out: [3, T_h, T_w], overwritten, strides free: float32, uint16 (the bits of float16) or uint8 (not normalized).
    image: uint8 [h, w, 3] whose last two axes are contiguous (stride 3 and 1; rows may be any distance apart); only
    bytes inside of the window are read. window: int32 or float64 [4], whole numbers y, x, crop_h, crop_w in pixels of
    `image`, crop_h and crop_w >= 1; (0, 0, h, w) if `image` is the window already. It may stick out on any side:
    outside is black. box: float64 [4] = y, x, height, width of what the output shows, counted from the window's first
    pixel; it lies in the window, which it fills if (0, 0, crop_h, crop_w). flip: mirrored left to right if not 0.
    jitter: float32 [4] = factors of brightness, contrast, saturation (>= 0; 1 is off) and the order, 0..5, an index
    into ORDERS. mean, inv_std: float32 [3] in pixel values 0..255.
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
        weights_x, first_x, count_x = _weights(crop_w, width, box[1], box[3])
        weights_y, first_y, count_y = _weights(crop_h, height, box[0], box[2])
        taps_x, taps_y = count_x.max(), count_y.max()
        slots = 2
        while slots < taps_y // 4 + 2:
            slots *= 2  # a power of two: the place in the ring is a mask, not a division
        ring = np.empty(slots * 3 * plane, np.uint32)
        quad = np.zeros(12 * (crop_w + taps_x + 2), np.uint8)  # outside of the image: black; after the end: weighs 0
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


def cpu(images, windows, boxes, size, flips, jitters, mean, inv_std) -> np.ndarray:
    """One image or a list of N of them through `crop_resize_into`; windows, boxes, flips, jitters likewise one or N.

    Types as there. Returns float32 [3, T_h, T_w] for one image, [N, 3, T_h, T_w] for a list.
    """
    if isinstance(images, np.ndarray):
        return cpu([images], [windows], [boxes], size, [flips], [jitters], mean, inv_std)[0]
    out = np.empty((len(images), 3, *size), dtype=np.float32)
    for i, image in enumerate(images):
        crop_resize_into(out[i], image, windows[i], boxes[i], flips[i], jitters[i], mean, inv_std)
    return out


def crop_resize(
    image: np.ndarray,
    box: Sequence[float] | np.ndarray,
    size: int | tuple[int, int],
    flip: bool = False,
    jitter: Sequence[float] | np.ndarray | None = None,
    mean: Sequence[float] | np.ndarray = IMAGENET_MEAN,
    std: Sequence[float] | np.ndarray = IMAGENET_STD,
    window: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Crop `image`, resize to `size` with antialiasing, mirror, jitter colours, subtract the mean, divide by std.

    image: uint8 [h, w, 3], the last two axes contiguous; a band of rows or of columns of a larger array is fine.
    box: (y, x, height, width) in pixels of `image`, what the output shows. window: (y, x, height, width), whole pixels
    that the resize may read around the box; the whole image to resize, then crop. Default: the box, to crop, then
    resize; its numbers are whole then. A window may stick out of the image on any side; outside is black, before
    normalization. A box of whole pixels as large as `size` is copied, not resampled.
    size: T or (T_h, T_w), pixels. flip: mirror left to right.
    jitter: None, or factors of brightness, contrast and saturation (1 is off) and an order 0..5, the place in ORDERS:
    0 bcs, 1 bsc, 2 cbs, 3 csb, 4 sbc, 5 scb. Semantics of torchvision on uint8: brightness scales, contrast blends with
    the rounded mean of the grey image as it is at that point, saturation blends with the grey image
    (L = 0.299 R + 0.587 G + 0.114 B, rounded); each clamps to 0..255 and drops the fraction.
    mean, std: three numbers each, in pixel values 0..255.

    Returns float32 [3, T_h, T_w] = (pixel - mean) * (1 / std). Raises ValueError for a wrong dtype, shape, layout, an
    empty crop or size, a box that sticks out of its window, or factors, order or std out of range.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"image is {found}; allowed: a NumPy array uint8 [h, w, 3]")
    if image.size == 0:
        raise ValueError(f"image is empty, {list(image.shape)}; allowed: at least 1 x 1 pixels")
    if image.strides[2] != 1 or (image.shape[1] > 1 and image.strides[1] != 3):
        raise ValueError(f"image has strides {image.strides}; allowed: (any, 3, 1), np.ascontiguousarray gives them")
    windows = np.asarray(box if window is None else window)
    if windows.shape != (4,) or windows.dtype.kind not in "iu":
        name = "box" if window is None else "window"
        raise ValueError(f"{name} is {windows.dtype} {list(windows.shape)}; allowed: integers y, x, height, width")
    boxes = np.asarray(box, dtype=np.float64)
    if boxes.shape != (4,) or not np.isfinite(boxes).all():
        raise ValueError(f"box is {box}; allowed: four finite numbers y, x, height, width")
    if min(windows[2:]) < 1 or min(boxes[2:]) <= 0:
        raise ValueError(f"box {boxes.tolist()} is an empty crop; allowed: height and width > 0")
    if max(abs(int(v)) for v in windows) >= 1 << 30:
        raise ValueError(f"box {boxes.tolist()} is too large; allowed: numbers below 2**30")
    boxes[:2] -= windows[:2]
    if min(boxes[:2]) < 0 or max(boxes[:2] + boxes[2:] - windows[2:]) > 1e-6:  # a sum may be rounded up
        raise ValueError(f"box {list(box)} sticks out of its window {windows.tolist()}; allowed: inside of it")
    sizes = np.asarray((size, size) if np.ndim(size) == 0 else size)
    if sizes.shape != (2,) or sizes.dtype.kind not in "iu" or min(sizes) < 1:
        raise ValueError(f"size is {size}; allowed: T or (T_h, T_w), integers >= 1")
    factors = np.asarray((1, 1, 1, 0) if jitter is None else jitter, dtype=np.float32)
    if factors.shape != (4,) or not np.isfinite(factors).all() or factors[:3].min() < 0 or factors[3] not in range(6):
        raise ValueError(f"jitter is {jitter}; allowed: three factors >= 0 and an order 0..5")
    means, stds = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if means.shape != (3,) or not np.isfinite(means).all():
        raise ValueError(f"mean is {mean}; allowed: three finite numbers in pixel values 0..255")
    if stds.shape != (3,) or not all(math.isfinite(v) and v > 0 for v in stds):
        raise ValueError(f"std is {std}; allowed: three numbers > 0 in pixel values 0..255")
    inv_std = (1 / stds).astype(np.float32)
    target = (int(sizes[0]), int(sizes[1]))
    windows = windows.astype(np.int32)
    return cpu(image, windows, boxes, target, int(flip), factors, means.astype(np.float32), inv_std)


_NO_JITTER = np.array([1, 1, 1, 0], np.float32)
_NO_MEAN, _NO_STD = np.zeros(3, np.float32), np.ones(3, np.float32)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels of `crop_resize` of the whole image, not normalized: uint8 [T_h, T_w, 3].

    image: uint8 [h, w, 3], contiguous. size: (T_h, T_w), pixels >= 1.
    """
    pixels = np.empty((*size, 3), np.uint8)
    box = np.array([0, 0, *image.shape[:2]])
    out = pixels.transpose(2, 0, 1)
    crop_resize_into(out, image, box.astype(np.int32), box.astype(np.float64), 0, _NO_JITTER, _NO_MEAN, _NO_STD)
    return pixels
