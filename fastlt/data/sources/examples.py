"""A source of labelled images in Python: lists of (image, label)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastlt.core.errors import UserError
from fastlt.core.words import first_of
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.classes import check_names, sorted_names
from fastlt.data.sources.given import Item
from fastlt.longtail.whole_groups import group_text

Example = tuple[Any, ...]


@dataclass(frozen=True)
class Examples:
    """(image, label) pairs of every split, such as the pairs of a torchvision dataset.

    examples: {split: pairs} with the splits `train`, `test` and optionally `val`. An image is the path of a file, the
        bytes of a file, a uint8 array [H, W, 3] or [H, W], a PIL image, or an Item that fetches one of these. A label
        is a string or a whole number. A third element, (image, label, group), is the group of a listing.
    name: the name of the dataset.
    class_names: the order of the classes; by default the labels of train, sorted (numbers by value).

    Samples are sorted by class and keep their order within a class. A key is the split and the position in it.

    Raises UserError for an unknown split, a split without images, a class without a training image, and a label that is
    no class.

    Example: Examples({"train": [(array, "cat"), ("dog.jpg", "dog")], "test": [(array, "cat")]}, "pets")
    """

    examples: Mapping[str, Iterable[Example]]
    name: str
    class_names: list[str] = field(default_factory=list)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if unknown := set(self.examples) - set(SPLITS):
            raise UserError(f"split {sorted(unknown)[0]} is unknown: allowed are {', '.join(SPLITS)}")
        if "train" not in self.examples:
            raise UserError(f"there are examples of {', '.join(self.examples) or 'no split'}: training needs train")
        # In the order of SPLITS, as the first of two splits with near duplicates keeps them.
        listed = {split: [_example(one) for one in self.examples[split]] for split in SPLITS if split in self.examples}
        names = list(map(str, self.class_names)) or _names({label for _, label, _ in listed["train"]})
        check_names(names, "class_names")
        numbers = {name: number for number, name in enumerate(names)}
        ordered, splits = {}, {}
        for split, pairs in listed.items():
            if not pairs:
                raise UserError(f"split {split} has no images: leave it out, or give some")
            for _, label, _ in pairs:
                if str(label) not in numbers:
                    raise UserError(f"label {label} of {split} is no class: allowed are {first_of(names, 10)}")
            labels = np.array([numbers[str(label)] for _, label, _ in pairs], np.int64)
            order = np.argsort(labels, kind="stable")
            ordered[split] = [pairs[place][0] for place in order]
            groups = [pairs[place][2] for place in order]
            if None in groups and any(group is not None for group in groups):
                raise UserError(f"some examples of {split} have a group and some have none: give each one, or none")
            splits[split] = Listing(
                [f"{split}/{place}" for place in order.tolist()], labels[order], None if None in groups else groups
            )
        for attribute, value in (("examples", ordered), ("class_names", names), ("splits", splits)):
            object.__setattr__(self, attribute, value)
        missing = np.flatnonzero(np.bincount(splits["train"].labels, minlength=len(names)) == 0)
        if len(missing):
            raise UserError(f"class {names[missing[0]]} has no training image: every class needs one")

    def load(self, split: str, index: int) -> bytes | np.ndarray | Image.Image:
        """Returns the unchanged bytes of an image's file, uint8 [H, W, 3] pixels, or the PIL image that was given.

        Raises OSError for a file that cannot be read, for an array of another dtype or shape, and for any other type.
        """
        image = self.examples[split][index]  # type: ignore[index]
        if isinstance(image, Item):
            image = image.fetch()
        if isinstance(image, bytes | Image.Image):
            return image
        if isinstance(image, str | Path):
            return Path(image).read_bytes()
        if not isinstance(image, np.ndarray):
            kind = type(image).__name__
            raise OSError(f"an image is a path, bytes, a uint8 array [H, W, 3] or a PIL image, this one is a {kind}")
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise OSError(f"an array is uint8 [H, W, 3] or [H, W], this one is {image.dtype} {list(image.shape)}")
        return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2))

    def where(self, split: str, index: int) -> str:
        """Returns the key of a sample, and its path if it has one."""
        image = self.examples[split][index]  # type: ignore[index]
        key = self.splits[split].keys[index]
        return f"{key} ({image})" if isinstance(image, str | Path) else key


def _example(given: Any) -> tuple[Any, str | int, str | None]:
    """Returns (image, label, group) for an example without or with a group."""
    try:
        image, label, *more = given
    except (TypeError, ValueError):
        raise UserError(f"an example is (image, label) or (image, label, group), not {str(given)[:80]!r}") from None
    return image, _label(label), group_text(more[0]) if more else None


def _label(label: Any) -> str | int:
    """Returns a label as str or int. Whole floats and the numbers of NumPy and torch become int."""
    if isinstance(label, str):
        return label
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = float("nan")
    if number != int(number) if np.isfinite(number) else True:
        raise UserError(f"label {label!r} is neither a string nor a whole number")
    return int(number)


def _names(labels: set[str | int]) -> list[str]:
    numbers = [label for label in labels if isinstance(label, int)]
    if numbers and len(numbers) < len(labels):
        text = next(label for label in labels if isinstance(label, str))
        raise UserError(f"labels are numbers and strings, such as {numbers[0]} and {text}: give all of one kind")
    return sorted_names(map(str, labels))
