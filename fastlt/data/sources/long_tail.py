"""A balanced source made long-tailed: the laws of CIFAR-LT and ImageNet-LT, and the choice of images that stay."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.sources.base import Listing, Source

LAWS = ("exponential", "pareto")
HEADS = ("first", "random")


def long_tail_counts(classes: int, largest: int, imbalance: float) -> np.ndarray:
    """int64 [classes]: n_j = int(largest * mu^(j / (classes - 1))) with mu = 1 / imbalance (Cui et al., Cao et al.)."""
    mu = 1 / imbalance
    # Python floats, one class at a time: the published counts come from exactly these roundings.
    return np.array([int(largest * mu ** (j / max(classes - 1, 1))) for j in range(classes)], np.int64)


def pareto_counts(classes: int, largest: int, imbalance: float, alpha: float) -> np.ndarray:
    """int64 [classes], descending: class sizes as a draw from NumPy's Pareto law would have them, without the chance.

    x_r = ((r + 1) / (classes + 1))^(-1 / alpha) - 1 is the r-th largest of `classes` values spread evenly over the law
    with P(X > x) = (1 + x)^-alpha. Sizes are x mapped linearly: the largest is n_max = `largest`, the smallest n_min =
    n_max / imbalance, n_r = int(n_min + (n_max - n_min) * (x_r - x_last) / (x_0 - x_last)).

    1000 classes, 1280 images, imbalance 256 and alpha 6 give 404 many, 456 medium and 140 few and 121,449 images;
    ImageNet-LT, drawn by its authors with these values, has 385, 479 and 136, and 115,846 images.
    """
    rank = np.arange(classes)
    x = ((rank + 1) / (classes + 1)) ** (-1 / alpha) - 1
    smallest = largest / imbalance
    span = x[0] - x[-1] if classes > 1 else 1.0
    share = (x - x[-1]) / span if classes > 1 else np.ones(1)
    # The tiny addition keeps what is whole but for rounding from losing one.
    return np.floor(smallest + (largest - smallest) * share + 1e-9).astype(np.int64)


def thinned(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Rows that stay when class j keeps counts[j] of its images: int64, class after class, ascending within a class.

    labels: int64 [N]. Within a class the choice is uniform without replacement and keyed by (seed, class). For one seed
    the choices are nested: what a smaller count keeps, every larger one keeps too.
    """
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(counts)))
    chosen = []
    for j, (rows, count) in enumerate(zip(np.split(by_class, ends[:-1]), counts, strict=True)):
        # Raw bits, not Generator.choice: NumPy promises the bit stream for ever, the methods on top of it may change.
        draws = np.random.PCG64(np.random.SeedSequence((seed, j))).random_raw(len(rows))
        chosen.append(np.sort(rows[np.argsort(draws, kind="stable")[:count]]))
    return np.concatenate(chosen)


