"""The authors' lists: Places-LT, one list of which is converted over stand-in pictures, and iNaturalist's of val."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, picture

from fastlt.core.groups import group_sizes
from fastlt.data.convert import Conversion, convert
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.image_list import ImageList

SPLITS = ("train", "val", "test")


@pytest.fixture
def places(shared: Path, tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """A root in which every path of Places-LT's val list is one of a few tiny pictures, and the lists."""
    lists = {split: shared / "data" / "lists" / f"Places_LT_{split}.txt.gz" for split in SPLITS}
    stand_ins = [tmp_path / f"{i}.jpg" for i in range(8)]
    for i, path in enumerate(stand_ins):
        path.write_bytes(jpeg(picture(i, 8, 8), quality=50))
    root = tmp_path / "root"
    for place, key in enumerate(paths(lists["val"])):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).symlink_to(stand_ins[place % len(stand_ins)])
    for split in ("train", "test"):  # a source looks at the first image of each list
        first = root / paths(lists[split])[0]
        first.parent.mkdir(parents=True, exist_ok=True)
        first.touch()
    return root, lists


def paths(file: Path) -> list[str]:
    with gzip.open(file, "rt") as lines:
        return [line.split()[0] for line in lines]


def test_places_lt(places: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    source = ImageList(*places)
    assert {split: len(listing.keys) for split, listing in source.splits.items()} == {
        "train": 62_500, "val": 7_300, "test": 36_500,
    }  # fmt: skip
    counts = {split: np.bincount(listing.labels) for split, listing in source.splits.items()}
    assert (len(source.class_names), counts["train"].max(), counts["train"].min()) == (365, 4980, 5)
    assert list(group_sizes(counts["train"]).values()) == [131, 163, 71]
    assert (counts["val"] == 20).all() and (counts["test"] == 100).all()
    assert source.class_names[0] == "airfield"


def test_a_list_of_places_lt_is_converted(places: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    """The val list, as train and as test."""
    root, lists = places
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    options = Conversion("places_lt", mean, std, "imagenet_lt_90")
    source = ImageList(root, {"train": lists["val"], "test": lists["val"]})
    dataset = Dataset(convert(source, options, tmp_path / "out"))
    keys = paths(lists["val"])
    for split in ("train", "test"):
        assert (dataset.split(split).counts == 20).all() and len(dataset.split(split)) == len(keys)
        for place in (0, len(keys) // 2, len(keys) - 1):
            assert dataset.key(split, place) == keys[place]
    assert not any(dataset.about["quarantined"].values())


def test_inaturalist_val(shared: Path, tmp_path: Path) -> None:
    file = shared / "data" / "lists" / "iNaturalist18_val.txt.gz"
    first = tmp_path / paths(file)[0]
    first.parent.mkdir(parents=True)
    first.touch()
    source = ImageList(tmp_path, {"train": file, "test": file})
    assert len(source.splits["test"].keys) == 24_426 and len(source.class_names) == 8142
    assert (np.bincount(source.splits["test"].labels) == 3).all()
