"""Dividing into train, val and test: every class by its share, from a seed, groups kept together."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlt.core.errors import UserError
from fastlt.data.convert.config import ConvertConfig, DatasetConfig
from fastlt.data.convert.shares import Shares
from fastlt.data.sources.base import Listing
from fastlt.data.sources.divided import Divided, split_counts
from fastlt.data.sources.grouped import Grouped

COUNTS = [1, 2, 3, 7, 10, 100]
DATASET = DatasetConfig(name="csv", kind="csv", protocol="auto", mean=(0.5,) * 3, std=(0.2,) * 3)


@dataclass
class Named:
    """Images named g<group>/<number>.jpg, or with groups."""

    labels: np.ndarray
    groups: list[int]
    given: bool = False
    splits: dict[str, Listing] = field(init=False)
    name = "named"

    def __post_init__(self) -> None:
        keys = [f"g{group}/{number}.jpg" for number, group in enumerate(self.groups)]
        self.splits = {"train": Listing(keys, self.labels, list(map(str, self.groups)) if self.given else None)}
        self.class_names = [str(label) for label in range(self.labels.max() + 1)]

    def load(self, split: str, index: int) -> bytes:
        return self.splits[split].keys[index].encode()

    def where(self, split: str, index: int) -> str:
        return self.splits[split].keys[index]


def source(given: bool = False) -> Named:
    """COUNTS images of the classes, mixed up, in groups of about three that may hold images of several classes."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
    return Named(labels, [place // 3 for place in range(len(labels))], given)


def counts(divided: Divided) -> np.ndarray:
    """Images of every split and class."""
    splits = [divided.splits[split] for split in ("train", "val", "test")]
    return np.stack([np.bincount(one.labels, minlength=len(COUNTS)) for one in splits])


def test_every_class_by_its_share() -> None:
    before = source()
    divided = Divided(before, 0.1, 0.2, seed=3)
    assert counts(divided).T.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 1], [5, 1, 1], [7, 1, 2], [70, 10, 20]]
    keys = before.splits["train"].keys
    assert sorted(key for one in divided.splits.values() for key in one.keys) == sorted(keys)
    for split, listing in divided.splits.items():
        places = [keys.index(key) for key in listing.keys]
        assert places == sorted(places) and listing.labels.tolist() == before.labels[places].tolist()
        assert all(divided.load(split, k) == key.encode() for k, key in enumerate(listing.keys))
        assert divided.where(split, 0) == listing.keys[0]


