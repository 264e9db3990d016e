"""python tools/convert.py as a user calls it: each kind of source, and each kind of wrong input."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from commands import convert, refusal, refused
from conftest import jpeg, picture

from fastlt.convert.__main__ import main
from fastlt.shards.reader import Dataset


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """root/{train,test}/{a,b}/N.jpg, and lists of them: train.txt, test.txt."""
    for split, count in (("train", 4), ("test", 2)):
        lines = []
        for label, name in enumerate("ab"):
            folder = tmp_path / "root" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.jpg").write_bytes(jpeg(picture(i, 40, 50)))
                lines.append(f"{split}/{name}/{i}.jpg {label}")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


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
    done = convert("dataset=shapes", "out=out", "imbalance=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = Dataset(tmp_path / "out").split("train").counts
    assert counts.max() == 10 * counts.min()


def test_real_cifar100_lt(shared: Path, tmp_path: Path) -> None:
    archive = shared / "data" / "cifar-100-python.tar.xz"
    done = convert("dataset=cifar100_lt", f"source={archive}", "out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train 10,847 images, 500..5 per class" in done.stdout
    assert "classes: 35 many, 35 medium, 30 few" in done.stdout


def test_a_finished_dataset_is_kept(images: Path) -> None:
    assert convert(*LIST, cwd=images).returncode == 0
    before = (images / "out" / "dataset.json").read_bytes()
    assert "out=out is a finished dataset: choose another folder or add overwrite=true" in refused(
        convert(*LIST, cwd=images)
    )
    assert (images / "out" / "dataset.json").read_bytes() == before
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
        ("train/a/9.jpg 3", "class 2"),
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
    assert "bad image: root/train/b/2.jpg: image file is truncated" in done.stderr
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
        (("dataset=foo", "out=out"), "dataset=foo is unknown: allowed are cifar100_lt, cifar10_lt, image_folder"),
        (("dataset=cifar100_lt", "out=out"), "source is not given: dataset=cifar100_lt needs source=PATH"),
        (("dataset=cifar100_lt", "source=nowhere", "out=out"), "nowhere"),
        (("dataset=cifar100_lt", "source=cifar", "out=out"), "cifar"),
        (("dataset=image_list", "out=out"), "train is not given"),
        (("dataset=image_folder", "root=nowhere", "out=out"), "nowhere"),
        (("dataset=shapes",), "out is not given"),
        (("dataset=shapes", "out=out", "encode=foo"), "encode=foo is unknown: allowed are keep, jpeg, png, raw"),
        (("dataset=shapes", "out=out", "imbalance=0"), "imbalance=0"),
        (("dataset=shapes", "out=out", "workers=-1"), "workers=-1"),
        (("dataset=shapes", "out=out", "foo=1"), "unknown key foo: allowed are dataset, out, source"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "cifar" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({"data": np.zeros(3), "labels": Malicious()}))
    assert message in refusal(main, *arguments, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar"]