def ldam_thinned(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Rows that stay as in the code of LDAM-DRW (Cao et al. 2019) and what follows it; in and out as `thinned`.

    Class after class, NumPy's global generator, seeded once, shuffles the class's rows, and the first counts[j] stay.
    """
    rng = np.random.RandomState(seed)  # whose stream NumPy keeps for ever
    chosen = []
    for j, count in enumerate(counts):
        rows = np.flatnonzero(labels == j)
        rng.shuffle(rows)
        chosen.append(np.sort(rows[:count]))
    return np.concatenate(chosen)


SELECTIONS = {"ours": thinned, "ldam": ldam_thinned}


def long_tail_rows(
    labels: np.ndarray, classes: int, imbalance: float, seed: int, selection: str = "ours"
) -> np.ndarray:
    """Rows of a balanced set, labels int64 [N], that make up its long-tailed version by the exponential law.
    selection: a key of SELECTIONS."""
    return SELECTIONS[selection](labels, long_tail_counts(classes, len(labels) // classes, imbalance), seed)


@dataclass(frozen=True)
class LongTail:
    """A source whose train split is thinned to a long tail; val and test stay as they are.

    source: labelled images; its train split should be balanced, or nearly so.
    law: sizes of the classes. `exponential`, the law of CIFAR-LT (`long_tail_counts`), or `pareto`, that of ImageNet-LT
        and Places-LT (`pareto_counts`). n_max is the size of the source's largest class.
    imbalance: images of the largest class per image of the smallest.
    seed: which images of a class stay, and which classes are head where that is drawn.
    minimum: images that every class keeps at least.
    alpha: exponent of `pareto`: 6 made ImageNet-LT, 1.34 Places-LT (OLTR's issue 38); the smaller, the fewer large
        classes.
    head: which classes are large. `first`: labels are ranks, class 0 is the largest, as in CIFAR-LT. `random`: a
        permutation drawn from the seed. By default `first` for `exponential` and `random` for `pareto`.

    A class that has fewer images than it should keeps them all; how many such classes there are is said in one line.
    Images stay in the source's order, with its keys.

    Raises UserError for options outside what is allowed.
    """

    source: Source
    law: str = "exponential"
    imbalance: float = 100
    seed: int = 0
    minimum: int = 1
    alpha: float = 6
    head: str = ""
    name: str = field(init=False, compare=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _rows: np.ndarray = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._check_options()
        train = self.source.splits["train"]
        present = np.bincount(train.labels, minlength=len(self.source.class_names))
        wanted = self._counts(present)
        short = int((present < wanted).sum())
        if short:
            say(
                f"long_tail={self.law}: {short} of {len(present)} classes have fewer images than the law asks for; "
                "they keep all they have"
            )
        rows = np.sort(thinned(train.labels, np.minimum(wanted, present), self.seed))
        thin = Listing([train.keys[row] for row in rows.tolist()], train.labels[rows])
        name = f"{self.source.name}_{self.law}_{self.imbalance:g}"
        for attribute, value in (("name", name), ("splits", {**self.source.splits, "train": thin}), ("_rows", rows)):
            object.__setattr__(self, attribute, value)

    @property
    def class_names(self) -> list[str]:
        return self.source.class_names

    def load(self, split: str, index: int) -> bytes | np.ndarray:
        """What the source gives for this image."""
        return self.source.load(split, self._row(split, index))

    def where(self, split: str, index: int) -> str | Path:
        """Where the source has this image."""
        return self.source.where(split, self._row(split, index))

    def _row(self, split: str, index: int) -> int:
        return int(self._rows[index]) if split == "train" else index

    def _counts(self, present: np.ndarray) -> np.ndarray:
        """Images that every class should keep, int64 [C]."""
        classes, largest = len(present), int(present.max())
        if self.law == "pareto":
            counts = pareto_counts(classes, largest, self.imbalance, self.alpha)
        else:
            counts = long_tail_counts(classes, largest, self.imbalance)
        if self.head == "random" or (not self.head and self.law == "pareto"):
            # Its key has three parts, so it is no stream that chooses the images of a class.
            draws = np.random.PCG64(np.random.SeedSequence((self.seed, 0, 1))).random_raw(classes)
            ranked = np.empty(classes, np.int64)
            ranked[np.argsort(draws, kind="stable")] = counts
            counts = ranked
        return np.maximum(counts, self.minimum)

    def _check_options(self) -> None:
        for option, allowed in (("law", LAWS), ("head", ("", *HEADS))):
            value = getattr(self, option)
            if value not in allowed:
                key = "long_tail" if option == "law" else option
                raise UserError(f"{key}={value} is unknown: allowed are {', '.join(filter(None, allowed))}")
        if not _is_number(self.imbalance) or self.imbalance < 1:
            raise UserError(
                f"imbalance={self.imbalance!r}: allowed is a number from 1 (balanced) up, images of the largest class "
                "per image of the smallest"
            )
        if not _is_number(self.alpha) or self.alpha <= 0:
            raise UserError(f"alpha={self.alpha!r}: allowed is a number above 0; ImageNet-LT was made with 6")
        for option, least in (("seed", 0), ("minimum", 1)):
            value = getattr(self, option)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{option}={value!r}: allowed is a whole number from {least} up")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