@pytest.mark.parametrize("val", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("test", [0.0, 0.2, 0.25])
def test_no_count_is_more_than_one_from_its_share(val: float, test: float) -> None:
    for images in range(1, 60):
        vals, tests = split_counts(images, val, test)
        assert abs(vals - images * val) <= 1 and abs(tests - images * test) <= 1 and vals + tests < images
        assert bool(vals) <= bool(val) and bool(tests) == (bool(test) and images > 1)


@pytest.mark.parametrize("group_by", ["", r"^g(\d+)/"])
def test_the_seed_decides(group_by: str) -> None:
    before = Grouped(source(), group_by) if group_by else source()
    first, again, other = (Divided(before, 0.1, 0.2, seed) for seed in (0, 0, 1))
    assert [one.keys for one in first.splits.values()] == [one.keys for one in again.splits.values()]
    assert first.splits["test"].keys != other.splits["test"].keys
    if not group_by:
        assert (counts(first) == counts(other)).all()


def test_groups_stay_together() -> None:
    for given, group_by in ((False, r"^g(\d+)/"), (False, r"^g\d+/"), (True, "")):
        before = source(given)
        divided = Divided(Grouped(before, group_by), 0.1, 0.2)
        found: dict[str, set[str]] = {}
        for split, listing in divided.splits.items():
            for key in listing.keys:
                found.setdefault(key.partition("/")[0], set()).add(split)
        assert len(found) == len(set(before.groups)) and all(len(splits) == 1 for splits in found.values())
        assert (counts(divided)[0] > 0).all()
        assert np.abs(counts(divided).sum(1) - np.array([0.7, 0.1, 0.2]) * sum(COUNTS)).max() <= 3


def test_a_split_that_is_there_stays() -> None:
    before = source()
    before.splits["test"] = Listing(["g0/x.jpg"], np.array([4]))
    divided = Divided(before, val=0.1)
    assert list(divided.splits) == ["train", "val", "test"] and divided.splits["test"].keys == ["g0/x.jpg"]
    assert divided.load("test", 0) == b"g0/x.jpg"
    with pytest.raises(UserError, match=r"test=0.2: there is a test split already; leave this key out, or give 0"):
        Divided(before, 0.1, 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.5, "test": 0.5}, "val=0.5 and test=0.5 leave nothing to train on"),
        ({"test": 0.2, "seed": -1}, "seed=-1: allowed is a whole number from 0 up"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Divided(source(), **options)


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("(", r"group_by=\(: no regular expression .*, and no column"),
        ("g1/", "is no column, and as a regular expression it does not match 120 of 123 paths, such as 'g0/0.jpg'"),
        ("jpg", "test=0.2 of these 123 images is none: every class keeps an image in train"),
    ],
)
def test_groups_that_are_refused(group_by: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Divided(Grouped(source(), group_by), test=0.2)


def test_the_name_of_a_group_has_an_end() -> None:
    long = source(given=True)
    listing = long.splits["train"]
    long.splits = {"train": replace(listing, groups=["x" * 1001, *(listing.groups or ())[1:]])}
    with pytest.raises(UserError, match="has 1,001 bytes, allowed are 1,000"):
        Grouped(long)


@pytest.mark.parametrize(
    ("given", "shares"),
    [
        ({"split": "0.7,0.1,0.2"}, Shares(0.1, 0.2)),
        ({"split": "[0.8, 0, 0.2]"}, Shares(0, 0.2)),
        ({"split": "1,0,0"}, Shares(without_test=True)),
        ({"val": "0.1", "test": "0.2"}, Shares(0.1, 0.2)),
        ({"val": "val.txt", "test": "0"}, Shares(without_test=True)),
        ({"test": "test.csv"}, Shares()),
        ({}, Shares()),
    ],
)
def test_shares(given: dict[str, Any], shares: Shares) -> None:
    assert Shares.of(ConvertConfig(dataset=DATASET, out="out", **given)) == shares


@pytest.mark.parametrize(
    "given",
    [{"split": value} for value in ("0.8,0.2", "0.7,0.1,0.3", "-0.1,0.1,1", "0,0.5,0.5", "a,b,c", "0.5", "nan,0,0")]
    + [{"val": "-0.1"}, {"test": "1"}, {"test": "nan"}, {"split": "0.7,0.1,0.2", "test": "0.1"}],
)
def test_shares_that_are_none(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"allowed are three numbers|a share of the training images|give one of the two"
    ):
        Shares.of(ConvertConfig(dataset=DATASET, out="out", **given))


def test_groups_that_a_dataset_has_stay_in_their_split() -> None:
    before = source(given=True)
    names = sorted(set(before.splits["train"].groups or ()))
    settled = {name: ("train", "val", "test")[place % 3] for place, name in enumerate(names[::2])}
    divided = Divided(before, 0.1, 0.2, seed=3, settled=settled)
    for split, listing in divided.splits.items():
        assert {settled.get(key[1:].partition("/")[0], split) for key in listing.keys} == {split}
    before.splits["test"] = Listing(["g0/x.jpg"], np.array([4]), ["x"])
    with pytest.raises(UserError, match=r"group '.*' of train has images in test of the dataset"):
        Divided(before, val=0.1, settled=settled)


def test_large_and_small_groups_get_into_all_splits() -> None:
    size = np.random.default_rng(0).geometric(0.2, 600)
    owner = np.repeat(np.arange(len(size)), size)
    divided = Divided(Named(owner % 6, owner.tolist(), given=True), 0.1, 0.2)
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        found = np.unique([int(key.partition("/")[0][1:]) for key in divided.splits[split].keys])
        assert size[found].sum() == pytest.approx(share * size.sum(), rel=0.02)
        assert size[found].mean() == pytest.approx(size.mean(), rel=0.1)
        assert size[found].max() > 12


def test_images_without_a_group_are_no_group(capsys: pytest.CaptureFixture[str]) -> None:
    mixed = source()
    listing = mixed.splits["train"]
    without = ["", "None", "nan", "<NA>"]  # of a CSV table, of Parquet and JSON, of pandas
    groups = [without[place % 4] if place % 2 else "a product" for place in range(len(listing.keys))]
    mixed.splits = {"train": Listing(listing.keys, listing.labels, groups)}
    divided = Divided(Grouped(mixed), 0.1, 0.2)
    assert "note: 61 images have no group (an empty or missing value): each is a group alone" in (
        capsys.readouterr().err
    )
    sizes = counts(divided).sum(1)
    assert sizes[0] >= 62 and sizes[1] > 8 and sizes[2] > 16, sizes
