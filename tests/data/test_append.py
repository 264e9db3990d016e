"""append=true: a dataset grows by new shards, and its old ones stay byte for byte, whatever ends the command."""

import contextlib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from fault_points import ended_before
from pictures import Pictures, conversion, files, jpeg, picture

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.convert import work_folder as work_folder_module
from fastlt.data.convert.append import Growth
from fastlt.data.convert.build import convert_configured
from fastlt.data.convert.config import ConvertConfig, DatasetConfig
from fastlt.data.convert.remove import remove
from fastlt.data.shards.encode import MAX_PIXELS
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.data.sources.base import Listing, Source

pytestmark = pytest.mark.usefixtures("small_shards")

OLD, NEW = Pictures(counts=(12, 6)), Pictures(counts=(12, 6, 9))  # a class more, with images in every split
OPTIONS = conversion(shard_mb=20)  # kilobytes: the unit is made small below


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return convert(OLD, OPTIONS, tmp_path / "out", workers=1)


def grow(out: Path, source: Source = NEW, max_bad: float = 0, workers: int = 1) -> Dataset:
    with contextlib.redirect_stderr(io.StringIO()), Growth(out, MAX_PIXELS, max_bad, workers) as growth:
        new = growth.new(source)
        if new is not None:
            growth.add(new)
    return Dataset(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_old_shards_stay_and_old_ids_and_labels_keep_their_meaning(workers: int, old: Path) -> None:
    before, first = files(old), Dataset(old)
    keys = {split: first.keys(split).tolist() for split in first.splits}
    dataset = grow(old, workers=workers)
    after = files(old)
    assert {name for name in before if before[name] != after[name]} == {"dataset.json", "index.h5"}
    for split in first.splits:  # the numbers go on after the last one
        numbers = sorted(int(name[-10:-4]) for name in after if name.startswith(split) and name.endswith(".tar"))
        assert numbers == list(range(len(numbers))) and f"{split}-{numbers[-1]:06d}.tar" not in before
    assert verify(old).findings == 0
    assert dataset.digest != first.digest and dataset.about["history"][0]["from"] == first.digest
    assert dataset.class_names == ["class 0", "class 1", "class 2"]
    whole = convert(NEW, conversion(), old.with_name("whole"), workers=1)
    for split, index in dataset.splits.items():
        was, other = first.split(split), Dataset(whole).split(split)
        assert np.array_equal(index.label[: len(was)], was.label)
        assert dataset.keys(split)[: len(was)].tolist() == keys[split]
        assert sorted(dataset.keys(split).tolist()) == sorted(Dataset(whole).keys(split).tolist())
        assert np.array_equal(index.counts, other.counts) and list(dataset.splits) == list(first.splits)
        assert sorted(index.crc32.tolist()) == sorted(other.crc32.tolist())


def test_nothing_is_added_twice(old: Path) -> None:
    grow(old)
    once = files(old)
    grow(old)
    assert files(old) == once
    assert not old.with_name("out.partial").exists()
    grow(old, Pictures(counts=(12, 6, 9, 2)))
    assert verify(old).findings == 0
    history = Dataset(old).about["history"]
    assert [(step["classes"], step["numbers"]["train"], step["added"]["train"]) for step in history] == [
        (2, 18, 9),
        (3, 27, 2),
    ]


def test_a_split_that_is_new_comes_in_its_usual_place(tmp_path: Path) -> None:
    source = Pictures(counts=(4, 2))
    del source.splits["val"]
    convert(source, OPTIONS, tmp_path / "out", workers=1)
    dataset = grow(tmp_path / "out", Pictures(counts=(4, 2)))
    assert list(dataset.splits) == ["train", "val", "test"] and len(dataset.split("val")) == 6
    assert verify(tmp_path / "out").findings == 0


def changed(source: Pictures, split: str, keys: list[str], labels: list[int]) -> Pictures:
    source.splits[split] = Listing(keys, np.array(labels))
    return source


def test_another_image_or_label_under_a_key_is_refused(old: Path) -> None:
    before = files(old)
    keys = [f"train/größe {i}.jpg" for i in range(18)]
    swapped = changed(Pictures(counts=(12, 6)), "train", [keys[1], keys[0], *keys[2:]], [0] * 12 + [1] * 6)
    with pytest.raises(UserError, match=r"größe 1.jpg is another image than .*größe 1.jpg, which .* has in train"):
        grow(old, swapped)
    moved = changed(Pictures(counts=(12, 6)), "train", keys, [0] * 11 + [1] * 7)
    with pytest.raises(UserError, match=r"größe 11.jpg is of class 'class 1', but .* of class 'class 0' in train"):
        grow(old, moved)
    elsewhere = changed(Pictures(counts=(12, 6)), "test", [keys[1]], [0])  # same name, other image, other split
    with pytest.raises(UserError, match="is another image than"):
        grow(old, elsewhere)
    assert files(old) == before and not old.with_name("out.partial").exists()


def test_an_image_of_any_split_is_known(old: Path) -> None:
    """Images of val and test that are offered for training must not get there."""
    everything = Pictures(counts=(12, 6))
    listing = [(split, i) for split in everything.splits for i in range(len(everything.splits[split].keys))]

    class Flat(Pictures):
        def load(self, split: str, index: int) -> bytes | np.ndarray:
            return everything.load(*listing[index])

    flat = Flat()
    keys = [everything.splits[split].keys[i] for split, i in listing]
    labels = np.array([everything.splits[split].labels[i] for split, i in listing])
    object.__setattr__(flat, "class_names", everything.class_names)
    object.__setattr__(flat, "splits", {"train": Listing(keys, labels)})
    before = files(old)
    grow(old, flat)
    assert files(old) == before


def test_what_cannot_be_added_is_told_and_changes_nothing(old: Path) -> None:
    before = files(old)
    with pytest.raises(UserError, match=r"there is no dataset in out=.*other to add to"):
        grow(old.with_name("other"))
    assert not old.with_name("other.partial").exists()
    numbered = Pictures(counts=(12, 6, 9))
    object.__setattr__(numbered, "class_names", ["0", "1", "2"])
    with pytest.raises(UserError, match=r"only numbers, from 0 to 2, .* such as 'class 0': .*class_names=FILE"):
        grow(old, numbered)
    with pytest.raises(UserError, match="does not decode"):
        grow(old, Pictures(counts=(12, 6, 9), broken=(("train", 20),)))
    only_test = Pictures(counts=(12, 6, 9))
    only_test.splits["train"] = OLD.splits["train"]
    with pytest.raises(UserError, match="class 'class 2' has no training image and is new"):
        grow(old, only_test)
    assert files(old) == before
    dataset = grow(old, Pictures(counts=(12, 6, 9), broken=(("train", 20),)), max_bad=1)
    assert [row["key"] for row in dataset.about["quarantined"]["train"]] == ["train/größe 20.jpg"]
    assert verify(old).findings == 0


SMALL, MORE = Pictures(counts=(1,)), Pictures(counts=(1, 1))


def killed(out: Path, number: int, start: str) -> bool:
    """An addition in a child process, killed at a fault point after `start`; whether it ended before it came there."""
    return ended_before(lambda: grow(out, MORE), number, start)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("links", "start", "step"), [(True, "write_content", 1), (False, "recover", 5)])
