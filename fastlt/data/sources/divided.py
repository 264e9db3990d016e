"""Divides the training images of a source into train, val and test, class by class or with groups kept together."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import agree, counted
from fastlt.data.sources.base import SPLITS, Listing, Rearranged, Source
from fastlt.data.sources.listed import shown

_NO_GROUP = {"", "nan", "none", "null", "<na>", "nat"}  # how sources and programs write a missing value


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
    group_by: a regular expression over the keys (paths). Images stay in one split, such as those of one patient or
        camera, if the first group of the expression matches the same text (or the whole expression, if it has no
        group). The shares of each class are then kept as nearly as groups allow, and every class keeps at least one
        group in train. A source whose listing has `groups` needs no expression.
        An image without a group, whose value is empty or as programs write a missing one, goes alone; a line says how
        many there are.
    settled: {group: split} for groups that have images in a dataset already, to which these are added.

    Images keep their order and keys. Raises UserError for shares that are not allowed, a split that exists already, and
    a key that the expression does not match.

    Example: Divided(source, val=0.1, test=0.2, group_by=r"patient(\\d+)")
    """

    source: Source
    val: float = 0.0
    test: float = 0.0
    seed: int = 0
    group_by: str = ""
    settled: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _rows: dict[str, np.ndarray] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.source, self.val, self.test, self.seed)
        train = self.source.splits["train"]
        names = train.groups if train.groups is not None else _matched(train.keys, self.group_by)
        place = self._by_class(train.labels) if names is None else self._by_group(train.labels, _apart(names))
        rows = {split: np.flatnonzero(place == number) for number, split in enumerate(SPLITS)}
        splits = {
            split: Listing([train.keys[row] for row in own.tolist()], train.labels[own])
            for split, own in rows.items()
            if len(own)
        }
        for split, share in (("val", self.val), ("test", self.test)):
            if share and split not in splits:
                raise UserError(
                    f"{split}={share:g} of these {len(train.keys):,} images is none: every class keeps an image in "
                    f"train, and groups stay together; give more images, or {split}=0"
                )
        say(_told(splits, self.seed, None if names is None else len(set(names))))
        both = {**self.source.splits, **splits}
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

    def _by_group(self, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Divides whole groups; returns the split of every image as an index into SPLITS, int64 [N].

        Groups are assigned from the largest to the smallest, those of one size in random order. First, the largest
        group of every class goes to train. Then each group goes where it brings the images of its classes nearest to
        their targets t, the shares of the splits: where it adds the least to the sum of (images - t)^2 / t. Large and
        small groups so get into all splits.
        """
        known, group = np.unique(np.array(names), return_inverse=True)
        counts = np.bincount(labels)
        cells, images = np.unique(group * len(counts) + labels, return_counts=True)
        owner, label = np.divmod(cells, len(counts))
        ends = np.searchsorted(owner, np.arange(1, owner[-1] + 2))
        content = list(zip(np.split(label, ends[:-1]), np.split(images, ends[:-1]), strict=True))
        order = np.lexsort((self._draws(0, len(content)), -np.bincount(group)))
        shares = np.array([1 - self.val - self.test, self.val, self.test])
        lacking = shares[:, None] * counts  # [3, C] images
        target = np.where(shares > 0, shares, 1)[:, None] * counts
        lacking[shares == 0] = -np.inf
        place = np.full(len(content), -1)

        def put(one: int, split: int) -> None:
            place[one] = split
            own, number = content[one]
            lacking[split, own] -= number

        for one, name in enumerate(known.tolist()):
            if split := self.settled.get(name):
                if split != "train" and split in self.source.splits:
                    raise UserError(
                        f"group {name!r} of train has images in {split} of the dataset: put its images into {split} of "
                        "this source, too, or leave them out"
                    )
                put(one, SPLITS.index(split))
        kept = np.zeros(len(counts), bool)
        first = _first_groups(order[place[order] < 1], content, len(counts))
        for own in np.argsort(np.bincount(label), kind="stable"):  # classes of few groups first: they have least choice
            if not kept[own] and first[own] >= 0:
                if place[first[own]] < 0:
                    put(int(first[own]), 0)
                kept[content[first[own]][0]] = True
        for one in order.tolist():
            if place[one] < 0:
                own, number = content[one]
                gain = (number * (2 * lacking[:, own] - number) / target[:, own]).sum(1)
                put(one, 2 - int(gain[::-1].argmax()))
        return place[group]


def _apart(names: Sequence[str]) -> list[str]:
    """Returns the groups of all images, where an image without one has a group of its own; a line says how many."""
    alone = [row for row, name in enumerate(names) if name.strip().lower() in _NO_GROUP]
    if alone:
        say(
            f"note: {counted(len(alone), 'image')} {agree(len(alone), 'has', 'have')} no group (an empty or missing "
            f"value): {agree(len(alone), 'it goes', 'each goes')} into a split alone"
        )
    apart = list(names)
    for row in alone:
        apart[row] = f"\0{row}"
    return apart


def _first_groups(order: np.ndarray, content: list[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Returns, for every class, the first group in `order` that has images of it, int64 [C]; -1 if there is none."""
    first = np.full(classes, -1)
    for one in order[::-1].tolist():
        first[content[one][0]] = one
    return first


def _matched(keys: list[str], expression: str) -> list[str] | None:
    """Returns the text that the expression matches in every key; None without an expression."""
    if not expression:
        return None
    try:
        search = re.compile(expression).search
    except re.error as error:
        raise UserError(f"group_by={expression}: no regular expression ({error}), and no column") from None
    found = [search(key) for key in keys]
    if not all(found):
        key = keys[found.index(None)]
        raise UserError(
            f"group_by={expression} is no column, and as a regular expression it does not match "
            f"{found.count(None):,} of {len(keys):,} paths, such as {shown(key)}; it must match each"
        )
    return [_group(match) for match in found if match]


def groups_by(expression: str, keys: list[str]) -> list[str | None]:
    """Returns the text that the expression matches in every key, as `Divided` does; None where it matches nothing."""
    try:
        search = re.compile(expression).search
    except re.error:
        return [None] * len(keys)
    return [match and _group(match) for match in map(search, keys)]


def _group(match: re.Match[str]) -> str:
    return (match[1] if match.re.groups else match[0]) or ""


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
