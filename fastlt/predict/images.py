"""Image files as inputs of a model: the pixels that evaluation sees during training, file by file and ahead of it."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from fastlt.data.plan import NO_JITTER, center_boxes
from fastlt.data.shards.encode import BadImage, Encoding, decode
from fastlt.kernels.crop_resize import crop_resize_into

MAX_BYTES = 1 << 30  # larger files are not read: what Pillow opens below its limit of pixels is smaller

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Evaluation:
    """How images were seen when the run was evaluated.

    size: pixels of the input's side. keep: share of the short side that the central crop takes. mean, std: of the RGB
    channels in 0..1. encoding: how the dataset was stored: it decides on orientation and on what was made smaller.
    """

    size: int
    keep: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoding: Encoding

    def load(self, path: str) -> torch.Tensor | str:
        """The normalized image, float32 [size, size, 3]; the reason in words if there is none in the file.

        Of an image file it is bit for bit what the CPU pipeline gives of that file converted.
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
        except OSError as error:
            return error.strerror or str(error)
        except ValueError as error:  # a NUL byte in the name
            return str(error)

    def input(self, pixels: np.ndarray) -> torch.Tensor:
        """The normalized image of uint8 pixels [H, W, 3]."""
        height, width = (np.array([side], np.int32) for side in pixels.shape[:2])
        (box,), (window,) = center_boxes(height, width, self.size, self.keep)
        box[:2] -= window[:2]
        # Products and quotients in float32, as in pipeline/loader.py: the last bit of every value depends on it.
        mean, std = (np.array(values, np.float32) * 255 for values in (self.mean, self.std))
        image = np.empty((self.size, self.size, 3), np.float32)
        crop_resize_into(image.transpose(2, 0, 1), pixels, window, box, 0, NO_JITTER, mean, 1 / std)
        return torch.from_numpy(image)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int, depth: int) -> Iterator[Result]:
    """Results of `function` in the order of `items`, of which `depth` are worked on, or wait, ahead of the taker."""
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
