"""What a path by itself is taken for."""

import io
import tarfile
from pathlib import Path

import pytest

from fastlt.core.errors import UserError
from fastlt.data.sources.guess import guessed


def touch(root: Path, *names: str, text: str = "x") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_folders_of_classes(tmp_path: Path) -> None:
    plain = touch(tmp_path / "plain", "cat/1.jpg", "dog/x/1.JPEG", "notes.txt")
    found = {"dataset": "image_folder", "root": str(plain), "split": "0.7,0.1,0.2"}
    assert guessed(plain) == found
    assert guessed(plain, ["val"]) == {"dataset": "image_folder", "root": str(plain)}
    unpacked = touch(tmp_path / "unpacked", "plain/cat/1.jpg", "plain/dog/1.jpg", "LICENSE")
    assert guessed(unpacked) == {**found, "root": str(unpacked / "plain")}
    deeper = touch(tmp_path / "deeper", "photos/2026/cat/1.jpg", "photos/2026/dog/1.jpg")
    assert guessed(deeper) == {**found, "root": str(deeper / "photos" / "2026")}
    one = touch(tmp_path / "one", "cat/1.jpg", "cat/x/2.jpg", "cat/y/2.jpg")
    assert guessed(one) == {**found, "root": str(one)}
    split = touch(tmp_path / "split", "Train/cat/1.jpg", "valid/cat/1.jpg")
    assert guessed(split) == {"dataset": "image_folder", "root": str(split)}


def test_tables(tmp_path: Path) -> None:
    table = touch(tmp_path, "labels.csv", text="img;class\na.jpg;x\n") / "labels.csv"
    keys = {"dataset": "csv", "root": str(tmp_path), "table": str(table)}
    assert guessed(table) == {**keys, "split": "0.7,0.1,0.2"}
    assert guessed(table, ["root", "test"]) == {"dataset": "csv", "table": str(table)}
    touch(tmp_path, "images/a.jpg")
    assert guessed(tmp_path) == {**keys, "split": "0.7,0.1,0.2"}
    table.write_text("img,class,split\na.jpg,x,train\n")
    assert guessed(table) == keys
    heaps = touch(tmp_path / "heaps", "train/1.jpg", "test/2.jpg")
    folders = {"dataset": "image_folder", "root": str(heaps)}
    assert guessed(heaps) == folders
    touch(heaps, "train.csv", text="path,label\ntrain/1.jpg,x\n")
    listed = {"dataset": "csv", "root": str(heaps), "table": str(heaps / "train.csv"), "split": "0.7,0.1,0.2"}
    assert guessed(heaps) == listed
    touch(heaps, "train/x/1.jpg")
    assert guessed(heaps) == folders
    parts = touch(tmp_path / "parts", "train.csv", "test.csv", "validation.csv", text="path,label\na.jpg,x\n")
    assert (
        guessed(parts)
        == guessed(parts / "train.csv")
        == {
            **{"dataset": "csv", "root": str(parts), "table": str(parts / "train.csv")},
            **{"val": str(parts / "validation.csv"), "test": str(parts / "test.csv")},
        }
    )


def test_lists_and_annotations(tmp_path: Path) -> None:
    names = ("lists/Places_LT_train.txt", "lists/Places_LT_val.txt", "lists/Places_LT_test.txt", "lists/Other_test.txt")
    touch(tmp_path, *names, text="train/a/1.jpg 0\n")
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    found = guessed(tmp_path / names[0])
    assert Path(found.pop("root")).resolve() == tmp_path.resolve()
    lists = [str(tmp_path / name) for name in names]
    assert found == {"dataset": "image_list", "train": lists[0], "val": lists[1], "test": lists[2]}
    single = touch(tmp_path / "a", "all.txt", "x/1.jpg", text="x\\1.jpg 0\n") / "all.txt"
    assert guessed(single) == {
        **{"dataset": "image_list", "root": str(single.parent), "train": str(single), "split": "0.7,0.1,0.2"}
    }
    json = touch(tmp_path / "j", "train2018.json", "val2018.json", text="{}")
    found = {"dataset": "image_list", "root": str(json), "train": str(json / "train2018.json")}
    assert guessed(json) == {**found, "val": str(json / "val2018.json")}


def test_cifar(tmp_path: Path) -> None:
    folder = touch(tmp_path, "cifar-100-python/train") / "cifar-100-python"
    assert guessed(folder) == {"dataset": "cifar100_lt", "source": str(folder)}
    assert guessed(tmp_path) == {"dataset": "cifar100_lt", "source": str(tmp_path)}
    for inside, end in (
        ("cifar-10-batches-py/data_batch_1", "tar.gz"),
        ("photos/1.jpg", "tgz"),
        ("photos/1.jpg", "tar"),
    ):
        path = tmp_path / f"{Path(inside).parent}.{end}"
        with tarfile.open(path, "w" if end == "tar" else "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(inside), io.BytesIO())
        if end == "tar.gz":
            assert guessed(path) == {"dataset": "cifar10_lt", "source": str(path)}
        elif end == "tar":
            assert guessed(path) == {"dataset": "webdataset", "source": str(path), "split": "0.7,0.1,0.2"}
        else:
            with pytest.raises(UserError, match=r"an archive, but not of CIFAR and no plain \.tar; unpack it and give"):
                guessed(path)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder; give a folder of images"):
        guessed(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a\.doc: files that end in \.doc are no source; give a folder"):
        guessed(touch(tmp_path, "a.doc") / "a.doc")
    touch(tmp_path, "train.txt", "val.txt", "valid.txt", text="a.jpg 0\n")
    with pytest.raises(UserError, match=r"val\.txt and valid\.txt may both be of the val split"):
        guessed(tmp_path / "train.txt")
