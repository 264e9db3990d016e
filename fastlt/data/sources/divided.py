"""Divides the training images of a source into train, val and test, class by class or with groups kept together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import counted
from fastlt.data.sources.base import SPLITS, Listing, Rearranged, Source
from fastlt.longtail.whole_groups import divide_groups, group_numbers


def split_counts(images: int, val: float, test: float) -> tuple[int, int]:
    """Returns how many of a class's images go to (val, test).

    images: the number of images of the class. val, test: the shares, which are rounded.

    At least one image stays in train. Test gets at least one image of a class of two, and val at least one of a class
    of three, if their shares are not 0. As long as half of the images or more are for training, no count differs from
    its share by more than one.

    Example:

        >>> split_counts(10, 0.1, 0.2), split_counts(2, 0.1, 0.2)
        ((1, 2), (0, 1))
    """
    tests = min(max(int(images * test + 0.5), 1), images - 1) if test else 0
    vals = min(max(int(images * val + 0.5), 1), images - 1 - tests) if val else 0
    return vals, tests


@dataclass(frozen=True)
class Divided(Rearranged):
    """A source whose train split is divided; the splits that it has already remain unchanged.

    val, test: the shares of the training images in 0..1 for splits that the source lacks; 0 makes no such split. Each
        class is divided separately (see `split_counts`).
    seed: determines which images go where, for any number of workers.
    settled: {group: split} for groups that have images in a dataset already, to which these are added.

    Images of one group, such as those of one patient or camera, stay in one split if the listing has `groups`. The
    shares of each class are then kept as nearly as groups allow, and every class keeps at least one group in train.

    Images keep their order and keys. Raises UserError for shares that are not allowed, and a split that exists already.

    Example: Divided(source, val=0.1, test=0.2)
    """

    source: Source
    val: float = 0.0
    test: float = 0.0
    seed: int = 0
    settled: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _rows: dict[str, np.ndarray] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.source, self.val, self.test, self.seed)
        train = self.source.splits["train"]
        names = None if train.groups is None else np.array(train.groups, np.str_)
        place = self._by_class(train.labels) if names is None else self._by_group(train.labels, names)
        rows = {split: np.flatnonzero(place == number) for number, split in enumerate(SPLITS)}
        splits = {split: train.take(own) for split, own in rows.items() if len(own)}
        for split, share in (("val", self.val), ("test", self.test)):
            if share and split not in splits:
                raise UserError(
                    f"{split}={share:g} of these {len(train.keys):,} images is none: every class keeps an image in "
                    f"train, and groups stay together; give more images, or {split}=0"
                )
        say(_told(splits, self.seed, None if names is None else len(set(names))))
        both = {**{split: own for split, own in self.source.splits.items() if split != "train"}, **splits}
        object.__setattr__(self, "splits", {split: both[split] for split in SPLITS if split in both})
        object.__setattr__(self, "_rows", rows)

    def origin(self, split: str, index: int) -> tuple[str, int]:
        """Returns (split, position) of a sample in the source it comes from."""
        return ("train", int(self._rows[split][index])) if len(self._rows[split]) else (split, index)

    def _draws(self, stream: int, count: int) -> np.ndarray:
        # Raw bits are used instead of Generator.permutation because NumPy guarantees the bit stream for all versions.
        # The seed has three parts, the last not 0, so that no other use of the same seed shares its stream.
        return np.random.PCG64(np.random.SeedSequence((self.seed, stream, 2))).random_raw(count)

    def _by_class(self, labels: np.ndarray) -> np.ndarray:
        """Divides each class separately; returns the split of every image as an index into SPLITS, int64 [N]."""
        place = np.zeros(len(labels), np.int64)
        by_class = np.argsort(labels, kind="stable")
        for label, rows in enumerate(np.split(by_class, np.cumsum(np.bincount(labels))[:-1])):
            shuffled = rows[np.argsort(self._draws(label, len(rows)), kind="stable")]
            vals, tests = split_counts(len(rows), self.val, self.test)
            place[shuffled[:tests]], place[shuffled[tests : tests + vals]] = 2, 1
        return place

    def _by_group(self, labels: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Divides whole groups; returns the split of every image as an index into SPLITS, int64 [N]."""
        groups = group_numbers(names)
        settled = np.full(groups.max() + 1, -1)
        for name, row in zip(*np.unique(names, return_index=True), strict=True) if self.settled else ():
            if split := self.settled.get(str(name)):
                if split != "train" and split in self.source.splits:
                    raise UserError(
                        f"group {str(name)!r} of train has images in {split} of the dataset: put its images into "
                        f"{split} of this source, too, or leave them out"
                    )
                settled[groups[row]] = SPLITS.index(split)
        shares, draws = (1 - self.val - self.test, self.val, self.test), self._draws(0, len(settled))
        return divide_groups(labels, groups, shares, draws, settled, every_class_first=True)


def _check(source: Source, val: float, test: float, seed: int) -> None:
    for split, share in (("val", val), ("test", test)):
        if not 0 <= share < 1:
            raise UserError(f"{split}={share:g}: a share of the training images is at least 0 and below 1")
        if share and split in source.splits:
            raise UserError(f"{split}={share:g}: there is a {split} split already; leave this key out, or give 0")
    if val + test >= 1:
        raise UserError(f"val={val:g} and test={test:g} leave nothing to train on: their sum must be below 1")
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed={seed!r}: allowed is a whole number from 0 up")


def _told(splits: dict[str, Listing], seed: int, groups: int | None) -> str:
    parts = ", ".join(f"{split} {len(own.keys):,}" for split, own in splits.items())
    how = "class by class" if groups is None else f"{counted(groups, 'group')} kept together"
    return (
        f"divided {counted(sum(len(own.keys) for own in splits.values()), 'image')} into {parts} ({how}, seed={seed})"
    )
