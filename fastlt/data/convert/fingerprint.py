"""Tells, without reading files, whether an image is the one that was converted before: by folder, size and time."""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.sources.base import Derived, Source
from fastlt.data.sources.cifar import Cifar
from fastlt.data.sources.examples import Examples

_THIS_PROCESS = os.urandom(16)  # stands for an image that only this process can know


class Fingerprint:
    """A function from the position of a sample in a split to bytes that change when its image does.

    They are made of the real folder, size and time of its file; for a source that packs many images into each file, of
    all these files. For pixels in memory, of CIFAR or passed from Python, they are made of the pixels. An image that a
    Python object fetches has another fingerprint in every process.
    """

    def __init__(self, source: Source, split: str):
        self._source, self._split = source, split
        self._inner = inner(source)
        alone = isinstance(self._inner, Cifar) or _one_file_each(self._inner)
        self._packed = None if alone else b"".join(map(_of_file, packed_files(source)))

    def __call__(self, index: int) -> bytes:
        if self._packed is not None:
            return self._packed
        if not isinstance(self._inner, Examples | Cifar):
            return _of_file(Path(self._source.where(self._split, index)))
        source, split = self._source, self._split
        while isinstance(source, Derived):
            split, index = source.origin(split, index)
            source = source.source
        inside = self._inner
        image = inside.load(split, index) if isinstance(inside, Cifar) else inside.examples[split][index]  # type: ignore[index]
        if isinstance(image, str | Path):
            return _of_file(Path(image))
        if isinstance(image, np.ndarray):
            return hashlib.sha256(f"{image.dtype}{image.shape}".encode() + image.tobytes()).digest()
        return hashlib.sha256(image).digest() if isinstance(image, bytes) else _THIS_PROCESS


def inner(source: Source) -> Source:
    """Returns the source that reads the images of a source that may be derived from it."""
    while isinstance(source, Derived):
        source = source.source
    return source


def packed_files(source: Source) -> list[Path]:
    """Returns the files that a source reads which packs many images into each; none for other sources."""
    source = inner(source)
    if _one_file_each(source) or not is_dataclass(source):
        return []
    named = [path for field in fields(source) if field.init for path in _paths(getattr(source, field.name))]
    return [path for path in named if not path.is_dir()]


def _one_file_each(source: Source) -> bool:
    return isinstance(source, Examples) or isinstance(source.where(next(iter(source.splits)), 0), Path)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _paths(one)


def check_outside(source: Source, out: Path) -> None:
    """Raises UserError if a source reads files in `out`, which are gone when a dataset takes its place."""
    place = Path(os.path.realpath(out))
    for path in packed_files(source):
        if Path(os.path.realpath(path)).is_relative_to(place):
            raise UserError(f"{path} lies in out={out}, where the dataset is to be: choose another folder")


def _of_file(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return b"missing"
    return f"{_real_folder(path.parent)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape")


@functools.lru_cache(1 << 12)
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)
