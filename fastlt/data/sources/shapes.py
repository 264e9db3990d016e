"""The embedded long-tailed dataset: drawn, photograph-like images of 12 silhouettes with 3 surface patterns each.

A class is a combination of silhouette and pattern ("striped star"). Every silhouette and every pattern is frequent in
one combination and rare in another. A representation learned on frequent classes therefore also serves rare ones, and
it is the classifier that fails on them: the situation of the paper, small enough for two CPU cores.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.shapes_draw import PATTERNS, SILHOUETTES, draw

COMBINATIONS = [(silhouette, pattern) for silhouette in SILHOUETTES for pattern in PATTERNS]


def _ranks() -> np.ndarray:
    """Returns the frequency rank of every class, int64 [36]; 0 is the most frequent one.

    Ranks are given in three rounds. Each round contains every silhouette once and every pattern equally often, so that
    each silhouette has one frequent, one medium and one rare class. The order within a round is random but fixed.
    """
    rng = np.random.default_rng(2020)
    ranks = np.empty((len(SILHOUETTES), len(PATTERNS)), np.int64)
    for deal in range(len(PATTERNS)):
        for place, silhouette in enumerate(rng.permutation(len(SILHOUETTES))):
            ranks[silhouette, (silhouette + deal) % len(PATTERNS)] = deal * len(SILHOUETTES) + place
    return ranks.ravel()


@dataclass(frozen=True)
class Shapes:
    """The source of drawn shapes. An image is a function of seed, split, index and the class at that index.

    seed: determines all images.
    imbalance: training images of the most frequent class / of the rarest; counts fall exponentially in between.
    max_per_class: the number of training images of the most frequent class.
    val_per_class, test_per_class: the number of images of every class in val and test.
    classes: how many of the 36 classes, the most frequent ones; None for all. Up to 12 classes all differ in their
    silhouettes.

    Raises UserError for options that are not allowed.

    Example:

        >>> Shapes(classes=4, imbalance=8).train_counts.tolist()
        [50, 200, 400, 100]
    """

    seed: int = 0
    imbalance: float = 100
    max_per_class: int = 400
    val_per_class: int = 20
    test_per_class: int = 25
    classes: int | None = None

    def __post_init__(self) -> None:
        for option, least in (("seed", 0), ("max_per_class", 1), ("val_per_class", 1), ("test_per_class", 1)):
            value = getattr(self, option)
            if not isinstance(value, int) or value < least:
                raise UserError(f"shapes: {option}={value} is not a whole number >= {least}: pass {least} or more")
        if self.classes is not None and self.classes not in range(2, len(COMBINATIONS) + 1):
            raise UserError(f"shapes: classes={self.classes} is not in 2..{len(COMBINATIONS)}: pass one of them")
        if not (math.isfinite(self.imbalance) and self.imbalance >= 1):
            raise UserError(
                f"shapes: imbalance={self.imbalance} is not a number >= 1: pass 1 for equal counts, 100 for a long tail"
            )
        if self.max_per_class < self.imbalance:
            raise UserError(
                f"shapes: max_per_class={self.max_per_class} with imbalance={self.imbalance:g} leaves the rarest class "
                f"without a training image: raise max_per_class to {math.ceil(self.imbalance)} or lower imbalance"
            )

    @property
    def name(self) -> str:
        return "shapes" if self.classes is None else f"shapes_{self.classes}"

    @cached_property
    def combinations(self) -> list[tuple[str, str]]:
        """The (silhouette, pattern) of every class."""
        return [COMBINATIONS[place] for place in self._places]

    @property
    def class_names(self) -> list[str]:
        return [f"{pattern} {silhouette}" for silhouette, pattern in self.combinations]

    @property
    def train_counts(self) -> np.ndarray:
        """The number of training images of every class, int64 [C]: max_per_class * imbalance^(-rank / (C - 1))."""
        ranks = _ranks()[self._places]
        return np.round(self.max_per_class * self.imbalance ** (-ranks / (len(ranks) - 1))).astype(np.int64)

    @cached_property
    def _places(self) -> np.ndarray:
        """The positions of the classes in COMBINATIONS, in ascending order."""
        return np.flatnonzero(_ranks() < (self.classes or len(COMBINATIONS)))

    @property
    def splits(self) -> dict[str, Listing]:
        return self._listings

    @cached_property
    def _listings(self) -> dict[str, Listing]:
        classes = len(self.class_names)
        counts = {
            "train": self.train_counts,
            "val": np.full(classes, self.val_per_class),
            "test": np.full(classes, self.test_per_class),
        }
        splits = {}
        for split in SPLITS:
            labels = np.repeat(np.arange(classes, dtype=np.int64), counts[split])
            keys = [f"{split}-{index:06d}" for index in range(len(labels))]
            splits[split] = Listing(keys, labels)
        return splits

    def __getstate__(self) -> dict:
        # All other attributes are derived from the fields; without them less is sent to worker processes.
        return {option: getattr(self, option) for option in self.__dataclass_fields__}

    def load(self, split: str, index: int) -> bytes:
        """Draws sample `index` of `split`; returns JPEG bytes.

        The same seed, split, index and class give the same bytes in any process, though another build of NumPy or
        Pillow may round a pixel differently. max_per_class and imbalance only determine the class of an index.
        """
        silhouette, pattern = self.combinations[self.splits[split].labels[index]]
        key = np.random.SeedSequence(self.seed, spawn_key=(SPLITS.index(split), index))
        return draw(np.random.default_rng(key), silhouette, pattern)

    def where(self, split: str, index: int) -> str:
        """Returns the seed, split, index and class of a sample in words."""
        label = self.splits[split].labels[index]
        return f"shapes seed {self.seed}, {split} picture {index} ({self.class_names[label]})"
