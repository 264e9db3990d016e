"""python tools/convert.py as a user calls it: each kind of source, and each kind of wrong input."""

import contextlib
import io
import json
import os
import pickle
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from commands import convert, refusal, refused
from pictures import jpeg, picture

from fastlt.convert import main
from fastlt.data.shards.reader import Dataset


def converted(*overrides: str, cwd: Path) -> tuple[Dataset, list[str]]:
    """The dataset in cwd/out and what was said on stderr. In this process, which spares the start of a new one."""
    err = io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["command", "out=out", "workers=1", *overrides]),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": ""}),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
    ):
        main()
    return Dataset(cwd / "out"), err.getvalue().splitlines()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """root/{train,test}/{a,b}/N.jpg, and lists of them: train.txt, test.txt."""
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for label, name in enumerate("ab"):
            folder = tmp_path / "root" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(jpeg(picture(100 * count + 10 * label + i, 70, 90)))
                lines.append(f"{split}/{name}/{i}.jpg {label}")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


LARGE = "protocol=imagenet_lt_90 is the default for training: the short side of the images has 70 pixels (median)"
LIST = ("dataset=image_list", "root=root", "train=train.txt", "test=test.txt", "out=out", "workers=1")


def test_image_list(images: Path) -> None:
    done = convert(*LIST, "dataset.name=letters", cwd=images)
    assert done.returncode == 0, done.stderr
    assert "letters: 2 classes" in done.stdout
    dataset = Dataset(images / "out")
    assert (dataset.name, dataset.class_names) == ("letters", ["a", "b"])
    assert dataset.key("train", 5) == "train/b/1.jpg"


def test_image_folder(images: Path) -> None:
    done = convert("dataset=image_folder", "root=root", "out=out", "encode=jpeg", "quality=80", "workers=2", cwd=images)
    assert done.returncode == 0, done.stderr
    dataset = Dataset(images / "out")
    assert dataset.class_names == ["a", "b"]
    assert len(dataset.split("train")), len(dataset.split("test")) == (8, 4)


