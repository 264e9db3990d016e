"""remove=LIST: images are withdrawn, their bytes are gone, and other shards stay byte for byte."""

import contextlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from commands import run
from fault_points import ended_before
from pictures import Pictures, conversion, files

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.convert.append import Growth
from fastlt.data.convert.remove import read_list, remove
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.describe import describe, page
from fastlt.data.shards.encode import MAX_PIXELS
from fastlt.data.shards.history import hashed, ids_since, numbers
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.longtail.sampler import InOrder

pytestmark = pytest.mark.usefixtures("small_shards")

SOURCE = Pictures(counts=(12, 6))
OPTIONS = conversion(shard_mb=20)  # kilobytes: the unit is made small below
GONE = ["train/größe 2.jpg", "train/größe 17.jpg", "test/größe 0.jpg"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return convert(SOURCE, OPTIONS, tmp_path / "out", workers=1)


def withdraw(out: Path, names: list[str]) -> Dataset:
    with contextlib.redirect_stderr(io.StringIO()):
        remove(names, out)
    return Dataset(out)


def stored(dataset: Dataset) -> dict[str, bytes]:
    """{key: bytes of the image} of a whole dataset."""
    return {
        key.decode(): dataset.data(split, row).tobytes()
        for split in dataset.splits
        for row, key in enumerate(dataset.keys(split).tolist())
    }


def test_the_images_are_gone_and_nothing_else(out: Path) -> None:
    first, before = Dataset(out), files(out)
    images = stored(first)
    dataset = withdraw(out, GONE)
    after = files(out)
    assert verify(out).findings == 0 and dataset.digest != first.digest
    left = {key: data for key, data in images.items() if key not in GONE}
    assert stored(dataset) == left
    for key in GONE:
        assert not any(images[key] in data or key.encode() in data for data in after.values())
        assert not any(images[key][100:200] in data for data in after.values())
    touched = {
        first.shards[first.splits[split].shard[row]].stem
        for split in first.splits
        for row, key in enumerate(SOURCE.splits[split].keys)
        if key in GONE
    }
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {f"{stem}.{end}" for stem in touched for end in ("tar", "idx")} | {"dataset.json", "index.h5"}
    assert set(after) == set(before)
    assert {index.class_members.size for index in dataset.splits.values()} == {16, 6, 5}
    assert dataset.split("train").counts.tolist() == [11, 5]
    step = dataset.about["history"][0]
    assert step["removed"] == {"train": [2, 17], "test": [0]} and step["keys"] == sorted(map(hashed, GONE))


def test_other_readers_find_the_shards_whole(out: Path) -> None:
    dataset = withdraw(out, GONE)
    names = set()
    for shard in dataset.shards:
        with tarfile.open(shard) as tar:
            names |= set(tar.getnames()) if shard.name.startswith("train") else set()
    assert names == {f"{number:09d}.{end}" for number in range(18) if number not in (2, 17) for end in ("jpg", "cls")}
    assert numbers(dataset.about, "train").tolist() == [number for number in range(18) if number not in (2, 17)]


def test_the_loader_draws_what_is_left(out: Path) -> None:
    dataset = withdraw(out, GONE)
    ids = dataset.split("train").class_members
    with Loader(dataset, "train", InOrder(ids), Augment(24), 4, threads=1) as loader:
        drawn = np.concatenate([batch.ids for batch in loader.epoch()])
    assert np.array_equal(np.sort(drawn), np.arange(16))
    facts = describe(dataset)
    assert facts["history"][0]["images"] == {"train": 2, "test": 1}
    assert "removed 3 images (train 2, test 1) from " in page(facts)


def test_a_shard_without_images_left_goes(out: Path) -> None:
    first = Dataset(out)
    inside = [key for row, key in enumerate(SOURCE.splits["train"].keys) if first.split("train").shard[row] == 1]
    dataset = withdraw(out, inside)
    assert not (out / "train-000001.tar").exists() and not (out / "train-000001.idx").exists()
    assert len(dataset.shards) == len(first.shards) - 1 and verify(out).findings == 0
    assert len(dataset.split("train")) == 18 - len(inside)


def test_removed_and_added_and_removed(out: Path) -> None:
    """Numbers are never given again; ids of earlier states lead to the present ones."""
    first = Dataset(out)
    second = withdraw(out, GONE)
    with contextlib.redirect_stderr(io.StringIO()) as told, Growth(out, MAX_PIXELS, 0, 1) as growth:
        new = growth.new(Pictures(counts=(12, 6, 3)))
        assert new is not None
        growth.add(new)
    assert "3 images were removed from" in told.getvalue() and "are not added again" in told.getvalue()
    third = withdraw(out, ["train/größe 18.jpg", "train/größe 0.jpg"])
    assert verify(out).findings == 0
    assert numbers(third.about, "train").tolist() == [1, *range(3, 17), 19, 20]
    assert ids_since(third.about, first.digest, "train").tolist() == [-1, 0, -1, *range(1, 15), -1]
    assert ids_since(third.about, second.digest, "train").tolist() == [-1, *range(15)]
    assert [name for name in stored(third) if name in GONE] == []


def test_what_cannot_be_removed_is_told_and_changes_nothing(out: Path, tmp_path: Path) -> None:
    before = files(out)
    for names, message in (
        ([GONE[0], "nobody.jpg", "noone.jpg"], r"'nobody.jpg' is no image of .*such as 'train/größe 0.jpg'"),
        ([f"train/größe {i}.jpg" for i in range(12)], "class class 0 would have no training image left"),
        ([f"val/größe {i}.jpg" for i in range(6)], "no image of val would be left"),
    ):
        with pytest.raises(UserError, match=message):
            withdraw(out, names)
    with pytest.raises(UserError, match="there is no dataset"):
        withdraw(tmp_path / "other", GONE)
    assert files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    (tmp_path / "list").write_text("\n \n")
    with pytest.raises(UserError, match="there is no name in it"):
        read_list(tmp_path / "list")


def test_the_same_list_again_changes_nothing(out: Path) -> None:
    withdraw(out, GONE)
    once = files(out)
    withdraw(out, GONE)
    assert files(out) == once
    withdraw(out, [*GONE, "/photos/train/größe 3.jpg"])  # a path that ends in a key
    assert len(Dataset(out).split("train")) == 15


def test_an_input_that_was_left_out_is_forgotten(tmp_path: Path) -> None:
    broken = Pictures(counts=(12, 6), broken=(("train", 4),))
    out = convert(broken, conversion(max_bad=1), tmp_path / "out", workers=1)
    name = "train/größe 4.jpg"
    assert name in (out / "dataset.json").read_text()
    withdraw(out, [name])
    assert name not in (out / "dataset.json").read_text() and verify(out).findings == 0


SMALL = Pictures(counts=(2, 1))


def killed(out: Path, number: int) -> bool:
    """A removal in a child process, killed at a fault point; whether it ended before it came there."""
    return ended_before(lambda: withdraw(out, ["train/größe 1.jpg"]), number, "recover")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_it_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    old = convert(SMALL, OPTIONS, tmp_path / "old" / "out", workers=1)
    before = files(old)
    template = Path(shutil.copytree(old.parent, tmp_path / "template"))
    withdraw(old, ["train/größe 1.jpg"])
    after = files(old)
    number, seen, ended = 1, set(), False
    while not ended:
        out = Path(shutil.copytree(template, tmp_path / f"{number}")) / "out"
        ended = killed(out, number)
        now = files(out)
        assert now in (before, after)
        seen.add((now == after, (out.parent / "out.partial").exists()))
        withdraw(out, ["train/größe 1.jpg"])
        assert files(out) == after and not (out.parent / "out.partial").exists()
        shutil.rmtree(out.parent)
        number += 2
    assert number > 40 and len(seen) >= 3


def test_the_command(out: Path) -> None:
    (out.parent / "list.txt").write_text("\n".join(GONE))
    done = run("-m", "fastlt.convert", "remove=list.txt", "out=out", cwd=out.parent)
    assert done.returncode == 0 and "removed 3 images from out (train 2, test 1)" in done.stderr
    assert "train 16 images" in done.stdout
    done = run("-m", "fastlt.convert", "remove=list.txt", "out=out", "append=true", cwd=out.parent)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: append=true: remove=LIST takes out=DIR alone, leave it out"


def test_a_name_that_was_removed_before_removes_no_image_of_a_shorter_name(tmp_path: Path) -> None:
    source = Pictures(counts=(6, 6))
    source.splits["train"].keys[3:5] = ["cat/cat/3.jpg", "cat/3.jpg"]
    out = convert(source, OPTIONS, tmp_path / "out", workers=1)
    for _ in range(2):
        withdraw(out, ["cat/cat/3.jpg"])
        assert len(Dataset(out).split("train")) == 11 and "cat/3.jpg" in stored(Dataset(out))