def test_killed_at_any_moment_it_is_the_old_or_the_new_one(
    links: bool, start: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    if not links:  # as on a file system that has no hard links

        def refuse(path: Path, target: Path) -> None:
            raise OSError(work_folder_module.errno.EPERM, "no links")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    old = convert(SMALL, OPTIONS, tmp_path / "old" / "out", workers=1)
    before = files(old)
    template = Path(shutil.copytree(old.parent, tmp_path / "template"))
    grow(old, MORE)
    after = files(old)
    number, seen = 1, set()
    while True:
        out = Path(shutil.copytree(template, tmp_path / f"{number}")) / "out"
        ended = killed(out, number, start)
        now = files(out)
        assert now in (before, after)
        seen.add((now == after, (out.parent / "out.partial").exists()))
        grow(out, MORE)
        assert files(out) == after and not (out.parent / "out.partial").exists()
        shutil.rmtree(out.parent)
        if ended:
            break
        number += step
    assert number > 40 and len(seen) >= 3


def test_a_reader_of_the_old_dataset_keeps_it(old: Path) -> None:
    opened = Dataset(old)
    image = opened.data("train", 3).tobytes()
    grow(old)
    assert opened.data("train", 3).tobytes() == image and opened.classes == 2


def convert_command(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run("-m", "fastlt.convert", *arguments, "workers=1", cwd=cwd)
    assert done.returncode == code, done.stderr
    return done


def folder(root: Path, classes: dict[str, range]) -> None:
    for name, images in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in images:
            (root / name / f"{i}.jpg").write_bytes(jpeg(picture(i + 1000 * len(name), 50, 60)))


def test_the_command(tmp_path: Path) -> None:
    """The same folder, grown: what is there is skipped, the rest is for training unless the command divides it."""
    folder(tmp_path / "photos", {"cat": range(20), "horse": range(10)})
    convert_command("photos", "out=data", cwd=tmp_path)
    first = Dataset(tmp_path / "data")
    folder(tmp_path / "photos", {"ant": range(5), "cat": range(20, 24)})
    told = convert_command("photos", "append=True", "out=data", cwd=tmp_path)  # as Hydra also writes it
    assert "30 images are in data already and are skipped, such as cat/0.jpg" in told.stderr
    assert "added to data: train 9, and 1 class after the old ones: ant" in told.stderr
    dataset = Dataset(tmp_path / "data")
    assert dataset.class_names == ["cat", "horse", "ant"]
    assert len(dataset.split("train")) == len(first.split("train")) + 9
    folder(tmp_path / "more", {"horse": range(100, 120)})
    told = convert_command("more", "append=true", "test=0.5", "out=data", cwd=tmp_path)
    assert "added to data: train 10, test 10" in told.stderr
    assert len(Dataset(tmp_path / "data").split("test")) == len(first.split("test")) + 10
    told = convert_command("more", "append=true", "quality=50", "out=data", cwd=tmp_path, code=2)
    assert told.stderr.splitlines()[-1] == (
        "error: quality=50: append=true stores new images as the dataset's, with quality=90; leave the key out"
    )
    steps = json.loads((tmp_path / "data" / "dataset.json").read_text())["history"]
    assert [step["added"] for step in steps] == [{"train": 9}, {"train": 10, "test": 10}]


def test_an_interrupted_addition_does_not_take_the_place_of_another_dataset(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_folder_module, "put_in_place", None)
    with pytest.raises(TypeError):
        grow(old)
    monkeypatch.undo()
    monkeypatch.setattr("fastlt.data.convert.engine.SHARD_UNIT", 1000)
    old.rename(old.with_name("before"))
    convert(Pictures(counts=(5,)), OPTIONS, old.with_name("other"), workers=1).rename(old)
    another = files(old)
    with pytest.raises(UserError, match=r"holds what another dataset in .*out was to become: move .*out away"):
        grow(old)
    assert files(old) == another
    old.rename(old.with_name("other"))
    assert Dataset(old.with_name("before")).digest in [step["from"] for step in grow(old).about["history"]]


def test_other_images_do_not_cost_the_shards_of_an_interrupted_addition(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("fastlt.data.convert.append.near_duplicates", None)  # what comes after the shards
        with pytest.raises(TypeError):
            grow(old)
    done = files(old.with_name("out.partial") / "dataset")
    told = r"out.partial holds \d+ shards of an unfinished conversion .*: give its command again to go on, or remove"
    with pytest.raises(UserError, match=told):
        grow(old, Pictures(counts=(12, 6, 9, 2)))
    with pytest.raises(UserError, match=told):
        remove([str(Dataset(old).keys("train")[0], "utf-8")], old)
    assert done and files(old.with_name("out.partial") / "dataset") == done
    assert grow(old).classes == 3


def test_classes_that_look_the_same_are_refused(tmp_path: Path) -> None:
    composed, decomposed = Pictures(counts=(4,)), Pictures(counts=(4, 2))
    object.__setattr__(composed, "class_names", ["K\u00e4fer"])
    object.__setattr__(decomposed, "class_names", ["K\u00e4fer", "Ka\u0308fer"])
    convert(composed, OPTIONS, tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="look the same but are spelled"):
        grow(tmp_path / "out", decomposed)


def test_an_image_that_was_bad_before_is_added_once_it_is_mended(tmp_path: Path) -> None:
    def bad(dataset: Dataset) -> dict[str, list[str]]:
        return {split: [row["key"] for row in rows] for split, rows in dataset.about["quarantined"].items()}

    broken = (("train", 3), ("val", 0))
    out = convert(Pictures(counts=(6,), broken=broken), conversion(shard_mb=20, max_bad=2), tmp_path / "out", workers=1)
    listed = {"train": ["train/größe 3.jpg"], "val": ["val/größe 0.jpg"]}
    for images in (6, 7, 8):
        dataset = grow(out, Pictures(counts=(images,), broken=broken))
        assert len(dataset.split("train")) == images - 1 and bad(dataset) == listed
    added = Pictures(counts=(9,), broken=broken)
    added.splits["val"].keys.append("val/größe 3.jpg")  # a new image of val, and it is bad
    added.splits["val"] = Listing(added.splits["val"].keys, np.zeros(4, np.int64))
    object.__setattr__(added, "broken", (*broken, ("val", 3)))
    dataset = grow(out, added, max_bad=1)
    assert bad(dataset) == {"train": ["train/größe 3.jpg"], "val": ["val/größe 0.jpg", "val/größe 3.jpg"]}
    dataset = grow(out, Pictures(counts=(9,), broken=(("val", 0),)))
    assert bad(dataset) == {"val": ["val/größe 0.jpg", "val/größe 3.jpg"]} and verify(out).findings == 0
    assert b"train/gr\xc3\xb6\xc3\x9fe 3.jpg" in dataset.keys("train").tolist()


def test_new_images_of_a_group_go_to_the_split_of_the_group(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def table(numbers: range) -> None:
        rows = [(f"{patient}_{n}.jpg", "ab"[n % 2], f"P{patient}") for patient in range(8) for n in numbers]
        for name, *_ in rows:
            (tmp_path / name).write_bytes(jpeg(picture(int(name[0]) * 10 + int(name[2]), 40, 40)))
        lines = [",".join(row) for row in (("path", "label", "patient"), *rows)]
        (tmp_path / "all.csv").write_text("\n".join(lines))

    keys = {"root": tmp_path, "test": 0.25, "workers": 1}
    for out, group_by in ((tmp_path / "columns", "patient"), (tmp_path / "paths", r"(\d+)_")):
        table(range(3))
        fastlt.write_dataset(tmp_path / "all.csv", out, group_by=group_by, **keys)
        table(range(3 if out.name == "columns" else 0, 8))  # groups of a column are known without its old rows
        dataset = fastlt.write_dataset(tmp_path / "all.csv", out, group_by=group_by, append=True, **keys)
        assert "tells no group" not in capsys.readouterr().err
        patients = {split: {key[:1] for key in dataset.keys(split).tolist()} for split in dataset.splits}
        assert not patients["train"] & patients["test"] and sum(map(len, patients.values())) == 8
        assert sum(len(index) for index in dataset.splits.values()) == 64
        of_patients = [b"P" + key[:1] if out.name == "columns" else key[:1] for key in dataset.keys("train").tolist()]
        names = dataset.group_names("train")
        assert names is not None and names.tolist() == of_patients and verify(out).findings == 0
    (tmp_path / "8_0.jpg").write_bytes(jpeg(picture(80, 40, 40)))
    (tmp_path / "all.csv").write_text("path,label\n8_0.jpg,a")
    dataset = fastlt.write_dataset(tmp_path / "all.csv", out, append=True, root=tmp_path, workers=1)
    assert "without group_by= the new ones have none: each is a group alone" in capsys.readouterr().err
    names = dataset.group_names("train")
    assert names is not None and names.tolist() == [*of_patients, b""] and verify(out).findings == 0


def test_new_images_of_a_group_need_no_shares_and_may_leave_none_for_train(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    def table(numbers: range, patients: list[int], split: str = "") -> None:
        rows = [f"{patient}_{n}.jpg,{'ab'[n % 2]},P{patient}" for patient in patients for n in numbers]
        for name in (row.partition(",")[0] for row in rows):
            (tmp_path / name).write_bytes(jpeg(picture(int(name[0]) * 10 + int(name[2]), 40, 40)))
        head = "path,label,patient" + (split and ",split")
        (tmp_path / "all.csv").write_text("\n".join([head, *(row + (split and f",{split}") for row in rows)]))

    def patients(dataset: fastlt.Dataset, split: str) -> list[int]:
        return sorted({int(key[:1]) for key in dataset.keys(split).tolist()})

    keys: dict[str, Any] = {"root": tmp_path, "group_by": "patient", "workers": 1}
    out = tmp_path / "out"
    table(range(2), list(range(8)))
    old = fastlt.write_dataset(tmp_path / "all.csv", out, test=0.25, **keys)
    test = patients(old, "test")
    table(range(2, 4), list(range(8)))  # and no shares
    grown = fastlt.write_dataset(tmp_path / "all.csv", out, append=True, **keys)
    assert patients(grown, "test") == test and not set(patients(grown, "train")) & set(test)
    table(range(4, 6), test)
    grown = fastlt.write_dataset(tmp_path / "all.csv", out, append=True, test=0.25, **keys)
    assert [len(grown.split(split)) for split in ("train", "test")] == [4 * (8 - len(test)), 6 * len(test)]
    capsys.readouterr()
    table(range(6, 8), test, "train")  # splits of the source are kept
    (tmp_path / "val.jpg").write_bytes(jpeg(picture(90, 40, 40)))
    (tmp_path / "all.csv").write_text((tmp_path / "all.csv").read_text() + "\nval.jpg,a,,val")
    grown = fastlt.write_dataset(tmp_path / "all.csv", out, append=True, **keys)
    assert patients(grown, "train") == list(range(8)) and verify(out).findings == 0
    assert f"such as 'P{test[0]}' in test" in capsys.readouterr().err


def test_shards_that_were_moved_and_linked_stay_linked(old: Path) -> None:
    (old.parent / "disk").mkdir()
    for path in sorted(old.glob("*.tar")):
        path.rename(old.parent / "disk" / path.name)
        path.symlink_to(Path("..") / "disk" / path.name)
    grow(old)
    assert verify(old).findings == 0 and (old / "train-000000.tar").is_symlink()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"append": True, "overwrite": True}, "overwrite=true: append=true keeps the dataset and adds to it"),
        ({"quality": 10}, "quality=10 is for encode=jpeg, not encode=keep: leave one of the two out"),
        ({"raw_fraction": 0.9}, "raw_fraction=0.9 is for encode=auto, not encode=keep: leave one of the two out"),
        ({"drop_duplicates": True, "part": "1/2"}, "part=1/2: drop_duplicates=true compares all images"),
    ],
)
def test_keys_that_would_have_no_effect_are_refused(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder(tmp_path / "photos", {"cat": range(2)})
    kind = DatasetConfig(name="photos", kind="image_folder", protocol="demo", mean=(0.5,) * 3, std=(0.2,) * 3)
    given = {"root": str(tmp_path / "photos"), "out": str(tmp_path / "out"), "test": "0", **keys}
    with pytest.raises(UserError, match=message):
        convert_configured(ConvertConfig(dataset=kind, **given))
