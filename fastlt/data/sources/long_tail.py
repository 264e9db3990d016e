"""Makes a balanced source long-tailed: the class sizes of CIFAR-LT and ImageNet-LT, and which images remain."""

import math
from dataclasses import dataclass, field

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.sources.base import Listing, Rearranged, Source

LAWS = ("exponential", "pareto")
HEADS = ("first", "random")


def long_tail_counts(classes: int, largest: int, imbalance: float) -> np.ndarray:
    """Returns the class sizes of the exponential law (Cui et al. 2019, Cao et al. 2019), int64 [classes].

    n_j = int(largest * mu^(j / (classes - 1))) with mu = 1 / imbalance.

    Example:

        >>> long_tail_counts(5, 500, 100).tolist()
        [500, 158, 50, 15, 5]
    """
    mu = 1 / imbalance
    # One class at a time in Python floats, because the published counts result from exactly this rounding.
    return np.array([int(largest * mu ** (j / max(classes - 1, 1))) for j in range(classes)], np.int64)


def pareto_counts(classes: int, largest: int, imbalance: float, alpha: float) -> np.ndarray:
    """Returns class sizes from the quantiles of NumPy's Pareto distribution, int64 [classes], descending.

    The authors of ImageNet-LT drew random values; here the values are spread evenly over the distribution instead. The
    r-th largest of `classes` values with P(X > x) = (1 + x)^-alpha is x_r = ((r + 1) / (classes + 1))^(-1 / alpha) - 1.
    The sizes are x mapped linearly to the range from n_min = largest / imbalance to n_max = largest:
    n_r = int(n_min + (n_max - n_min) * (x_r - x_last) / (x_0 - x_last)).

    1000 classes, 1280 images, imbalance 256 and alpha 6 give 404 many, 456 medium and 140 few-shot classes and 121,449
    images. ImageNet-LT, drawn by its authors with these values, has 385, 479 and 136, and 115,846 images.
    """
    rank = np.arange(classes)
    x = ((rank + 1) / (classes + 1)) ** (-1 / alpha) - 1
    smallest = largest / imbalance
    span = x[0] - x[-1] if classes > 1 else 1.0
    share = (x - x[-1]) / span if classes > 1 else np.ones(1)
    # The small addition prevents a whole number that became slightly smaller by rounding from being rounded down.
    return np.floor(smallest + (largest - smallest) * share + 1e-9).astype(np.int64)


def thinned(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Chooses counts[j] images of every class j; returns their rows, int64, sorted by class and ascending within it.

    labels: int64 [N]. counts: int64 [C], at most the class sizes. seed: an integer.

    The choice within a class is uniform without replacement and depends on (seed, class) only. For one seed the choices
    are nested: images that remain for a smaller count also remain for a larger one.
    """
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=len(counts)))
    chosen = []
    for j, (rows, count) in enumerate(zip(np.split(by_class, ends[:-1]), counts, strict=True)):
        # Raw bits instead of Generator.choice: NumPy guarantees the bit stream for all versions, but not the methods.
        draws = np.random.PCG64(np.random.SeedSequence((seed, j))).random_raw(len(rows))
        chosen.append(np.sort(rows[np.argsort(draws, kind="stable")[:count]]))
    return np.concatenate(chosen)


def ldam_thinned(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Chooses images as the code of LDAM-DRW (Cao et al. 2019) does; arguments and result as for `thinned`.

    NumPy's legacy generator is seeded once. It shuffles the rows of each class in turn, and the first counts[j] remain.
    """
    rng = np.random.RandomState(seed)  # its stream is guaranteed for all versions of NumPy
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
    """Returns the rows of a balanced dataset that make up its exponentially long-tailed version, int64.

    labels: int64 [N]. imbalance: size of the largest class / size of the smallest. selection: a key of SELECTIONS.
    """
    return SELECTIONS[selection](labels, long_tail_counts(classes, len(labels) // classes, imbalance), seed)


@dataclass(frozen=True)
class LongTail(Rearranged):
    """A source whose train split is made long-tailed; val and test remain unchanged.

    source: labelled images, whose train split should be balanced, or nearly so.
    law: the class sizes: `exponential` as in CIFAR-LT (`long_tail_counts`), or `pareto` as in ImageNet-LT and Places-LT
        (`pareto_counts`). The largest class keeps the size of the source's largest class.
    imbalance: size of the largest class / size of the smallest.
    seed: determines which images of a class remain, and which classes are large if `head` is `random`.
    minimum: the number of images that every class keeps at least.
    alpha: the exponent of `pareto`: 6 made ImageNet-LT, 1.34 Places-LT (OLTR's issue 38). The smaller it is, the fewer
        classes are large.
    head: which classes are large. `first`: sizes fall with the class index, as in CIFAR-LT. `random`: the order is a
        permutation drawn from the seed. By default `first` for `exponential` and `random` for `pareto`.

    A class with fewer images than it should have keeps all of them; the number of such classes is printed. Images keep
    their order and keys.

    Raises UserError for options that are not allowed.

    Example: LongTail(ImageFolder(Path("photos")), law="pareto", imbalance=256, minimum=5)
    """

    source: Source
    law: str = "exponential"
    imbalance: float = 100
    seed: int = 0
    minimum: int = 1
    alpha: float = 6
    head: str = ""
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
        splits = {**self.source.splits, "train": train.take(rows)}
        for attribute, value in (("splits", splits), ("_rows", rows)):
            object.__setattr__(self, attribute, value)

    @property
    def name(self) -> str:
        """The name of the source with the law and the imbalance."""
        return f"{self.source.name}_{self.law}_{self.imbalance:g}"

    def origin(self, split: str, index: int) -> tuple[str, int]:
        """Returns (split, position) of a sample in the source it comes from."""
        return split, int(self._rows[index]) if split == "train" else index

    def _counts(self, present: np.ndarray) -> np.ndarray:
        """Returns the number of images that every class should keep, int64 [C]."""
        classes, largest = len(present), int(present.max())
        if self.law == "pareto":
            counts = pareto_counts(classes, largest, self.imbalance, self.alpha)
        else:
            counts = long_tail_counts(classes, largest, self.imbalance)
        if self.head == "random" or (not self.head and self.law == "pareto"):
            # The seed has three parts, so that its stream differs from those that choose the images of a class.
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
