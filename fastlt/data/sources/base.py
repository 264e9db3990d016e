"""The interface of a source of labelled images, which the conversion reads."""

import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # usual names of folders, files and table values for each split
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}


def split_named(name: str) -> str | None:
    """Returns the split that a usual name stands for, in any case; None for any other name.

    Example:

        >>> split_named("Valid")
        'val'
    """
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def split_in_name(name: str) -> str | None:
    """Returns the split that a file or folder is named after, such as `train` for Places_LT_train.txt.

    Words are separated by `-`, `_` or `.`, digits after a word are ignored, and the last word has priority.

    Example:

        >>> split_in_name("train2018.json"), split_in_name("validation-00000-of-00001.parquet"), split_in_name("a.csv")
        ('train', 'val', None)
    """
    words = re.split(r"[-_.]", name)
    return next((split for word in reversed(words) if (split := split_named(word.rstrip("0123456789")))), None)


@dataclass(frozen=True)
class Listing:
    """The samples of one split, in the order in which they are stored.

    keys: the name of every sample in the source (a relative path, or a row of a file), unique within the split.
    labels: int64 [N], the class index of every sample, in [0, number of classes).
    groups: the group of every sample (such as its patient), if the source was asked to read it. Samples of one group
    stay together when a split is divided. A sample whose group is "" has none.
    """

    keys: list[str]
    labels: np.ndarray
    groups: list[str] | None = None

    def take(self, rows: np.ndarray) -> "Listing":
        """Returns the listing of some of the samples. rows: int64 [n], their positions."""
        places = rows.tolist()
        groups = None if self.groups is None else [self.groups[row] for row in places]
        return Listing([self.keys[row] for row in places], self.labels[rows], groups)

    def of_keys(self) -> dict[str, str] | None:
        """Returns {key: group} of all samples; None if the source was not asked to read groups."""
        return None if self.groups is None else dict(zip(self.keys, self.groups, strict=True))


class Source(Protocol):
    """A source of labelled images.

    It must be picklable, because worker processes call `load`.
    """

    @property
    def name(self) -> str:
        """The name of the dataset."""
        ...

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of their indices."""
        ...

    @property
    def splits(self) -> dict[str, Listing]:
        """The samples of every split. `train` is required."""
        ...

    def load(self, split: str, index: int) -> bytes | np.ndarray | Image.Image:
        """Returns sample `index` of `split`: the unchanged bytes of its file, uint8 [H, W, 3] pixels, or a PIL image.

        Raises OSError if the sample cannot be read.
        """
        ...

    def where(self, split: str, index: int) -> str | Path:
        """Returns where a person finds this sample, for messages."""
        ...


class Derived:
    """Base class of sources whose samples come from another source, under the same keys."""

    source: Source

    @property
    def name(self) -> str:
        """The name of the dataset: that of the source it comes from."""
        return self.source.name

    def origin(self, split: str, index: int) -> tuple[str, int]:
        """Returns (split, position) of a sample in the source it comes from."""
        return split, index

    def load(self, split: str, index: int) -> bytes | np.ndarray | Image.Image:
        """Loads a sample from the source it comes from; see `Source.load`."""
        return self.source.load(*self.origin(split, index))

    def where(self, split: str, index: int) -> str | Path:
        """Returns where a person finds this sample; see `Source.where`."""
        return self.source.where(*self.origin(split, index))


class Rearranged(Derived):
    """Base class of sources that have other samples or splits, and the classes of the source they come from."""

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of their indices."""
        return self.source.class_names


def described(source: Source) -> dict[str, Any]:
    """Returns the kind and settings of a source, without paths, in the form that dataset.json records.

    A setting that is itself a source becomes the description of that source.
    """
    about: dict[str, Any] = {"kind": type(source).__name__}
    for field in fields(source) if is_dataclass(source) else ():
        value = getattr(source, field.name) if field.init and field.name != "name" else None
        if isinstance(value, str | int | float):
            about[field.name] = value
        elif hasattr(value, "splits"):
            about[field.name] = described(value)  # type: ignore[arg-type]
    return about
