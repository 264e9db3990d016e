"""Balanced sources made long-tailed: both laws, which images and classes are chosen, what is left alone."""

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.core.groups import group_sizes
from fastlt.data.sources.base import Listing
from fastlt.data.sources.long_tail import LongTail, long_tail_counts, pareto_counts, thinned


@dataclass(frozen=True)
class Balanced:
    """counts[j] training images of class j, in mixed order; an image is its own key."""

    counts: tuple[int, ...] = (50,) * 20
    name: str = "balanced"
    splits: dict[str, Listing] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(self.counts)), self.counts))
        train = Listing([f"t/{i}" for i in range(len(labels))], labels)
        test = Listing([f"e/{i}" for i in range(len(self.counts))], np.arange(len(self.counts)))
        object.__setattr__(self, "splits", {"train": train, "test": test})

    @property
    def class_names(self) -> list[str]:
        return [f"class {j}" for j in range(len(self.counts))]

    def load(self, split: str, index: int) -> bytes:
        return self.where(split, index).encode()

    def where(self, split: str, index: int) -> str:
        return self.splits[split].keys[index]


def counts(source: Any) -> list[int]:
    return np.bincount(source.splits["train"].labels).tolist()


def test_exponential(capsys: pytest.CaptureFixture[str]) -> None:
    source = Balanced()
    thin = LongTail(source, imbalance=10)
    assert counts(thin) == long_tail_counts(20, 50, 10).tolist() == sorted(counts(thin), reverse=True)
    assert (counts(thin)[0], counts(thin)[-1]) == (50, 5)
    assert thin.class_names == source.class_names
    assert thin.name == "balanced_exponential_10"
    assert thin.splits["test"] is source.splits["test"] and thin.load("test", 3) == b"e/3"
    original = dict(zip(source.splits["train"].keys, source.splits["train"].labels, strict=True))
    keys = thin.splits["train"].keys
    assert keys == sorted(keys, key=lambda key: int(key[2:])) and len(set(keys)) == len(keys)  # the source's order
    for index, (key, label) in enumerate(zip(keys, thin.splits["train"].labels, strict=True)):
        assert (
            original[key] == label and thin.load("train", index) == key.encode() and key == thin.where("train", index)
        )
    copy = pickle.loads(pickle.dumps(thin))
    assert copy == thin and copy.load("train", 7) == thin.load("train", 7)
    assert capsys.readouterr().err == ""


def test_seeds_and_nesting() -> None:
    def keys(**options: Any) -> set[str]:
        return set(LongTail(Balanced(), **options).splits["train"].keys)

    assert keys(imbalance=10) == keys(imbalance=10) != keys(imbalance=10, seed=1)
    assert keys(imbalance=50) < keys(imbalance=10) < keys(imbalance=1)
    assert len(keys(imbalance=1)) == 1000


def test_pareto() -> None:
    # ImageNet-LT, of which this law without its chance is the middle: 385, 479 and 136 classes, 115,846 images.
    sizes = pareto_counts(1000, 1280, 256, 6)
    assert list(group_sizes(sizes).values()) == [404, 456, 140]
    assert (sizes[0], sizes[-1], sizes.sum()) == (1280, 5, 121_449)
    assert (np.diff(sizes) <= 0).all()
    assert pareto_counts(1, 10, 5, 6).tolist() == [10]
    assert pareto_counts(2, 10, 5, 6).tolist() == [10, 2]
    assert pareto_counts(3, 10, 1, 6).tolist() == [10, 10, 10]
    few = pareto_counts(365, 4980, 996, 1.34)  # Places-LT's exponent: fewer large classes
    assert (few[0], few[-1]) == (4980, 5) and few.sum() < pareto_counts(365, 4980, 996, 6).sum() / 3


@pytest.mark.parametrize("largest", [5, 7, 50, 980, 1300, 4980])
@pytest.mark.parametrize("imbalance", [1, 2, 5, 10, 50, 100])
def test_pareto_ends_where_it_should(largest: int, imbalance: int) -> None:
    for alpha in (1.34, 6):
        sizes = pareto_counts(37, largest, imbalance, alpha)
        assert (sizes[0], sizes[-1]) == (largest, largest // imbalance)


def test_which_classes_are_head() -> None:
    drawn = counts(LongTail(Balanced(), "pareto", 10))
    assert sorted(drawn, reverse=True) == pareto_counts(20, 50, 10, 6).tolist() != drawn
    assert drawn == counts(LongTail(Balanced(), "pareto", 10, head="random"))
    assert drawn != counts(LongTail(Balanced(), "pareto", 10, seed=1))
    ranked = counts(LongTail(Balanced(), "pareto", 10, head="first"))
    assert ranked == sorted(drawn, reverse=True)
    mixed = counts(LongTail(Balanced(), "exponential", 10, head="random"))
    assert mixed != sorted(mixed, reverse=True) == counts(LongTail(Balanced(), imbalance=10))


def test_minimum_and_small_classes(capsys: pytest.CaptureFixture[str]) -> None:
    assert min(counts(LongTail(Balanced(), imbalance=1000))) == 1
    assert counts(LongTail(Balanced(), imbalance=1000, minimum=4))[-3:] == [4, 4, 4]
    assert counts(LongTail(Balanced(), imbalance=50, minimum=50)) == [50] * 20
    assert capsys.readouterr().err == ""
    # Nearly balanced: what a class does not have cannot be kept, and that is said.
    assert counts(LongTail(Balanced((10, 6, 10, 2)), imbalance=2, minimum=3)) == [10, 6, 6, 2]
    assert capsys.readouterr().err == (
        "long_tail=exponential: 2 of 4 classes have fewer images than the law asks for; they keep all they have\n"
    )
    assert counts(LongTail(Balanced((7,)), imbalance=10)) == [7]  # a single class is the head


def test_thinned_keeps_every_image_equally_often() -> None:
    labels = np.repeat([0, 1], [4, 2])
    kept = np.zeros(6)
    for seed in range(400):
        kept[thinned(labels, np.array([1, 2]), seed)] += 1
    assert kept[4:].tolist() == [400, 400] and abs(kept[:4] - 100).max() < 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "zipf"}, "long_tail=zipf is unknown: allowed are exponential, pareto"),
        ({"head": "last"}, "head=last is unknown: allowed are first, random"),
        ({"imbalance": 0.5}, "imbalance=0.5: allowed is a number from 1"),
        ({"imbalance": float("nan")}, "imbalance=nan: allowed"),
        ({"imbalance": True}, "imbalance=True: allowed"),
        ({"seed": -1}, "seed=-1: allowed is a whole number from 0 up"),
        ({"minimum": 0}, "minimum=0: allowed is a whole number from 1 up"),
        ({"alpha": 0}, "alpha=0: allowed is a number above 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        LongTail(Balanced(), **options)
    assert message in str(caught.value)
