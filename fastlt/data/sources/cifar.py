"""Reads CIFAR-10 and CIFAR-100 from the official Python pickles and makes them long-tailed (CIFAR-LT)."""

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.sources.base import Listing
from fastlt.data.sources.cifar_pickle import read_cifar_pickle
from fastlt.data.sources.long_tail import SELECTIONS, long_tail_rows
from fastlt.data.sources.tar_file import BROKEN, open_tar

_SIDE = 32
_ROW_BYTES = 3 * _SIDE * _SIDE
_LARGEST_FILE = 1 << 29  # bytes; the largest official file has 155 MB


class _Layout(NamedTuple):
    """The names of folders, files and fields in the official archive of CIFAR-10 or CIFAR-100."""

    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    class_names: str

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_LAYOUTS = {
    10: _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    100: _Layout("cifar-100-python", ("train",), "test", "meta", "fine_labels", "fine_label_names"),
}


@dataclass(frozen=True)
class Cifar:
    """CIFAR-LT: a long-tailed subset of the official train set, and the whole official test set, which is balanced.

    path: the official archive (a tar of any compression, read in memory), its folder, or a folder that contains it.
    classes: 10 or 100.
    imbalance: size of the largest class / size of the smallest; 1 keeps the whole train set.
    seed: determines which images of a class remain.
    selection: how they are chosen. `ours` is `thinned` in long_tail.py. `ldam` with seed 0 gives the images of
        LDAM-DRW's code and of the code that follows it, such as BagofTricks-LT, MiSLAS and BALMS.

    Both splits are sorted by class, and by official row within a class, so that the samples of a class are adjacent in
    the shards. Places-LT's and ImageNet-LT's lists and ImageFolder have the same order. A key such as `train/12345` is
    the row of the official file (for CIFAR-10, of the five batches concatenated).

    The pixels (up to 180 MB) are pickled with the source. Pass it to a worker once, when it starts (free with fork, a
    tenth of a second with spawn), and not with every task.

    Raises UserError for a wrong option or an input that is not the official data. Code in the input is never run.

    Example: Cifar(Path("cifar-100-python.tar.gz"), classes=100, imbalance=100).splits["train"].labels
    """

    path: Path
    classes: int = 100
    imbalance: float = 100
    seed: int = 0
    selection: str = "ours"
    name: str = field(init=False, compare=False)
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _pixels: dict[str, np.ndarray] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        self._check_options()
        layout = _LAYOUTS[self.classes]
        contents = self._read_files(layout)
        class_names = self._class_names(contents.pop(layout.meta), layout)
        pixels, splits = {}, {}
        for split, files in (("train", layout.train), ("test", (layout.test,))):
            data, labels = self._read_split([(file, contents.pop(file)) for file in files], layout)
            imbalance = self.imbalance if split == "train" else 1
            per_class = len(labels) // self.classes
            if imbalance > per_class:
                raise UserError(
                    f"imbalance={self.imbalance:g}: the last class would have no image; allowed are 1 to {per_class}"
                )
            rows = long_tail_rows(labels, self.classes, imbalance, self.seed, self.selection)
            pixels[split] = data[rows]
            splits[split] = Listing([f"{split}/{row}" for row in rows.tolist()], labels[rows])
        name = f"cifar{self.classes}" + ("_lt" if self.imbalance > 1 else "")
        for attribute, value in (("name", name), ("class_names", class_names), ("splits", splits), ("_pixels", pixels)):
            object.__setattr__(self, attribute, value)

    def load(self, split: str, index: int) -> np.ndarray:
        """Returns a sample as RGB pixels, uint8 [32, 32, 3]."""
        planes = self._pixels[split][index].reshape(3, _SIDE, _SIDE)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def where(self, split: str, index: int) -> str:
        """Returns the archive and the row in the official file."""
        return f"{self.path}: {self.splits[split].keys[index]}"

    def _check_options(self) -> None:
        if not isinstance(self.classes, int) or self.classes not in _LAYOUTS:
            raise UserError(f"classes={self.classes!r}: CIFAR has 10 or 100 classes; set classes=10 or classes=100")
        number = isinstance(self.imbalance, (int, float)) and not isinstance(self.imbalance, bool)
        if not number or not math.isfinite(self.imbalance) or self.imbalance < 1:
            raise UserError(
                f"imbalance={self.imbalance!r}: allowed is a number from 1 (balanced) up, images of the largest class "
                "per image of the smallest; the papers use 10, 50, 100, 200"
            )
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise UserError(f"seed={self.seed!r}: allowed is a whole number from 0 up")

        if self.selection not in SELECTIONS:
            raise UserError(f"selection={self.selection!r}: allowed are {', '.join(SELECTIONS)}")
        if self.selection == "ldam" and self.seed >= 1 << 32:
            raise UserError(f"seed={self.seed!r}: selection=ldam allows whole numbers below 2^32; the field's is 0")

    def _reject(self, problem: str) -> UserError:
        folder = _LAYOUTS[self.classes].folder
        return UserError(
            f"{self.path}: {problem}; expected the python version of CIFAR-{self.classes}, its tar archive or its "
            f"folder {folder}/; get cifar-{self.classes}-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"
        )

    def _read_files(self, layout: _Layout) -> dict[str, dict[str, Any]]:
        """Returns {file name: content of its pickle} for every file of the layout."""
        if not self.path.exists():
            raise self._reject("no such file or folder")
        read = self._read_folder if self.path.is_dir() else self._read_tar
        try:
            contents, other = read(layout)
        except BROKEN as error:
            # If no compression fits, tarfile's message lists each one it tried, which is too long to show.
            reason = (
                "not a tar archive, or a damaged one"
                if "- method" in str(error)
                else f"unreadable or damaged ({error})"
            )
            raise self._reject(reason) from None
        missing = [name for name in layout.files if name not in contents]
        if missing and other:
            (classes,) = _LAYOUTS.keys() - {self.classes}
            named = f"this is CIFAR-{classes}, not CIFAR-{self.classes}"
            raise UserError(f"{self.path}: {named}; use dataset=cifar{classes}_lt")
        if missing:
            raise self._reject(f"lacks {', '.join(missing)}")
        return contents

    def _read_folder(self, layout: _Layout) -> tuple[dict[str, dict[str, Any]], bool]:
        inner = self.path / layout.folder
        folder = inner if inner.is_dir() else self.path
        contents = {}
        for name in layout.files:
            file = folder / name
            if file.is_file():
                self._check_size(name, file.stat().st_size)
                contents[name] = read_cifar_pickle(file.read_bytes(), str(file))
        others = [other for other in _LAYOUTS.values() if other is not layout]
        return contents, any((self.path / o.folder).is_dir() or (self.path / o.train[0]).is_file() for o in others)

    def _read_tar(self, layout: _Layout) -> tuple[dict[str, dict[str, Any]], bool]:
        """Returns ({file name: content}, whether the folder of the other CIFAR was seen).

        The archive is read in one pass, because a compressed tar has no random access.
        """
        contents: dict[str, dict[str, Any]] = {}
        folders = set()
        with open_tar(self.path) as archive:
            for member in archive:
                *parents, name = PurePosixPath(member.name).parts or ("",)
                folders.update(parents)
                official_place = not parents or parents[-1] == layout.folder
                if not (official_place and name in layout.files and member.isfile()) or name in contents:
                    continue
                self._check_size(name, member.size)
                file = archive.extractfile(member)
                assert file is not None
                contents[name] = read_cifar_pickle(file.read(), f"{self.path}: {member.name}")
                if len(contents) == len(layout.files):
                    break
        return contents, any(other.folder in folders for other in _LAYOUTS.values() if other is not layout)

    def _check_size(self, name: str, size: int) -> None:
        if size > _LARGEST_FILE:
            raise self._reject(f"{name} has {size:,} bytes, more than any file of CIFAR")

    def _class_names(self, meta: dict[str, Any], layout: _Layout) -> list[str]:
        names = meta.get(layout.class_names)
        if not isinstance(names, list) or len(names) != self.classes:
            raise self._reject(f"{layout.meta} has no list {layout.class_names!r} of {self.classes} names")
        try:
            return [name if isinstance(name, str) else bytes.decode(name) for name in names]
        except (TypeError, UnicodeDecodeError):
            raise self._reject(f"{layout.class_names!r} in {layout.meta} holds something that is not a name") from None

    def _read_split(self, files: list[tuple[str, dict[str, Any]]], layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
        """Returns the concatenated pixels uint8 [N, 3072] (planes R, G, B) and labels int64 [N] of the files."""
        blocks, labels = [], []
        for name, content in files:
            data, own = content.get("data"), content.get(layout.labels)
            if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _ROW_BYTES:
                found = f"shape {data.shape}" if isinstance(data, np.ndarray) else "no array"
                raise self._reject(f"'data' in {name} is not uint8 [images, {_ROW_BYTES}] but {found}")
            if not isinstance(own, list) or len(own) != len(data):
                raise self._reject(f"{layout.labels!r} in {name} is not a list of {len(data)} labels")
            wrong = next((x for x in own if type(x) is not int or not 0 <= x < self.classes), None)
            if wrong is not None:
                shown = wrong if type(wrong) is int and abs(wrong) < 10**9 else f"a {type(wrong).__name__}"
                raise self._reject(f"{layout.labels!r} in {name} holds {shown}, allowed are 0 to {self.classes - 1}")
            blocks.append(data)
            labels += own
        counts = np.bincount(np.array(labels, np.int64), minlength=self.classes)
        if counts.min() != counts.max() or counts.min() == 0:
            named = ", ".join(name for name, _ in files)
            raise self._reject(
                f"{named} should hold equally many images of every class, found {counts.min()} to {counts.max()}"
            )
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), np.array(labels, np.int64)
