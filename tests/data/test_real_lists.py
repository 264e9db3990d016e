"""The authors' lists: Places-LT converted at its full size over stand-in pictures, iNaturalist's validation list."""

import gzip
import os
import shutil
from collections.abc import Iterator
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
def places(shared: Path, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """A root in which every path of Places-LT's lists is one of a few tiny pictures, and the lists."""
    lists = {split: shared / "data" / "lists" / f"Places_LT_{split}.txt.gz" for split in SPLITS}
    stand_ins = [tmp_path / f"{i}.jpg" for i in range(8)]
    for i, path in enumerate(stand_ins):
        path.write_bytes(jpeg(picture(i, 8, 8), quality=50))
    root = tmp_path / "root"
    made = set()
    for place, key in enumerate(key for path in lists.values() for key in paths(path)):
        name = f"{root}/{key}"
        folder = name.rpartition("/")[0]
        if folder not in made:
            Path(folder).mkdir(parents=True)
            made.add(folder)
        os.symlink(stand_ins[place % len(stand_ins)], name)  # noqa: PTH211 - 106,300 of them
    yield root, lists
    shutil.rmtree(tmp_path)  # hundreds of megabytes that pytest would keep


def paths(file: Path) -> list[str]:
    with gzip.open(file, "rt") as lines:
        return [line.split()[0] for line in lines]


def test_places_lt(places: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    root, lists = places
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    options = Conversion("places_lt", mean, std, "imagenet_lt_90")
    dataset = Dataset(convert(ImageList(root, lists), options, tmp_path / "out"))
    assert {split: len(dataset.split(split)) for split in SPLITS} == {"train": 62_500, "val": 7_300, "test": 36_500}
    counts = dataset.split("train").counts
    assert (dataset.classes, counts.max(), counts.min()) == (365, 4980, 5)
    assert list(group_sizes(counts).values()) == [131, 163, 71]
    assert (dataset.split("val").counts == 20).all() and (dataset.split("test").counts == 100).all()
    for split, file in lists.items():
        keys = paths(file)
        for place in (0, len(keys) // 2, len(keys) - 1):
            assert dataset.key(split, place) == keys[place]
    assert dataset.class_names[0] == "airfield" and not any(dataset.about["quarantined"].values())


def test_inaturalist_val(shared: Path, tmp_path: Path) -> None:
    file = shared / "data" / "lists" / "iNaturalist18_val.txt.gz"
    first = tmp_path / paths(file)[0]
    first.parent.mkdir(parents=True)
    first.touch()
    source = ImageList(tmp_path, {"train": file, "test": file})
    assert len(source.splits["test"].keys) == 24_426 and len(source.class_names) == 8142
    assert (np.bincount(source.splits["test"].labels) == 3).all()
