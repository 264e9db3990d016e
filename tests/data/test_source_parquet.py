"""Parquet files in the layout of Hugging Face's `datasets`: what is read, in which order, and what is refused.

Facts of files that `datasets` 5.2 wrote (`Dataset.to_parquet`, one file for each split and shard, named
`train-00000-of-00002.parquet`): `image` is struct<bytes: binary, path: string>, `label` is int64, and the schema's
metadata has under `huggingface` the JSON {"info": {"features": {"label": {"names": [...], "_type": "ClassLabel"},
"image": {"_type": "Image"}}}}.
"""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import jpeg, picture

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.sources.guess import guessed
from fastlt.data.sources.packed_files import files_by_split, files_of
from fastlt.data.sources.parquet import ENDS, Parquet

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'fastlt[hf]'")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["zebra", "ant", "cat"]


def image(number: int) -> dict[str, Any]:
    return {"bytes": jpeg(picture(number, 20, 24)), "path": f"img_{number}.jpg"}


def features(names: list[str] | None = NAMES) -> bytes:
    told: dict[str, Any] = {"image": {"_type": "Image"}}
    if names:
        told["label"] = {"names": names, "_type": "ClassLabel"}
    return json.dumps({"info": {"features": told}}).encode()


def write(path: Path, labels: list, first: int = 0, rows: int = 4, meta: bytes | None = None, **columns: list) -> Path:
    """A file with an image for each label, in row groups of some rows."""
    images = [image(first + k) for k in range(len(labels))]
    table = pa.table({"image": pa.array(images, IMAGE), "label": labels, **columns})
    table = table.replace_schema_metadata({b"huggingface": features() if meta is None else meta})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows)
    return path


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder as it lies on the hub: data/train-00000-of-00002.parquet, ..., beside a README."""
    data = tmp_path / "hub" / "data"
    write(data / "train-00000-of-00002.parquet", [0, 1, 2, 0, 1, 0, 0, 0, 0], patient=list("aabbccdde"))
    write(data / "train-00001-of-00002.parquet", [2, 2, 1], 9, patient=list("xyz"))
    write(data / "validation-00000-of-00001.parquet", [1, 0], 20, patient=list("aa"))
    write(data / "test-00000-of-00001.parquet", [2], 30, patient=list("a"))
    (tmp_path / "hub" / "README.md").write_text("x")
    return tmp_path / "hub"


def test_a_folder_of_the_hub(hub: Path) -> None:
    assert guessed(hub) == {"dataset": "parquet", "source": str(hub)}
    source = Parquet(files_by_split("source", hub, ENDS))
    assert source.class_names == NAMES and (source.image_column, source.label_column) == ("image", "label")
    assert {split: one.labels.tolist() for split, one in source.splits.items()} == {
        "train": [0, 1, 2, 0, 1, 0, 0, 0, 0, 2, 2, 1],
        "val": [1, 0],
        "test": [2],
    }
    keys = source.splits["train"].keys
    assert keys[8:10] == ["train-00000-of-00002.parquet/8/img_8.jpg", "train-00001-of-00002.parquet/0/img_9.jpg"]
    # In order, backwards across row groups and files, in another split, and in a copy for another process.
    copy = pickle.loads(pickle.dumps(source))
    for place in (*range(12), 3, 0, 11, 5, 4):
        assert source.load("train", place) == copy.load("train", place) == image(place)["bytes"]
    assert source.load("test", 0) == image(30)["bytes"]
    assert source.where("train", 10) == (
        f"{hub}/data/train-00001-of-00002.parquet: row 1 (train-00001-of-00002.parquet/1/img_10.jpg)"
    )


def test_converted_for_any_number_of_workers(hub: Path, tmp_path: Path) -> None:
    digests = [
        fastlt.write_dataset(hub, tmp_path / str(workers), name="x", workers=workers).digest for workers in (1, 3)
    ]
    dataset = fastlt.Dataset(tmp_path / "3")
    assert digests[0] == digests[1] == dataset.digest and dataset.class_names == NAMES
    assert dataset.data("train", 11).tobytes() == image(11)["bytes"]
    # One file without splits is divided; a column keeps groups together.
    file = hub / "data" / "train-00000-of-00002.parquet"
    keys = {"source": str(file), "split": (0.5, 0, 0.5), "group_by": "patient"}
    divided = fastlt.write_dataset("parquet", tmp_path / "divided", **keys)
    rows = [
        {"aabbccdde"[int(divided.key(split, k).split("/")[1])] for k in range(len(index))}
        for split, index in divided.splits.items()
    ]
    assert len(rows) == 2 and not rows[0] & rows[1]
    other = fastlt.write_dataset(
        "parquet", tmp_path / "two", source=str(file), test=str(hub / "data" / "test-00000-of-00001.parquet")
    )
    assert {split: len(index) for split, index in other.splits.items()} == {"train": 9, "test": 1}


def test_paths_that_name_files(hub: Path, tmp_path: Path) -> None:
    data = hub / "data"
    names = sorted(path.name for path in data.iterdir())
    by_split = {split: [path.name for path in own] for split, own in files_by_split("source", hub, ENDS).items()}
    assert by_split == {"train": names[1:3], "val": [names[3]], "test": [names[0]]}
    assert files_by_split("source", data / "t*.parquet", ENDS).keys() == {"train", "test"}
    ranged = data / "train-{00000..00001}-of-00002.parquet"
    assert files_of("source", ranged, ENDS) == [data / name for name in names[1:3]]
    first = data / names[1]
    assert files_by_split("source", data / names[0], ENDS) == {"train": [data / names[0]]}  # a file is taken as it is
    # A file named after train stands for the folder: its other numbers and splits belong to it.
    assert guessed(first) == {"dataset": "parquet", "source": str(data)}
    assert guessed(Path(f"{data}/train-*.parquet"), ["val"]) == {
        "dataset": "parquet",
        "source": f"{data}/train-*.parquet",
    }
    alone = write(tmp_path / "alone" / "images.parquet", [0, 1])
    assert guessed(alone) == {"dataset": "parquet", "source": str(alone), "split": "0.7,0.1,0.2"}
    # The layout of the hub's own conversions: a folder for each split.
    parts = tmp_path / "parts"
    for split in ("train", "test"):
        write(parts / "default" / split / "0000.parquet", [0, 1, 2])
    assert Parquet(files_by_split("source", parts, ENDS)).splits["test"].keys[0] == "test/0000.parquet/0/img_0.jpg"
    # Images in folders are no Parquet files, whatever lies beside them.
    (parts / "cat").mkdir()
    (parts / "cat" / "1.jpg").touch()
    assert guessed(parts)["dataset"] == "image_folder"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere.parquet", "source=.*nowhere.parquet: no such file or folder"),
        ("data/x-*.parquet", r"source=.*x-\*\.parquet: there is no file"),
        ("data/train-{00000..00007}-of-00002.parquet", "there is no file .*train-00002-of-00002.parquet"),
        ("data/train-{3..1}.parquet", r"the range \{3\.\.1\} must go up"),
        ("data/train-{0..99999999}.parquet", "must go up, by less than 1,000,000"),
        ("data/[tv]est*.parquet", None),
        ("data/{}", "no such file or folder"),
    ],
)
def test_places_that_are_wrong(hub: Path, place: str, message: str | None) -> None:
    if message is None:
        assert files_by_split("source", hub / place, ENDS).keys() == {"train"}  # one file
        return
    with pytest.raises(UserError, match=message):
        files_by_split("source", hub / place, ENDS)


def test_files_of_which_only_some_have_a_split(hub: Path) -> None:
    write(hub / "data" / "extra.parquet", [0])
    with pytest.raises(UserError, match=r"extra\.parquet is named after no split, but test-00000.* after test"):
        files_by_split("source", hub, ENDS)
    for path in (hub / "data").glob("[et]*"):
        path.unlink()
    write(hub / "data" / "test-0.parquet", [0])
    with pytest.raises(UserError, match=r"there is test-0.* for test, but no file for train"):
        files_by_split("source", hub, ENDS)
    (hub / "empty").mkdir()
    with pytest.raises(UserError, match=r"no file in this folder ends in \.parquet or \.pq"):
        files_by_split("source", hub / "empty", ENDS)


@pytest.mark.parametrize(
    ("labels", "meta", "class_names", "numbers"),
    [
        (["dog", " cat", "dog"], b"{}", ["cat", "dog"], [1, 0, 1]),
        ([10, 2, 10], b"{}", ["2", "10"], [1, 0, 1]),
        ([1.0, 0.0, 1.0], b"no JSON", ["0", "1"], [1, 0, 1]),
        ([True, False, True], b"[]", ["False", "True"], [1, 0, 1]),
        ([2, 0, 2], None, ["zebra", "cat"], [1, 0, 1]),  # no image is an ant
        (pa.array(["b", "a", "b"]).dictionary_encode(), b"{}", ["a", "b"], [1, 0, 1]),
        (["dog", "cat", "dog"], features(None), ["cat", "dog"], [1, 0, 1]),
    ],
)
def test_labels_of_every_kind(
    tmp_path: Path, labels: Any, meta: bytes | None, class_names: list[str], numbers: list[int]
) -> None:
    source = Parquet({"train": [write(tmp_path / "a.parquet", labels, meta=meta)]})
    assert (source.class_names, source.splits["train"].labels.tolist()) == (class_names, numbers)
    assert source.splits["train"].labels.dtype == np.int64


def test_a_name_without_an_image_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Parquet({"train": [write(tmp_path / "a.parquet", [2, 0, 2])]})
    assert "note: 1 class without an image left out, such as 'ant'" in capsys.readouterr().err


def test_bytes_without_a_struct(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    data = [image(k)["bytes"] for k in range(3)]
    parquet.write_table(pa.table({"jpg": pa.array(data, pa.large_binary()), "species": ["a", "b", "a"]}), path)
    source = Parquet({"train": [path]})
    assert source.splits["train"].keys == ["a.parquet/0", "a.parquet/1", "a.parquet/2"]
    assert source.load("train", 2) == data[2] and source.class_names == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "keys", "message"),
    [
        ({"label": [0, None]}, {}, r"a\.parquet: row 1: no label; give each row one"),
        (
            {"label": [0, -1]},
            {},
            "row 1: label -1 has no name, names are there for 0 to 2; -1 often means that",
        ),
        ({"label": [0, 3]}, {}, "row 1: label 3 has no name, names are there for 0 to 2$"),
        ({"label": [[0], [1]]}, {}, "column label holds list<.*>; a label is one text or whole number in each row"),
        ({"label": ["a", "b\n\t c"], "meta": b"{}"}, {}, r"row 1: the label 'b\\n\\t c' holds a control character"),
        ({"label": ["a", " "], "meta": b"{}"}, {}, "row 1: the label is empty"),
        ({"label": ["1", "nan"], "meta": b"{}"}, {}, r"a\.parquet: the label 'nan' stands among numbers"),
        ({"label": None}, {}, "no column is named as labels usually are: say label_column=NAME, one of image$"),
        (
            {"label": None, "class": [1, 2], "y": [1, 2]},
            {},
            "more than one column may hold the labels, class, y: say",
        ),
        ({"image": None}, {}, r"no column holds images \(a struct with bytes, or bytes\): there are label"),
        (
            {"mask": [b"1", b"2"], "meta": b"{}"},
            {},
            "more than one column holds images, image, mask: say image",
        ),
        ({}, {"image_column": "img"}, "image_column=img is no column: there are image, label"),
        ({}, {"image_column": "label"}, r"image_column=label holds int64, not images .*; columns of images are image"),
        ({}, {"label_column": "name"}, "label_column=name is no column: there are image, label"),
        ({"label": [], "image": []}, {}, "there is no row in it; leave the train split out"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    meta = {b"huggingface": change.pop("meta", features())}
    columns = {"image": pa.array([image(0), image(1)], IMAGE), "label": [0, 1], **change}
    if columns["image"] == []:
        columns = {"image": pa.array([], IMAGE), "label": pa.array([], pa.int64())}
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    parquet.write_table(table.replace_schema_metadata(meta), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message) as caught:
        Parquet({"train": [tmp_path / "a.parquet"]}, **keys)
    assert "\n" not in str(caught.value) and str(tmp_path / "a.parquet") in str(caught.value)


def test_a_mask_beside_the_image_is_not_taken_for_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [0, 1], mask=[b"1", b"2"])
    assert Parquet({"train": [path]}).image_column == "image"  # the metadata says which is the image


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", [0, 1, 2])
    other = write(tmp_path / "b.parquet", ["ant", "cat"], meta=b"{}")
    with pytest.raises(UserError, match=r"b\.parquet: column label is string, in .*a\.parquet it is int64"):
        Parquet({"train": [first, other]})
    other = write(tmp_path / "b.parquet", [0, 1], meta=features(["ant", "zebra", "cat"]))
    with pytest.raises(UserError, match=r"b\.parquet: its classes have other names than those of .*a\.parquet"):
        Parquet({"train": [first], "test": [other]})
    grouped = write(tmp_path / "d.parquet", [0, 1, 2], patient=[1, 1, 2])
    with pytest.raises(UserError, match=r"b\.parquet: group_by=patient is no column of it, but one of .*d\.parquet"):
        Parquet({"train": [grouped], "test": [other]}, group_by="patient")
    rare = write(tmp_path / "c.parquet", [0, 0])
    with pytest.raises(UserError, match=r"b\.parquet: row 1: class 'ant' has no training image"):
        Parquet({"train": [rare], "test": [write(tmp_path / "b.parquet", [0, 1])]})
    whole = first.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"x" * 100):
        other.write_bytes(content)
        with pytest.raises(UserError, match=r"b\.parquet: no Parquet file, or a damaged one \(") as caught:
            Parquet({"train": [first], "test": [other]})
        assert "\n" not in str(caught.value)


def test_rows_without_an_image_are_bad_images(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    images = [image(0), {"bytes": None, "path": "here/x.jpg"}, None, {"bytes": None, "path": None}, image(4)]
    parquet.write_table(pa.table({"image": pa.array(images, IMAGE), "label": list("ababa")}), path)
    source = Parquet({"train": [path], "test": [path]})
    for place, reason in (
        (1, "the row has only a path, here/x.jpg, but no bytes"),
        (2, "has no image"),
        (3, "no image"),
    ):
        with pytest.raises(OSError, match=reason):
            source.load("train", place)
    with pytest.raises(UserError, match=re.escape("train image a.parquet/1/here/x.jpg does not decode (the row")):
        fastlt.write_dataset("parquet", tmp_path / "out", source=str(path), test=str(path), workers=1)
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [0, 1, 2] * 10)
    source = Parquet({"train": [path]})
    assert source.load("train", 0) == image(0)["bytes"]
    write(path, [2, 1, 0] * 10)  # the same images, with other labels
    with pytest.raises(UserError, match=r"a\.parquet has changed since it was listed: leave it alone"):
        source.load("train", 0)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read \(No such file"):
        source.load("train", 20)


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    """Images are read page by page from a row group of any size."""
    data = np.random.default_rng(0).bytes(1 << 20)
    images = pa.array([{"bytes": data, "path": None}] * 100, IMAGE)
    table = pa.table({"image": images, "label": ["a"] * 100})
    options = {"row_group_size": 100, "write_batch_size": 4, "data_page_size": 1 << 20, "use_dictionary": False}
    parquet.write_table(table, tmp_path / "a.parquet", **options)
    del images, table
    source = Parquet({"train": [tmp_path / "a.parquet"]})
    before = pa.total_allocated_bytes()
    for place in range(100):
        assert len(source.load("train", place)) == 1 << 20
        assert pa.total_allocated_bytes() - before < 40 << 20


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"dataset=parquet needs the package pyarrow .*pip install 'fastlt\[hf\]'"):
        Parquet({"train": [tmp_path / "a.parquet"]})
