"""Loads image files as inputs of a model, with the same preprocessing as in evaluation, in parallel threads."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from fastlt.data.plan import NO_JITTER, center_boxes
from fastlt.data.shards.encode import BadImage, Encoding, decode
from fastlt.kernels.crop_resize import INTERPOLATIONS, crop_resize_into

MAX_BYTES = 1 << 30  # larger files are not read; images within Pillow's limit of pixels are smaller

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Evaluation:
    """The preprocessing of images in the evaluation of a run.

    size: height and width of the model's input in pixels.
    crop_pct: the share of the short side that the central crop takes.
    mean, std: of the RGB channels in 0..1.
    encoding: how the dataset was stored, which determines the handling of EXIF orientation and of large images.
    interpolation: the filter of the resize, `bilinear` or `bicubic`.
    """

    size: int
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoding: Encoding
    interpolation: str = "bilinear"

    def reading(self, max_pixels: int) -> "Evaluation":
        """Returns the same preprocessing, but for images of at most `max_pixels` pixels."""
        return replace(self, encoding=replace(self.encoding, max_pixels=max_pixels))

    def load(self, path: str) -> torch.Tensor | str:
        """Loads an image file as a normalized image, float32 [size, size, 3]; returns the reason as a string if it
        cannot be read.

        The result equals, bit for bit, that of the CPU pipeline for the same file after conversion.
        """
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path is not needed, and there may be millions
            if not stat.S_ISREG(status.st_mode):
                return "not a file"
            if status.st_size > MAX_BYTES:
                return f"{status.st_size >> 20:,} MB, the limit is {MAX_BYTES >> 20:,}"
            return self.input(decode(Path(path).read_bytes(), self.encoding))
        except BadImage as error:
            return str(error)
        except MemoryError:
            return "no memory left to decode it"
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:  # a NUL byte in the name
            return str(error)

    def input(self, pixels: np.ndarray) -> torch.Tensor:
        """Crops, resizes and normalizes uint8 pixels [H, W, 3]; returns float32 [size, size, 3]."""
        height, width = (np.array([side], np.int32) for side in pixels.shape[:2])
        (box,), (window,) = center_boxes(height, width, self.size, self.crop_pct, self.interpolation)
        box[:2] -= window[:2]
        # Computed in float32 as in pipeline/loader.py, because the last bit of every value depends on it.
        mean, std = (np.array(values, np.float32) * 255 for values in (self.mean, self.std))
        image = np.empty((self.size, self.size, 3), np.float32)
        filtered = INTERPOLATIONS.index(self.interpolation)
        crop_resize_into(image.transpose(2, 0, 1), pixels, window, box, 0, NO_JITTER, mean, 1 / std, filtered)
        return torch.from_numpy(image)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int, depth: int) -> Iterator[Result]:
    """Yields function(item) for each item, in order, computed by a pool of threads.

    threads: the number of threads. depth: how many results are computed ahead of the consumer.

    Example:

        >>> list(ahead(abs, [-1, 2, -3], threads=2, depth=2))
        [1, 2, 3]
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