def test_shapes(tmp_path: Path) -> None:
    done = convert("dataset=shapes", "out=out", "classes=2", "imbalance=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = Dataset(tmp_path / "out").split("train").counts
    assert counts.max() == 10 * counts.min()


def test_csv(images: Path) -> None:
    """Splits in a column, names with blanks, commas and letters beyond ASCII."""
    (images / "root" / "größe, 1.jpg").write_bytes(jpeg(picture(7, 70, 70)))
    rows = ["label,path,split", 'Kauz,"größe, 1.jpg",train', "Igel,train/a/0.jpg,train", "Igel,test/a/0.jpg,test"]
    (images / "table.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    dataset, said = converted("dataset=csv", "root=root", "table=table.csv", cwd=images)
    assert dataset.class_names == ["Igel", "Kauz"] and said == [LARGE]
    assert dataset.key("train", 0) == "größe, 1.jpg" and dataset.split("train").label.tolist() == [1, 0]


def test_inaturalist_by_the_names_of_the_lists(images: Path) -> None:
    for split in ("train", "test"):
        names = [line.rsplit(" ", 1) for line in (images / f"{split}.txt").read_text().splitlines()]
        content = {
            "images": [{"id": i, "file_name": name} for i, (name, _) in enumerate(names)],
            "annotations": [{"image_id": i, "category_id": 7 * int(label)} for i, (_, label) in enumerate(names)],
            "categories": [{"id": 7, "name": "Strix aluco"}, {"id": 0, "name": "Erinaceus"}],
        }
        (images / f"{split}.json").write_text(json.dumps(content))
    lists = ("dataset=inaturalist2018", "root=root", "train=train.json", "test=test.json")
    dataset, _ = converted(*lists, cwd=images)
    assert (dataset.name, dataset.class_names) == ("inaturalist2018", ["Erinaceus", "Strix aluco"])
    assert dataset.split("train").counts.tolist() == [4, 4] and len(dataset.split("test")) == 4
    mixed = refusal(main, *lists[:3], "test=test.txt", "out=other", cwd=images)
    assert mixed.startswith("train=train.json, test=test.txt: some are .json, some are not")
    (images / "order.txt").write_text("Strix aluco\nErinaceus\n")
    ordered, _ = converted(*lists, "class_names=order.txt", "overwrite=true", cwd=images)
    assert ordered.class_names == ["Strix aluco", "Erinaceus"]
    assert ordered.split("train").label.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert "class_names lacks 'Erinaceus', 'Strix aluco': it must name each of the 2 classes once" in refusal(
        main, *lists, "class_names=test.txt", "out=other", cwd=images
    )


def test_class_names_for_folders(images: Path) -> None:
    (images / "order.json").write_text('{"b": 0, "a": 1}')
    dataset, _ = converted("dataset=image_folder", "root=root", "class_names=order.json", cwd=images)
    assert dataset.class_names == ["b", "a"] and dataset.key("test", 0) == "test/a/0.jpg"
    assert dataset.split("test").label.tolist() == [1, 1, 0, 0]
    (images / "order.json").write_text('{"b": 0, "cat": 1}')
    assert "class_names lacks 'a'" in refusal(
        main, "dataset=image_folder", "root=root", "class_names=order.json", "out=other", cwd=images
    )


def split_keys(dataset: Dataset) -> dict[str, list[str]]:
    return {name: [dataset.key(name, k) for k in range(len(split))] for name, split in dataset.splits.items()}


def test_a_folder_per_class_is_divided(images: Path) -> None:
    """The same for any number of workers; another seed gives other images, and as many."""
    command = ("dataset=image_folder", "root=root/train", "split=0.5,0.25,0.25", "overwrite=true")
    dataset, said = converted(*command, cwd=images)
    assert {name: split.counts.tolist() for name, split in dataset.splits.items()} == {
        "train": [2, 2],
        "val": [1, 1],
        "test": [1, 1],
    }
    assert said == ["divided 8 images into train 4, val 2, test 2 (class by class, seed=0)", LARGE]
    first = split_keys(dataset)
    assert sorted(key for keys in first.values() for key in keys) == [f"{c}/{k}.jpg" for c in "ab" for k in range(4)]
    digest = dataset.digest
    assert converted(*command, "workers=3", cwd=images)[0].digest == digest
    other = split_keys(converted(*command, "seed=1", cwd=images)[0])
    assert other != first and {name: len(keys) for name, keys in other.items()} == {"train": 4, "val": 2, "test": 2}


def test_groups_and_shares_of_single_splits(images: Path) -> None:
    rows = [f"train/{name}/{k}.jpg;{name};{'pq'[k // 2]}{name}" for name in "ab" for k in range(4)]
    (images / "table.csv").write_text("\n".join(["image;class;patient", *rows]))
    command = ("dataset=csv", "root=root", "table=table.csv", "test=0.5", "overwrite=true")
    keys = split_keys(converted(*command, "group_by=patient", cwd=images)[0])
    assert {name: {key[:7] + "pq"[int(key[8]) // 2] for key in own} for name, own in keys.items()} in (
        {
            "train": {f"train/a{p}", f"train/b{q}"},
            "test": {f"train/a{'qp'['pq'.index(p)]}", f"train/b{'qp'['pq'.index(q)]}"},
        }
        for p in "pq"
        for q in "pq"
    )
    folder = ("dataset=image_folder", "root=root", "val=0.25", "name=mine", "overwrite=true")
    dataset, _ = converted(*folder, cwd=images)
    assert {name: split.counts.tolist() for name, split in dataset.splits.items()} == {
        "train": [3, 3],
        "val": [1, 1],
        "test": [2, 2],
    }
    assert dataset.name == "mine"
    assert "test=0.2: there is a test split already" in refusal(main, *folder, "test=0.2", "out=other", cwd=images)
    without, _ = converted("dataset=image_folder", "root=root/train", "test=0", "overwrite=true", cwd=images)
    assert list(without.splits) == ["train"]


def test_long_tails(images: Path) -> None:
    lists = [argument for argument in LIST if "=out" not in argument and "workers" not in argument]
    dataset, said = converted(*lists, "long_tail=exponential", "imbalance=4", cwd=images)
    assert dataset.split("train").counts.tolist() == [4, 1] and said == [LARGE]
    assert dataset.split("test").counts.tolist() == [2, 2]
    folder = ("dataset=image_folder", "root=root", "overwrite=true")
    dataset, _ = converted(*folder, "long_tail=pareto", "imbalance=4", "minimum=2", "head=first", cwd=images)
    assert dataset.split("train").counts.tolist() == [4, 2]
    source = json.loads((images / "out" / "dataset.json").read_text())["source"]
    law = {"law": "pareto", "imbalance": 4, "seed": 0, "minimum": 2, "alpha": 6, "head": "first"}
    assert source == {"kind": "LongTail", **law, "source": {"kind": "ImageFolder"}, "sha256": source["sha256"]}


def test_an_image_in_two_splits_is_named(images: Path) -> None:
    with (images / "test.txt").open("a") as file:
        file.write("train/a/./0.jpg 0\ntrain/b/1.jpg 0\n")
    dataset, said = converted(*LIST[:-2], cwd=images)
    assert said == [
        "note: 2 images are in train and in test, under the same path",
        "note: 2 images of test look like images of earlier splits, such as train/a/0.jpg like train/a/0.jpg of train; "
        "drop_duplicates=true leaves them out",
        LARGE,
    ]
    assert len(dataset.split("test")) == 6


def test_files_that_cannot_be_read_are_bad_images(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images / "root" / "train" / "a"
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "secret.jpg").write_bytes(b"")
    names = ("loop", "gone", "folder", "secret")
    with (images / "train.txt").open("a") as file:
        file.writelines(f"train/a/{name}.jpg 0\n" for name in names)
    read = Path.read_bytes

    def locked(path: Path) -> bytes:
        if path.name == "secret.jpg":  # whoever runs the tests may be allowed to read everything
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", locked)
    dataset, said = converted(*LIST[:-2], "max_bad=4", cwd=images)
    reasons = [(bad["key"], bad["reason"]) for bad in dataset.about["quarantined"]["train"]]
    assert reasons == [
        ("train/a/loop.jpg", "Too many levels of symbolic links"),
        ("train/a/gone.jpg", "No such file or directory"),
        ("train/a/folder.jpg", "Is a directory"),
        ("train/a/secret.jpg", "Permission denied"),
    ]
    assert said[0] == "bad image: root/train/a/loop.jpg: Too many levels of symbolic links"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "train/a/0.jpg,a,train\ntest/b/0.jpg,b,test",
            "line 3: 'test/b/0.jpg,b,test': class 'b' has no training image",
        ),
        ("train/a/0.jpg,a,train", "there are no test images, which a training needs: add split=0.7,0.1,0.2"),
        ("train/a/0.jpg,a,rest", "line 2: 'train/a/0.jpg,a,rest': unknown split 'rest'; allowed: train, val, test"),
        ("train/a/0.jpg,a,dev", "table.csv: no row for training"),
        ("train/a/0.jpg,a,train\ntrain/a/0.jpg,a,train", "already listed in line 2"),
    ],
)
def test_wrong_tables_are_refused(images: Path, rows: str, message: str) -> None:
    (images / "table.csv").write_text(f"path,label,split\n{rows}\n")
    assert message in refusal(main, "dataset=csv", "root=root", "table=table.csv", "out=out", cwd=images)


def test_real_cifar100_lt(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "cifar-100-python.tar.xz"
    done = convert("dataset=cifar100_lt", f"source={archive}", "out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train 10,847 images, 500..5 per class" in done.stdout
    assert "classes: 35 many, 35 medium, 30 few" in done.stdout


def test_a_finished_dataset_is_kept(images: Path) -> None:
    assert convert(*LIST, cwd=images).returncode == 0
    before = (images / "out" / "dataset.json").read_bytes()
    inodes = [path.stat().st_ino for path in sorted((images / "out").iterdir())]
    again = convert(*LIST, cwd=images)
    assert again.returncode == 0 and "out is finished: these images were converted with these options" in again.stderr
    assert "out=out is a finished dataset: choose another folder or add overwrite=true" in refused(
        convert(*LIST, "shard_mb=1", cwd=images)
    )
    assert (images / "out" / "dataset.json").read_bytes() == before
    assert [path.stat().st_ino for path in sorted((images / "out").iterdir())] == inodes
    assert convert(*LIST, "overwrite=true", cwd=images).returncode == 0
    assert json.loads((images / "out" / "dataset.json").read_bytes()) == json.loads(before)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train/a/0.jpg", "line 9"),
        ("train/a/0.jpg one", "line 9"),
        ("train/a/9.jpg -1", "line 9"),
        ("../a.jpg 1", "line 9"),
        ("/etc/hostname 1", "line 9"),
        ("train/a/9.jpg 3", "class 2 has no training image; labels count from 0 without gaps"),
        ("train/b/0.jpg 0", "line 9: 'train/b/0.jpg 0': already listed in line 5"),
        ("train/a/9.jpg 1", "train/a/9.jpg does not decode (No such file or directory)"),
    ],
)
def test_wrong_lists_are_refused(images: Path, line: str, message: str) -> None:
    with (images / "train.txt").open("a") as file:
        file.write(line + "\n")
    assert message in refusal(main, *LIST, cwd=images)
    assert not [path for path in images.iterdir() if path.name.startswith("out")]


def test_an_image_that_does_not_decode_is_refused(images: Path) -> None:
    broken = images / "root" / "train" / "b" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:700])
    done = convert(*LIST, cwd=images)
    said = done.stderr.splitlines()
    assert said[0].startswith("bad image: root/train/b/2.jpg: ") and "truncated" in said[0]
    assert done.returncode == 2
    assert "train image train/b/2.jpg does not decode" in done.stderr.splitlines()[-1]
    assert not [path for path in images.iterdir() if path.name.startswith("out")]
    assert convert(*LIST, "max_bad=1", cwd=images).returncode == 0
    assert Dataset(images / "out").about["quarantined"]["train"][0]["key"] == "train/b/2.jpg"


