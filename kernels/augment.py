"""Operations on the pixels of a batch of images, normalized after them: augment_codes.py says which there are.

The pixels are those of torchvision's transforms v2 on PIL images: equal for operations on colours and for affine maps
to the nearest pixel, at most one level off for bilinear maps and blurs. augment_cpu.py and augment_cuda.py hold the
loops; what they share is their definition below.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from fastlt.kernels import augment_codes as codes
from fastlt.kernels import augment_cuda
from fastlt.kernels.augment_cpu import augment_into

cuda = augment_cuda.augment


def reference(
    images: np.ndarray, slots: np.ndarray, normalize: np.ndarray, dtype: torch.dtype, channels_last: bool
) -> np.ndarray:
    """`augment` spelled out in NumPy, an image at a time: float64, or uint8, [N, 3, T, T]."""
    mean, inv_std = normalize[:3].astype(np.float64), normalize[3:]
    done = []
    for image, operations in zip(images, slots, strict=True):
        for slot in operations:
            image = _reference_operation(image, int(slot[0]), slot[1:])
        value = image if dtype == torch.uint8 else (image - mean) * inv_std
        value = value.copy()
        for slot in operations[operations[:, 0] == codes.ERASE]:
            y, x, height, width = slot[1:5].astype(int)
            value[y : y + height, x : x + width] = np.floor(mean + 0.5) if dtype == torch.uint8 else 0
        done.append(value.transpose(2, 0, 1))
    return np.stack(done)


def _reference_operation(image: np.ndarray, code: int, arguments: np.ndarray) -> np.ndarray:
    size, factor = len(image), np.float32(arguments[0])
    grey = np.floor((image @ np.array([19595.0, 38470.0, 7471.0]) + 32768) / 65536)[:, :, None]
    bases = {codes.BRIGHTNESS: 0.0, codes.CONTRAST: np.floor(grey.mean() + 0.5), codes.SATURATION: grey}
    if code in bases or code == codes.SHARPNESS:
        base = _reference_smooth(image) if code == codes.SHARPNESS else bases[code]
        blend = np.float32(base) + factor * (image - base).astype(np.float32)
        return np.clip(blend, 0, 255).astype(np.uint8)
    if code == codes.GRAYSCALE:
        return np.repeat(grey, 3, axis=2).astype(np.uint8)
    if code == codes.POSTERIZE:
        return image & np.uint8(256 - 2 ** (8 - int(arguments[0])))
    if code == codes.SOLARIZE:
        return np.where(image < arguments[0], image, 255 - image)
    if code == codes.INVERT:
        return 255 - image
    if code == codes.VERTICAL_FLIP:
        return image[::-1]
    if code in (codes.AUTOCONTRAST, codes.EQUALIZE):
        return np.stack([_reference_adapted(image[:, :, colour], code) for colour in range(3)], axis=2)
    if code == codes.BLUR:
        reach = int(arguments[0]) // 2
        weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * arguments[1] ** 2))
        wide = np.pad(image.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
        for axis in (0, 1):
            parts = [w * np.take(wide, range(k, k + size), axis) for k, w in enumerate(weights / weights.sum())]
            wide = np.sum(parts, axis=0)
        return np.floor(wide + 0.5).astype(np.uint8)
    if code == codes.HUE:
        turned = [_reference_hue(int(arguments[0] * 255), *pixel) for pixel in image.reshape(-1, 3).tolist()]
        return np.array(turned, np.uint8).reshape(image.shape)
    if code in (codes.NEAREST, codes.BILINEAR):
        return _reference_affine(image, code, arguments)
    return image  # NOTHING, and ERASE, which comes after the normalization


def _reference_smooth(image: np.ndarray) -> np.ndarray:
    smooth = image.astype(np.int64)
    nine = sum(smooth[i : len(image) - 2 + i, j : len(image) - 2 + j] for i in range(3) for j in range(3))
    smooth[1:-1, 1:-1] = (2 * (nine + 4 * smooth[1:-1, 1:-1]) + 13) // 26 if len(image) > 2 else smooth[1:-1, 1:-1]
    return smooth


def _reference_adapted(plane: np.ndarray, code: int) -> np.ndarray:
    counts = np.bincount(plane.reshape(-1), minlength=256)
    low, high = int(plane.min()), int(plane.max())
    if low == high:
        return plane
    if code == codes.AUTOCONTRAST:
        scale = 255 / (high - low)
        levels = [int(min(max(level * scale - low * scale, 0), 255)) for level in range(256)]
        return np.array(levels, np.uint8)[plane]
    step = (plane.size - counts[high]) // 255
    if step == 0:
        return plane
    before = np.cumsum(counts) - counts
    return np.minimum((before + step // 2) // step, 255).astype(np.uint8)[plane]


def _reference_hue(steps: int, red: int, green: int, blue: int) -> tuple[int, int, int]:
    """Through hue, saturation and value of eight bits each, as Pillow converts them."""
    f = np.float32
    most, span = max(red, green, blue), max(red, green, blue) - min(red, green, blue)
    if span == 0:
        return red, green, blue
    to_red, to_green, to_blue = (float(f(most - level) / f(span)) for level in (red, green, blue))
    sixths = to_blue - to_green if red == most else 2 + to_red - to_blue if green == most else 4 + to_green - to_red
    hue = int(float(f((float(f(sixths)) / 6 + 1) % 1)) * 255)
    share = float(f(int(float(f(span) / f(most)) * 255) / 255))
    turned = (hue + steps) % 256 * 6 / 255
    part = int(turned)
    rest = float(f(turned - part))
    p, q, u = (int(most * (1 - share * by) + 0.5) for by in (1.0, rest, 1 - rest))
    return ((most, u, p), (q, most, p), (p, most, u), (p, q, most), (u, p, most), (most, p, q))[part % 6]


def _reference_affine(image: np.ndarray, code: int, arguments: np.ndarray) -> np.ndarray:
    size = len(image)
    y, x = np.mgrid[:size, :size]
    a, b, c, d, e, f, fill = arguments.tolist()
    if code == codes.NEAREST:  # in 1/65536 of a pixel, as Pillow
        a, b, c, d, e, f = (math.floor(one * 65536 + 0.5) for one in (a, b, c + (a + b) * 0.5, d, e, f + (d + e) * 0.5))
        across, down = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
    else:
        across, down = a * (x + 0.5) + b * (y + 0.5) + c, d * (x + 0.5) + e * (y + 0.5) + f
    outside = (across < 0) | (across >= size) | (down < 0) | (down >= size)
    if code == codes.NEAREST:
        moved = image[np.clip(down, 0, size - 1), np.clip(across, 0, size - 1)]
    else:
        left, top = np.floor(across - 0.5).astype(int), np.floor(down - 0.5).astype(int)
        dx, dy = (across - 0.5 - left)[:, :, None], (down - 0.5 - top)[:, :, None]
        columns, rows = (np.clip([first, first + 1], 0, size - 1) for first in (left, top))
        upper, lower = (image[row, columns[0]] * (1 - dx) + image[row, columns[1]] * dx for row in rows)
        moved = (upper * (1 - dy) + lower * dy).astype(np.uint8)
    return np.where(outside[:, :, None], np.uint8(fill), moved)


def cpu(
    images: torch.Tensor, slots: np.ndarray, normalize: np.ndarray, dtype: torch.dtype, channels_last: bool
) -> torch.Tensor:
    """`augment_into` for every image."""
    count, size = images.shape[:2]
    out = torch.empty((count, size, size, 3) if channels_last else (count, 3, size, size), dtype=dtype)
    bits = out.view(torch.uint16) if dtype == torch.float16 else out
    planes = bits.permute(0, 3, 1, 2).numpy() if channels_last else bits.numpy()
    spare = np.empty((3, size, size), np.uint8)
    mean, inv_std = normalize[:3], normalize[3:]
    erased = np.floor(mean + np.float32(0.5)) if dtype == torch.uint8 else np.zeros(3, np.float32)
    for target, image, operations in zip(planes, images.numpy(), slots, strict=True):
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        augment_into(target, pixels, spare, np.ascontiguousarray(operations), mean, inv_std, erased)
    return out.permute(0, 3, 1, 2) if channels_last else out


def augment(
    images: Any, slots: np.ndarray, normalize: np.ndarray, dtype: torch.dtype, channels_last: bool
) -> torch.Tensor:
    """Carries out the operations of every image, and normalizes it.

    images: uint8 [N, T, T, 3], a tensor on the CPU or a GPU; on a GPU it is written to. slots: float64 [N, K, WIDTH] on
    the CPU, the operations of each image (augment_codes.py). normalize: float32 [6], mean and inverse std of the RGB
    channels in pixel values 0..255. dtype: float32 or float16, normalized; or uint8, pixels, of which erased ones have
    the mean colour. channels_last: the memory format of the result, [N, 3, T, T] on the images' device.
    """
    return (cuda if images.is_cuda else cpu)(images, slots, normalize, dtype, channels_last)
