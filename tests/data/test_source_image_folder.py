"""Folders of images: layout, order, links and everything that is refused."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import features

from fastlt.core.errors import UserError
from fastlt.data.sources.image_folder import ImageFolder
from fastlt.data.sources.walk import image_extensions


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        ImageFolder(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_splits_classes_and_files(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "pets", "train/owl/2.jpg", "train/owl/1.png", "train/fox/b.jpg", "test/owl/9.jpg", "notes.txt"
    )
    touch(root, "val/fox/1.jpg", "val/owl/1.jpg", "train/readme.jpg")
    source = ImageFolder(root)
    assert source.name == "pets" and source.class_names == ["fox", "owl"]
    assert {split: listing.keys for split, listing in source.splits.items()} == {
        "train": ["train/fox/b.jpg", "train/owl/1.png", "train/owl/2.jpg"],
        "val": ["val/fox/1.jpg", "val/owl/1.jpg"],
        "test": ["test/owl/9.jpg"],
    }
    assert source.splits["train"].labels.tolist() == [0, 1, 1] and source.splits["train"].labels.dtype == np.int64
    assert source.splits["test"].labels.tolist() == [1]
    assert source.load("test", 0) == b"test/owl/9.jpg" and source.where("test", 0) == root / "test/owl/9.jpg"
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source and hash(copy) == hash(source) and copy.load("train", 0) == b"train/fox/b.jpg"
    assert list(ImageFolder(touch(tmp_path / "x", "train/a/1.jpg")).splits) == ["train"]


def test_extensions_in_any_case_and_nothing_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ends = sorted(image_extensions())
    assert {".jfif", ".jpe", ".jif", ".pgm", ".jp2", ".tif", ".webp"} < set(ends) and ".h5" not in ends
    assert (".avif" in ends) == features.check("avif")
    names = [f"image{end}" for end in ends] + [f"IMAGE{end.upper()}" for end in ends]
    touch(tmp_path, *(f"train/a/{name}" for name in names))
    touch(tmp_path, "train/a/x.txt", "train/a/jpg", "train/a/._image.jpg", "train/a/.cache/1.jpg", "train/.trash/1.jpg")
    os.mkfifo(tmp_path / "train/a/pipe.jpg")
    source = ImageFolder(tmp_path)
    assert source.class_names == ["a"]
    assert source.splits["train"].keys == sorted(f"train/a/{name}" for name in names)
    assert capsys.readouterr().err == (
        f"note: left out of {tmp_path}: 1 .txt file (train/a/x.txt), 1 file without an extension (train/a/jpg), "
        "3 names with a leading dot (train/a/._image.jpg), 1 pipe or device (train/a/pipe.jpg)\n"
    )


@pytest.mark.skipif(".heic" in image_extensions(), reason="the package that reads HEIC is installed")
def test_photos_in_heic_tell_the_package_that_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "2 .heic files to be read with pip install 'fastlt[formats]' (ant/1.HEIC)"
    root = touch(tmp_path, "ant/1.HEIC", "ant/2.heic")
    with pytest.raises(UserError, match=re.escape(f"{root}: no folder with images in it ({told}, ")):
        ImageFolder(root)
    ImageFolder(touch(root, "ant/3.jpg"))
    assert capsys.readouterr().err == f"note: left out of {root}: {told}\n"


def test_what_lies_beside_classes_and_splits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = touch(
        tmp_path, "train/a/1.jpg", "train/2.jpg", "train/3.jpg", "more/a/1.jpg", "more/2.png", "README", "9.jpg"
    )
    assert ImageFolder(root).splits["train"].keys == ["train/a/1.jpg"]
    assert capsys.readouterr().err == (
        f"note: left out of {root}: 1 file without an extension (README), 1 folder with 2 images that no split is "
        "named after (more), 3 images in the folder of no class (train/2.jpg)\n"
    )


@pytest.mark.parametrize("names", [("Training", "valid", "TEST"), ("train", "validation", "testing"), ("train", "dev")])
def test_usual_names_of_splits(tmp_path: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    source = ImageFolder(touch(tmp_path, *(f"{name}/a/1.jpg" for name in names)))
    assert {split: listing.keys for split, listing in source.splits.items()} == {
        split: [f"{name}/a/1.jpg"] for split, name in zip(("train", "val", "test"), names, strict=False)
    }
    assert capsys.readouterr().err == ""


def test_order_is_torchvisions(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Peer

    names = [
        "z.jpg",
        "a/1.jpg",
        "a/b/0.jpg",
        "a b/1.jpg",
        "a-b/1.jpg",
        "A/1.jpg",
        "10.jpg",
        "9.jpg",
        "ä/é.jpg",
        "a.jpg",
    ]
    touch(tmp_path, *(f"train/{label}/{name}" for label in ("x", "X 1", "ü") for name in names))
    source = ImageFolder(tmp_path)
    peer = Peer(str(tmp_path / "train"))
    assert source.class_names == peer.classes
    assert [str(tmp_path / key) for key in source.splits["train"].keys] == [path for path, _ in peer.samples]
    assert source.splits["train"].labels.tolist() == peer.targets


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "train/fox/1.jpg", "train/owl/1.jpg", "train/owl/deep/2.jpg")
    touch(tmp_path / "elsewhere", "3.jpg", "more/4.jpg")
    for link, target in {
        "fox/out": tmp_path / "elsewhere",
        "fox/again": tmp_path / "elsewhere",
        "fox/here": Path(),
        "fox/up": Path(".."),
        "fox/top": root,
        "fox/other": Path("../owl"),
        "owl/deep/loop": Path("../.."),
        "owl/itself": Path("itself"),
        "owl/file.jpg": tmp_path / "elsewhere" / "3.jpg",
        "owl/broken.jpg": tmp_path / "nowhere.jpg",
        "owl/itself.jpg": Path("itself.jpg"),
    }.items():
        (root / "train" / link).symlink_to(target)
    (root / "val").symlink_to("train")
    source = ImageFolder(root)
    keys = ["fox/1.jpg", "fox/again/3.jpg", "fox/again/more/4.jpg"]
    keys += ["owl/1.jpg", "owl/broken.jpg", "owl/file.jpg", "owl/itself.jpg", "owl/deep/2.jpg"]
    assert source.splits["train"].keys == [f"train/{key}" for key in keys]
    assert source.splits["val"].keys == [f"val/{key}" for key in keys]
    assert source.load("train", 5) == b"3.jpg"
    for broken in (4, 6):
        with pytest.raises(OSError):
            source.load("train", broken)


def test_a_class_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "pool/fox/1.jpg", "pool/owl/1.jpg")
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name in ("fox", "owl"):
            (tmp_path / split / name).symlink_to(tmp_path / "pool" / name)
    source = ImageFolder(tmp_path)
    assert source.splits["test"].keys == ["test/fox/1.jpg", "test/owl/1.jpg"]


def test_a_class_without_test_images_is_fine(tmp_path: Path) -> None:
    touch(tmp_path, "train/fox/1.jpg", "train/owl/1.jpg", "test/fox/1.jpg", "test/owl/none.txt")
    assert ImageFolder(tmp_path).splits["test"].keys == ["test/fox/1.jpg"]


def test_refused_layouts(tmp_path: Path) -> None:
    layout = "expected ROOT/train/<class>/<images> and, beside train, val/ and test/ of the same form; "
    layout += "or ROOT/<class>/<images>"
    root = tmp_path / "a"
    assert refusal(root) == f"root={root}: no such folder; {layout}"
    root.mkdir()
    assert refusal(root) == f"{root}: no folder with images in it; {layout}"
    touch(root, "notes.txt")
    assert refusal(root) == f"{root}: no folder with images in it (1 .txt file (notes.txt)); {layout}"
    (root / "dev").mkdir()
    of_class = "if it is a class, give its folder another name"
    assert refusal(root) == f"{root}: there is dev/, but no train folder; {of_class}; {layout}"
    (root / "dev").rmdir()
    (root / "train").mkdir()
    assert refusal(root) == f"{root / 'train'}: no class folders in it; {of_class}; {layout}"
    (root / "train" / "fox").mkdir()
    assert f"{root / 'train/fox'}: no image in it; every class needs" in refusal(root)
    touch(root, "train/fox/1.jpg", "val/fox/x.txt")
    assert f"{root / 'val'}: no image found; expected" in refusal(root)
    touch(root, "val/fox/1.jpg", "train/owl/1.txt")
    assert f"{root / 'train/owl'}: no image in it" in refusal(root)
    touch(root, "train/owl/1.jpg", "test/owl/1.jpg", "test/cat/1.jpg", "test/dog/1.jpg")
    assert refusal(root).startswith(
        f"{root / 'test'}: class folder 'cat', 'dog' that {root / 'train'} lacks; every class needs training images"
    )


def test_class_folders_without_splits(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "a", *(f"{name}/{n}.jpg" for name in ("bee", "ant") for n in "21"), "ant/x/0.jpg", "doc/a.md"
    )
    (root / "ant" / "other").symlink_to(root / "bee")
    source = ImageFolder(root)
    assert source.class_names == ["ant", "bee"] and list(source.splits) == ["train"]
    assert source.splits["train"].keys == ["ant/1.jpg", "ant/2.jpg", "ant/x/0.jpg", "bee/1.jpg", "bee/2.jpg"]
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 1, 1]
    assert f"{tmp_path / 'b'}: ant/Test/ is a folder of a split inside a class; give ROOT/<split>/<class>/" in refusal(
        touch(tmp_path / "b", "ant/Test/1.jpg")
    )


def test_classes_that_are_named_like_splits(tmp_path: Path) -> None:
    for number, (train, test) in enumerate(
        [("training_set", "test_set"), ("train2017", "val2017"), ("a-train", "a.dev")]
    ):
        root = touch(
            tmp_path / str(number), f"{train}/cat/1.jpg", f"{train}/dog/1.jpg", f"{test}/cat/2.jpg", "cat/1.jpg"
        )
        assert f"{train}/ and {test}/ are named like splits and would be 2 classes: name them train/, " in refusal(root)
    other = touch(tmp_path / "other", "toy_train/1.jpg", "test_tube/1.jpg", "crash_test/1.jpg", "bullet_train/1.jpg")
    assert ImageFolder(other).class_names == ["bullet_train", "crash_test", "test_tube", "toy_train"]


def test_folders_of_splits_that_cannot_be_used(tmp_path: Path) -> None:
    root = touch(tmp_path / "a", "train/fox/1.jpg", "val/fox/1.jpg", "valid/fox/1.jpg")
    assert f"{root}: val/ and valid/ are both folders of the val split; leave one" in refusal(root)
    root = touch(tmp_path / "b", "train/fox/1.jpg", "test/1.jpg", "test/2.jpg")
    assert f"{root / 'test'}: its 2 images lie side by side, in the folder of no class" in refusal(root)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, "train/fox/1.jpg")
    try:
        (tmp_path / "train/fox" / os.fsdecode(b"gr\xfcn.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system admits UTF-8 names only")
    assert f"{tmp_path / 'train/fox'}: the name 'gr\\udcfcn.jpg' in it is not UTF-8; rename it" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "train/fox/1.jpg", "train/fox/shut/1.jpg")
    (tmp_path / "train/fox/shut").chmod(0)
    try:
        assert "shut: cannot read this folder (Permission denied)" in refusal(tmp_path)
    finally:
        (tmp_path / "train/fox/shut").chmod(0o700)