class Malicious:
    """A pickle of it would run a command."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out=out",), "dataset is not given: add dataset=NAME"),
        (("dataset=foo", "out=out"), "dataset=foo is unknown: allowed are cifar100_lt, cifar10_lt, csv, image_folder"),
        (("dataset=cifar100_lt", "out=out"), "source is not given: dataset=cifar100_lt needs source=PATH"),
        (("dataset=cifar100_lt", "source=nowhere", "out=out"), "nowhere"),
        (("dataset=cifar100_lt", "source=cifar", "out=out"), "cifar"),
        (("dataset=image_list", "out=out"), "train is not given"),
        (("dataset=image_folder", "root=nowhere", "out=out"), "nowhere"),
        (("dataset=image_folder", "root=.", "out=out", "imbalance=9"), "imbalance=9 needs a law: add long_tail="),
        (
            ("dataset=shapes", "long_tail=pareto", "out=out"),
            "long_tail=pareto is not for dataset=shapes: its keys are classes, ",
        ),
        (("dataset=shapes", "out=out", "classes=40"), "classes=40 is not in 2..36"),
        (
            ("dataset=cifar10_lt", "source=cifar", "classes=5", "out=out"),
            "classes=5 is not for dataset=cifar10_lt: its keys",
        ),
        (("dataset=csv", "root=.", "out=out"), "table is not given: dataset=csv needs table=PATH"),
        (
            ("dataset=csv", "root=.", "train=x.csv", "out=out"),
            "train=x.csv is not for dataset=csv: its keys are root, t",
        ),
        (
            ("dataset=image_folder", "root=.", "table=x.csv", "out=out"),
            "table=x.csv is not for dataset=image_folder: its",
        ),
        (
            ("dataset=image_folder", "root=.", "source=x", "out=out"),
            "source=x is not for dataset=image_folder: its keys",
        ),
        (
            ("dataset=image_folder", "root=.", "test=x.txt", "out=out"),
            "test=x.txt: with dataset=image_folder this is a ",
        ),
        (("dataset=image_folder", "root=.", "alpha=2", "out=out"), "alpha=2 needs a law: add long_tail="),
        (("dataset=image_folder", "root=.", "seed=2", "out=out"), "seed=2 needs something to draw: add split="),
        (("dataset=image_folder", "root=.", "selection=ldam", "out=out"), "selection=ldam is not for dataset=image"),
        (("dataset=image_list", "root=.", "path_column=x", "out=out"), "path_column=x is not for dataset=image_list: "),
        (("dataset=shapes",), "out is not given"),
        (("dataset=shapes", "out=out", "encode=foo"), "encode=foo is unknown: allowed are keep, jpeg, png, raw"),
        (("dataset=shapes", "out=out", "imbalance=0"), "imbalance=0"),
        (("dataset=shapes", "out=out", "workers=-1"), "workers=-1"),
        (("dataset=shapes", "out=out", "foo=1"), "unknown key foo: allowed are dataset, out, name, source"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({"data": np.zeros(3), "labels": Malicious()}))
    assert message in refusal(main, *arguments, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar"]
