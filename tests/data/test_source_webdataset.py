"""Tars in WebDataset layout, as the package `webdataset` and GNU tar write them: what is read and what is refused."""

import gzip
import io
import json
import pickle
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pictures import jpeg, picture
from PIL import Image
from webdataset.writer import ShardWriter

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.sources.guess import guessed
from fastlt.data.sources.packed_files import files_by_split, folder_of, name_of
from fastlt.data.sources.webdataset import ENDS, WebDataset


def image(number: int, kind: str = "JPEG") -> bytes:
    pixels = picture(number, 20, 24)
    if kind == "JPEG":
        return jpeg(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def written(folder: Path, split: str, labels: list[int], first: int = 0, per: int = 4, form: str = "cls") -> None:
    """Tars of webdataset's own writer: SPLIT-000000.tar and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(str(folder / f"{split}-%06d.tar"), maxcount=per, verbose=0) as writer:
        for number, label in enumerate(labels, first):
            told = {"cls": label} if form == "cls" else {"json": {"caption": "x", "label": label}}
            writer.write({"__key__": f"a.b/{number:04d}", "jpg": image(number), **told})


def tar(path: Path, **members: bytes | str) -> Path:
    """A tar of Python's own, with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


LABELS = [0, 1, 2, 0, 10, 0]


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    written(folder, "train", LABELS)
    written(folder, "val", [1, 0], 20, form="json")
    written(folder, "test", [2], 30)
    return folder


def test_tars_of_webdataset(tars: Path) -> None:
    assert guessed(tars) == guessed(tars / "train-000000.tar") == {"dataset": "webdataset", "source": str(tars)}
    source = WebDataset(files_by_split("source", tars, ENDS))
    assert source.class_names == ["0", "1", "2", "10"]
    assert {split: one.labels.tolist() for split, one in source.splits.items()} == {
        "train": [0, 1, 2, 0, 3, 0],
        "val": [1, 0],
        "test": [2],
    }
    keys = source.splits["train"].keys
    assert keys[3:5] == ["train-000000.tar/a.b/0003.jpg", "train-000001.tar/a.b/0004.jpg"]
    copy = pickle.loads(pickle.dumps(source))
    for place in (0, 5, 4, 1):
        assert source.load("train", place) == copy.load("train", place) == image(place)
    assert source.load("test", 0) == image(30)
    assert source.where("train", 4) == f"{tars}/train-000001.tar: a.b/0004.jpg"
    tar_of, offset, length = source.place("train", 4)
    assert tar_of.read_bytes()[offset : offset + length] == image(4)


def test_converted_for_any_number_of_workers(tars: Path, tmp_path: Path) -> None:
    digests = {fastlt.write_dataset(tars, tmp_path / str(n), name="x", workers=n).digest for n in (1, 3)}
    assert len(digests) == 1
    dataset = fastlt.Dataset(tmp_path / "1")
    assert dataset.data("train", 4).tobytes() == image(4) and dataset.key("val", 1) == "val-000000.tar/a.b/0021.jpg"
    pattern = str(tars / "train-{000000..000001}.tar")
    assert guessed(Path(pattern), ["split"]) == {"dataset": "webdataset", "source": pattern}
    (tmp_path / "names").write_text("10\n2\n1\n0\n")
    keys = {"test": str(tars / "test-*.tar"), "class_names": str(tmp_path / "names")}
    part = fastlt.write_dataset(Path(pattern), tmp_path / "part", **keys)
    assert {split: len(index) for split, index in part.splits.items()} == {"train": 6, "test": 1}
    assert part.split("train").label.tolist() == [3, 2, 1, 3, 0, 3]


def test_nothing_is_added_twice_when_another_folder_of_tars_arrives(tars: Path, tmp_path: Path) -> None:
    year, out = tmp_path / "years" / "2024", tmp_path / "data"
    shutil.copytree(tars, year)
    dataset = fastlt.write_dataset(year.parent, out, workers=1)
    assert dataset.key("val", 0) == "2024/val-000000.tar/a.b/0020.jpg"
    written(tmp_path / "years" / "2025", "train", [1, 2], 40)
    dataset = fastlt.write_dataset(year.parent, out, append=True, workers=1)
    assert {split: len(index) for split, index in dataset.splits.items()} == {"train": 8, "val": 2, "test": 1}


def test_keys_are_relative_to_what_the_user_names(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    tar(below / "0.tar", **{"x.jpg": image(0), "x.cls": "1"})
    for place in ("a", "a/b/0.tar", "a/*/0.tar", "a/b/{0..1}.tar", "a/b", "a/b/[0-9].tar"):
        top = folder_of(tmp_path / place)
        source = WebDataset({"train": [below / "0.tar"]}, top=top)
        own = "b/0.tar" if place in ("a", "a/*/0.tar") else "0.tar"
        assert source.splits["train"].keys == [f"{own}/x.jpg"] and source.where("train", 0) == f"{below}/0.tar: x.jpg"
    assert name_of(below / "0.tar", tmp_path / "c") == "a/b/0.tar"


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_tars_of_gnu_tar(tmp_path: Path, form: str) -> None:
    """Files of many extensions, one with a long name, in a tar of the command `tar`."""
    folder = tmp_path / "files"
    folder.mkdir()
    kinds = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "JPG": "JPEG"}
    long = "n" * (90 if form == "ustar" else 200)
    for number, (end, kind) in enumerate(kinds.items()):
        (folder / f"{number} {long}.{end}").write_bytes(image(number, kind))
        (folder / f"{number} {long}.cls").write_text(f"{'ab'[number % 2]}\n")
    (folder / "README").write_text("x")
    (folder / "LICENSE.txt").write_text("x")
    path = tmp_path / "photos.tar"
    command = ["tar", f"--format={form}", "--sort=name", "-cf", str(path), "-C", str(folder), "."]
    subprocess.run(command, check=True, timeout=60)
    assert guessed(path) == {"dataset": "webdataset", "source": str(path), "split": "0.7,0.1,0.2"}
    source = WebDataset({"train": [path]})
    assert source.class_names == ["a", "b"] and source.splits["train"].labels.tolist() == [0, 1, 0, 1, 0]
    assert source.splits["train"].keys[3] == f"photos.tar/3 {long}.webp"
    for number, (end, _) in enumerate(kinds.items()):
        assert source.load("train", number) == (folder / f"{number} {long}.{end}").read_bytes()


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tar(tmp_path / "a.tar", **{"README.md": "x", "a.jpg": image(0), "a.cls": "0", "._a.jpg": b"", "notes": "x"})
    assert len(WebDataset({"train": [path]}).splits["train"].keys) == 1
    assert "left out of" in (said := capsys.readouterr().err) and "3 members of no sample" in said


@pytest.mark.parametrize(
    ("members", "keys", "expected"),
    [
        ({"a.jpg": image(0), "a.cls": " 7\n"}, {}, "7"),
        ({"a.jpg": image(0), "a.cls": "cat", "a.json": '{"label": 1}'}, {}, "cat"),
        ({"a.jpg": image(0), "a.cls": "cat", "a.json": '{"label": 1}'}, {"label_column": "label"}, "1"),
        ({"a.jpg": image(0), "a.json": '{"class_name": "dog", "label": 3}'}, {}, "3"),
        ({"a.jpg": image(0), "a.json": '{"class_name": "dog", "label": 3}'}, {"label_column": "class_name"}, "dog"),
        ({"a.jpg": image(0), "a.species": "x"}, {}, "x"),
        ({"a.jpg": image(0), "a.txt": "a cat"}, {"label_column": "txt"}, "a cat"),
        ({"a.jpg": image(0), "a.seg.png": b"x", "a.cls": "1"}, {"image_column": "jpg"}, "1"),
        ({"a.jpg": image(0), "a.seg.png": b"x", "a.cls": "1"}, {"image_column": ".JPG"}, "1"),
        ({"./d/a.jpg": image(0), "./d/a.cls": "1"}, {}, "1"),
    ],
)
def test_labels(tmp_path: Path, members: dict[str, bytes | str], keys: dict[str, Any], expected: str) -> None:
    source = WebDataset({"train": [tar(tmp_path / "a.tar", **members)]}, **keys)
    assert source.class_names == [expected] and source.load("train", 0) == image(0)


@pytest.mark.parametrize(
    ("members", "keys", "message"),
    [
        ({"a.jpg": b"x"}, {}, r"sample 'a': no label: members are \.jpg; say label_column=EXTENSION$"),
        ({"cat/a.jpg": b"x"}, {}, r"no label: .*; if folders are the classes, unpack the tar and give the folder"),
        ({"a.cls": "1", "a.txt": "x"}, {}, r"sample 'a': no image: members are \.cls, \.txt"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": "1"}, {}, "more than one image, jpg, png: say image_column=EXTENSION"),
        (
            {"a.jpg": b"x", "a.cls": "1"},
            {"image_column": "png"},
            r"no image: image_column=png, members are \.jpg, ",
        ),
        ({"a.jpg": b"x", "a.cls": "1"}, {"label_column": "txt"}, r"no label: members are \.jpg, \.cls"),
        ({"a.jpg": b"x", "a.json": "{"}, {}, r"sample 'a': its \.json is not JSON \("),
        ({"a.jpg": b"x", "a.json": "[]"}, {}, "no label in its JSON, which has 'nothing'; say label_column=NAME"),
        ({"a.jpg": b"x", "a.json": '{"id": 1}'}, {"label_column": "x"}, "no x in its JSON, which has 'id'"),
        ({"a.jpg": b"x", "a.json": '{"label": [1]}'}, {}, r"its label label is '\[1\]'; a label is a text or a number"),
        ({"a.jpg": b"x", "a.cls": b"\xff"}, {}, r"its label in \.cls is not UTF-8"),
        ({"a.jpg": b"x", "a.cls": "  "}, {}, r"a\.tar/a\.jpg: the label is empty"),
        ({"a.jpg": b"x", "a.cls": bytes(2 << 20)}, {}, r"\.cls has 2,097,152 bytes, at most 1,048,576 are read"),
        ({"a.jpg": b"x", "a.cls": "1", "b.jpg": b"x", "b.cls": "1", "a.JPG": b"", "a.Cls": "1"}, {}, None),
        ({"a.jpg": b"x", "a.cls": "1", "a.JPG": b"x"}, {}, r"more than one member \.jpg"),
        ({"README": "x"}, {}, "there is no sample in it; leave the train split out"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, members: dict[str, bytes | str], keys: dict[str, Any], message: str | None
) -> None:
    path = tar(tmp_path / "a.tar", **members)
    if message is None:  # the key comes again after another sample
        members["a.jpg "] = members.pop("a.JPG")
        with tarfile.open(path, "a") as archive:
            archive.addfile(tarfile.TarInfo("a.jpg"))
            archive.addfile(tarfile.TarInfo("a.cls"))
        message = "occurs twice in train|the label is empty|more than one"
    with pytest.raises(UserError, match=message) as caught:
        WebDataset({"train": [path]}, **keys)
    assert "\n" not in str(caught.value) and "a.tar" in str(caught.value)


def test_a_key_that_occurs_twice(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", **{"a.jpg": b"x", "a.cls": "1", "b.jpg": b"x", "b.cls": "1", "./a.jpg": b"x"})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("./a.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"1"))
    with pytest.raises(UserError, match=r"a\.tar/a\.jpg occurs twice in train: samples need keys of their own"):
        WebDataset({"train": [path]})


def test_damaged_tars(tars: Path) -> None:
    path = tars / "train-000000.tar"
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) + -len(whole.rstrip(b"\0")) % 512
    second = 2 * 512  # where the header of the second member begins, after that of the first and its block
    for content, reason in (
        (whole[:end], "ends without the mark of its end"),
        (whole[: end // 2], "ReadError"),
        (whole[:700], "ReadError"),
        (b"", "ReadError"),
        (b"x" * 2000, ""),
        (gzip.compress(whole), ""),
        (whole[:second] + b"\xff" * 512 + whole[second + 512 :], "damaged at byte|invalid header|bad checksum"),
        (whole + whole, "damaged at byte .*, or something follows its end"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=re.escape(f"{path}: no tar, or a compressed, damaged")) as caught:
            WebDataset({"train": [path]})
        assert re.search(reason, str(caught.value)) and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r"train-000000\.tar: cannot be read \(No such file"):
        WebDataset({"train": [path]})


def test_a_tar_that_changes_while_it_is_read(tars: Path, tmp_path: Path) -> None:
    source = WebDataset(files_by_split("source", tars, ENDS))
    path = tars / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"train-000001\.tar has changed since it was listed: leave it alone"):
        source.load("train", 4)
    assert source.load("train", 0) == image(0)


def test_labels_of_json_are_those_of_the_writer(tars: Path) -> None:
    """What webdataset's own reader gives for the same tar."""
    with tarfile.open(tars / "val-000000.tar") as archive:
        file = archive.extractfile("a.b/0020.json")
        assert file is not None and json.load(file) == {"caption": "x", "label": 1}
