"""Operations of augment_codes.py on a batch of images on a GPU: what augment_cpu.py does, pixel for pixel.

Products that go into sums are rounded as on a CPU (gpu.product32).

A block has an image and carries out its operations one after the other; its threads meet after each. The pixels of an
image lie together in the caches of the device, so that going over them again costs little. What moves pixels writes
into a second image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import float32, float64, int32, uint8

from fastlt.kernels import augment_codes as codes
from fastlt.kernels import gpu
from fastlt.kernels.gpu import THREADS, cu

_FIXED = 65536.0
_RED, _GREEN, _BLUE, _HALF = np.int32(19595), np.int32(38470), np.int32(7471), np.int32(32768)
_WEIGHTS = codes.MAX_TAPS // 2 + 1
_ZERO, _TOP = np.float32(0), np.float32(255)


@gpu.device_function
def _clipped(value):
    return np.int32(min(max(value, _ZERO), _TOP))


@gpu.device_function
def _grey(image, t):
    total = image[t, 0] * _RED + image[t, 1] * _GREEN + image[t, 2] * _BLUE
    return np.int32(total + _HALF) >> np.int32(16)


@gpu.device_function
def _blend(base, level, factor):
    base = np.float32(base)
    return np.uint8(_clipped(base + gpu.product32(factor, np.float32(level) - base)))


@gpu.device_function
def _levels(image, code, argument, scratch):
    """Operations that change each pixel by itself."""
    pixels, factor, base = image.shape[0], np.float32(argument), np.int32(0)
    if code == codes.CONTRAST:
        part = 0.0
        for t in range(cu.threadIdx.x, pixels, THREADS):
            part += _grey(image, t)
        base = np.int32(gpu.block_sum(part, scratch) / pixels + 0.5)
    threshold = 0 if code == codes.INVERT else int(math.ceil(argument))
    for t in range(cu.threadIdx.x, pixels, THREADS):
        if code == codes.SATURATION or code == codes.GRAYSCALE:
            base = _grey(image, t)
        for colour in range(3):
            level = image[t, colour]
            if code == codes.GRAYSCALE:
                image[t, colour] = base
            elif code == codes.POSTERIZE:
                image[t, colour] = level & (256 - (1 << (8 - int(argument))))
            elif code == codes.SOLARIZE or code == codes.INVERT:
                image[t, colour] = level if level < threshold else 255 - level
            else:
                image[t, colour] = _blend(base, level, factor)


@gpu.device_function
def _adapt(image, code, counts, table):
    """Autocontrast and equalize. counts: int32 [768], table: uint8 [768], shared."""
    pixels = image.shape[0]
    for k in range(cu.threadIdx.x, 768, THREADS):
        counts[k] = 0
        table[k] = k & 255
    cu.syncthreads()
    for t in range(cu.threadIdx.x, pixels, THREADS):
        for colour in range(3):
            cu.atomic.add(counts, colour * 256 + np.int32(image[t, colour]), 1)
    cu.syncthreads()
    if cu.threadIdx.x < 3:
        first = cu.threadIdx.x * 256
        low, high = 0, 255
        while counts[first + low] == 0:
            low += 1
        while counts[first + high] == 0:
            high -= 1
        if low != high and code == codes.AUTOCONTRAST:
            scale = 255.0 / (high - low)
            offset = -low * scale
            for level in range(256):
                table[first + level] = min(max(int(gpu.product64(np.float64(level), scale) + offset), 0), 255)
        elif low != high:
            step = (pixels - counts[first + high]) // 255
            reached = step // 2
            if step > 0:
                for level in range(256):
                    table[first + level] = min(reached // step, 255)
                    reached += counts[first + level]
    cu.syncthreads()
    for t in range(cu.threadIdx.x, pixels, THREADS):
        for colour in range(3):
            image[t, colour] = table[colour * 256 + np.int32(image[t, colour])]


@gpu.device_function
def _move(out, image, size, code, slot):
    """Affine maps and the vertical flip."""
    a, b, c, d, e, f = slot[1], slot[2], slot[3], slot[4], slot[5], slot[6]
    a0, a1 = int(math.floor(a * _FIXED + 0.5)), int(math.floor(b * _FIXED + 0.5))
    a3, a4 = int(math.floor(d * _FIXED + 0.5)), int(math.floor(e * _FIXED + 0.5))
    x0 = int(math.floor((c + a * 0.5 + b * 0.5) * _FIXED + 0.5))
    y0 = int(math.floor((f + d * 0.5 + e * 0.5) * _FIXED + 0.5))
    last = size - 1
    for t in range(cu.threadIdx.x, size * size, THREADS):
        i, x = t // size, t % size
        if code == codes.VERTICAL_FLIP:
            for colour in range(3):
                out[t, colour] = image[(last - i) * size + x, colour]
        elif code == codes.NEAREST:
            column, row = (x0 + i * a1 + x * a0) >> 16, (y0 + i * a4 + x * a3) >> 16
            inside = 0 <= column < size and 0 <= row < size
            for colour in range(3):
                out[t, colour] = image[row * size + column, colour] if inside else slot[7]
        else:
            across = gpu.product64(a, x + 0.5) + gpu.product64(b, i + 0.5) + c
            down = gpu.product64(d, x + 0.5) + gpu.product64(e, i + 0.5) + f
            inside = 0 <= across < size and 0 <= down < size
            left, top = int(math.floor(across - 0.5)), int(math.floor(down - 0.5))
            dx, dy = np.float32(across - 0.5 - left), np.float32(down - 0.5 - top)
            right, bottom = min(left + 1, last), min(top + 1, last) * size
            left, top = max(left, 0), max(top, 0) * size
            for colour in range(3):
                if inside:
                    v1, v2 = np.float32(image[top + left, colour]), np.float32(image[bottom + left, colour])
                    v1 += gpu.product32(np.float32(image[top + right, colour]) - v1, dx)
                    v2 += gpu.product32(np.float32(image[bottom + right, colour]) - v2, dx)
                    out[t, colour] = int(v1 + gpu.product32(v2 - v1, dy))
                else:
                    out[t, colour] = slot[7]


@gpu.device_function
def _sharpen(out, image, size, factor):
    for t in range(cu.threadIdx.x, size * size, THREADS):
        i, x = t // size, t % size
        edge = i == 0 or x == 0 or i == size - 1 or x == size - 1
        for colour in range(3):
            level = np.int32(image[t, colour])
            if edge:
                out[t, colour] = level
            else:
                total = 4 * level
                for row in range(t - size, t + size + 1, size):
                    total += np.int32(image[row - 1, colour]) + image[row, colour] + image[row + 1, colour]
                out[t, colour] = _blend((2 * total + 13) // 26, level, factor)


@gpu.device_function
def _blur(out, image, size, taps, sigma, weights, wide):
    """Across into `wide`, then down. weights: float32 [MAX_TAPS], shared. wide: float32 [T * T, 3]."""
    reach = taps // 2
    total = 1.0
    for k in range(1, reach + 1):
        total += 2 * math.exp(-(k * k) / (2 * sigma * sigma))
    for k in range(cu.threadIdx.x, reach + 1, THREADS):
        weights[k] = math.exp(-(k * k) / (2 * sigma * sigma)) / total
    cu.syncthreads()
    for t in range(cu.threadIdx.x, size * size, THREADS):
        start, x = t // size * size, t % size
        for colour in range(3):
            part = weights[0] * np.float32(image[t, colour])
            for k in range(1, reach + 1):
                left, right = start + abs(x - k), start + size - 1 - abs(size - 1 - x - k)
                pair = np.float32(image[left, colour]) + np.float32(image[right, colour])
                part += gpu.product32(weights[k], pair)
            wide[t, colour] = part
    cu.syncthreads()
    for t in range(cu.threadIdx.x, size * size, THREADS):
        i, x = t // size, t % size
        for colour in range(3):
            part = weights[0] * wide[t, colour]
            for k in range(1, reach + 1):
                above, below = abs(i - k) * size + x, (size - 1 - abs(size - 1 - i - k)) * size + x
                part += gpu.product32(weights[k], wide[above, colour] + wide[below, colour])
            out[t, colour] = _clipped(part + np.float32(0.5))


@gpu.device_function
def _turn_hue(image, turn):
    steps = int(turn * 255)
    for t in range(cu.threadIdx.x, image.shape[0], THREADS):
        r, g, b = np.int32(image[t, 0]), np.int32(image[t, 1]), np.int32(image[t, 2])
        most, least = max(r, max(g, b)), min(r, min(g, b))
        if most == least:
            continue
        span = np.float32(most - least)
        if r == most:
            third, ahead, behind = 0.0, most - b, most - g
        elif g == most:
            third, ahead, behind = 2.0, most - r, most - b
        else:
            third, ahead, behind = 4.0, most - g, most - r
        ahead, behind = np.float32(ahead) / span, np.float32(behind) / span
        hue = np.float64(np.float32(third + np.float64(ahead) - np.float64(behind))) / 6.0 + 1.0
        hue = np.float64(np.float32(hue - 1.0 if hue >= 1.0 else hue))
        level = (int(hue * 255.0) + steps) & 255
        strength = int(np.float64(np.float32(span / np.float32(most))) * 255.0)
        share = np.float64(np.float32(strength / 255.0))
        sixth = level * 6.0 / 255.0
        part = int(sixth)
        rest = np.float64(np.float32(sixth - part))
        for colour in range(3):
            place = (part + 5 - 2 * colour) % 6 + rest
            low = min(max(min(place, 4.0 - place), 0.0), 1.0)
            image[t, colour] = int(gpu.product64(np.float64(most), 1.0 - gpu.product64(share, low)) + 0.5)


@gpu.kernel("uint8[:, :, ::1], uint8[:, :, ::1], float32[:, :, ::1], float64[:, :, ::1], int64[::1], int64")
def _carry_out(images, spares, wide, slots, in_spares, size):
    """images: uint8 [N, T * T, 3], written to. spares: the same. wide: float32 [N, T * T, 3], or [1, 1, 1] where
    nothing is blurred. slots: float64 [N, K, WIDTH]. in_spares: int64 [N], whether the result lies in spares."""
    scratch = cu.shared.array(THREADS, float64)
    counts = cu.shared.array(768, int32)
    table = cu.shared.array(768, uint8)
    weights = cu.shared.array(_WEIGHTS, float32)
    for n in range(cu.blockIdx.x, images.shape[0], cu.gridDim.x):
        in_spare = 0
        for k in range(slots.shape[1]):
            slot = slots[n, k]
            code = int(slot[0])
            if code == codes.NOTHING or code == codes.ERASE or (code == codes.SHARPNESS and size < 3):
                continue
            cu.syncthreads()
            image = spares[n] if in_spare else images[n]
            other = images[n] if in_spare else spares[n]
            if code == codes.NEAREST or code == codes.BILINEAR or code == codes.VERTICAL_FLIP:
                _move(other, image, size, code, slot)
                in_spare = 1 - in_spare
            elif code == codes.SHARPNESS:
                _sharpen(other, image, size, np.float32(slot[1]))
                in_spare = 1 - in_spare
            elif code == codes.BLUR:
                _blur(other, image, size, int(slot[1]), slot[2], weights, wide[n])
                in_spare = 1 - in_spare
            elif code == codes.HUE:
                _turn_hue(image, slot[1])
            elif code == codes.AUTOCONTRAST or code == codes.EQUALIZE:
                _adapt(image, code, counts, table)
            else:
                _levels(image, code, slot[1], scratch)
        if cu.threadIdx.x == 0:
            in_spares[n] = in_spare


@gpu.kernel(
    *(
        "uint8[:, :, ::1], uint8[:, :, ::1], float64[:, :, ::1], int64[::1], float32[::1], "
        f"{dtype}[:, :, ::1], int64, int64, int64"
        for dtype in ("float32", "float16", "uint8")
    )
)
def _finish(images, spares, slots, in_spares, normalize, out, size, channels_last, as_pixels):
    """Normalizes and erases. normalize: float32 [6]. out: [N, T * T, 3] or, not channels_last, [N, 3, T * T]. Other
    arguments as of `_carry_out`."""
    pixels = size * size
    for place in range(cu.blockIdx.x * THREADS + cu.threadIdx.x, images.shape[0] * pixels, cu.gridDim.x * THREADS):
        n, t = place // pixels, place % pixels
        i, x = t // size, t % size
        erased = False
        for k in range(slots.shape[1]):
            down, across = i - slots[n, k, 1], x - slots[n, k, 2]
            if slots[n, k, 0] == codes.ERASE:
                erased = erased or (0 <= down < slots[n, k, 3] and 0 <= across < slots[n, k, 4])
        for colour in range(3):
            mean = normalize[colour]
            level = np.float32(spares[n, t, colour] if in_spares[n] else images[n, t, colour])
            if as_pixels:
                value = np.float32(int(mean + np.float32(0.5))) if erased else level
            else:
                value = _ZERO if erased else (level - mean) * normalize[3 + colour]
            if channels_last:
                out[n, t, colour] = value
            else:
                out[n, colour, t] = value


def augment(
    images: torch.Tensor, slots: np.ndarray, normalize: np.ndarray, dtype: torch.dtype, channels_last: bool
) -> torch.Tensor:
    """As fastlt.kernels.augment.augment, on the images' device."""
    count, size = images.shape[:2]
    device = images.device
    blurs = bool((slots[:, :, 0] == codes.BLUR).any())
    flat = images.reshape(count, size * size, 3)
    spares = torch.empty_like(flat)
    wide = torch.empty(flat.shape if blurs else (1, 1, 1), dtype=torch.float32, device=device)
    out = torch.empty((count, size * size, 3) if channels_last else (count, 3, size * size), dtype=dtype, device=device)
    sent = torch.from_numpy(np.ascontiguousarray(slots)).to(device, non_blocking=True)
    by = torch.from_numpy(normalize).to(device, non_blocking=True)
    in_spares = torch.empty(count, dtype=torch.int64, device=device)
    _carry_out.launch(count, flat, spares, wide, sent, in_spares, size)
    blocks = gpu.blocks_for(-(-count * size * size // THREADS), device)
    as_pixels = int(dtype == torch.uint8)
    _finish.launch(blocks, flat, spares, sent, in_spares, by, out, size, int(channels_last), as_pixels)
    if channels_last:
        return out.view(count, size, size, 3).permute(0, 3, 1, 2)
    return out.view(count, 3, size, size)
