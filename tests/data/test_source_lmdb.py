"""Images in LMDB databases that the package lmdb wrote."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refusal
from pictures import jpeg, picture

import fastlt
from fastlt.convert import main
from fastlt.core.errors import UserError
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.guess import guessed
from fastlt.data.sources.lmdb_file import Lmdb
from fastlt.data.sources.packed_files import folder_of

lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'fastlt[lmdb]'")


def write(path: Path, rows: dict[str, Any], subdir: bool = True) -> Path:
    """Writes a database; returns the file that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 26, subdir=subdir) as database, database.begin(write=True) as transaction:
        for key, value in rows.items():
            transaction.put(
                key.encode("utf-8", "surrogateescape"), value if isinstance(value, bytes) else pickle.dumps(value)
            )
    return path / "data.mdb" if subdir else path


def image(number: int) -> bytes:
    return jpeg(picture(number, 40, 50))


def by_class(numbers: range) -> dict[str, bytes]:
    return {f"{('lynx', 'größe', 'otter')[number % 3]}/{number:03}.jpg": image(number) for number in numbers}


def pickled(numbers: range) -> dict[str, Any]:
    """As scripts that turn ImageNet's folders into a database write it."""
    rows: dict[str, Any] = {str(number): (image(number), number % 12) for number in numbers}
    return {**rows, "__keys__": [key.encode() for key in rows], "__len__": len(rows)}


def test_keys_of_classes(tmp_path: Path) -> None:
    source = Lmdb({"train": [write(tmp_path / "train", by_class(range(9)))]})
    assert source.class_names == ["größe", "lynx", "otter"]
    listing = source.splits["train"]
    keys = sorted(by_class(range(9)), key=str.encode)
    assert listing.keys == [f"train/{key}" for key in keys]
    for index, key in enumerate(keys):
        assert source.load("train", index) == by_class(range(9))[key]
        assert key.startswith(source.class_names[listing.labels[index]])
    assert source.where("train", 0) == f"{tmp_path}/train/data.mdb, key {keys[0]!r}"


def test_pickles_of_image_and_label_in_files_without_folders(tmp_path: Path) -> None:
    files = {split: [write(tmp_path / f"{split}.lmdb", pickled(range(24)), False)] for split in ("train", "test")}
    source = pickle.loads(pickle.dumps(Lmdb(files)))  # as a worker process gets it
    assert source.class_names == [str(number) for number in range(12)]  # by value, not as text
    for split in files:
        listing = source.splits[split]
        assert len(listing.keys) == 24
        for index, key in enumerate(listing.keys):
            name, number = key.split("/")
            assert name == f"{split}.lmdb" and source.load(split, index) == image(int(number))
            assert listing.labels[index] == int(number) % 12


def test_a_folder_of_databases_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, numbers in (("train", range(12)), ("val", range(12, 18)), ("test", range(18, 24))):
        write(tmp_path / "dbs" / f"{split}.lmdb", by_class(numbers))
    assert guessed(tmp_path / "dbs") == {"dataset": "lmdb", "source": str(tmp_path / "dbs")}
    monkeypatch.setattr("sys.argv", ["convert", f"{tmp_path}/dbs", f"out={tmp_path}/data", "workers=2"])
    main()
    assert "left out" not in capsys.readouterr().err
    dataset = Dataset(tmp_path / "data")
    assert dataset.class_names == ["größe", "lynx", "otter"]
    assert {name: split.counts.tolist() for name, split in dataset.splits.items()} == {
        "train": [4, 4, 4], "val": [2, 2, 2], "test": [2, 2, 2],
    }  # fmt: skip


def test_keys_are_the_same_when_another_database_arrives(tmp_path: Path) -> None:
    one = write(tmp_path / "dbs" / "a.lmdb", by_class(range(3)))
    keys = [f"a.lmdb/{key}" for key in sorted(by_class(range(3)), key=str.encode)]
    for place in (tmp_path / "dbs", tmp_path / "dbs" / "a.lmdb", one):
        assert Lmdb({"train": [one]}, top=folder_of(place)).splits["train"].keys == keys
    other = write(tmp_path / "dbs" / "new" / "b.lmdb", by_class(range(1)), False)
    both = Lmdb({"train": [one, other]}, top=folder_of(tmp_path / "dbs"))
    assert both.splits["train"].keys == [*keys, "new/b.lmdb/lynx/000.jpg"]


def test_keys_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    """Numbers as bytes, of which little-endian ones end in zeros; names in Latin-1."""
    names = [b"\0\0\0\7", b"\7\0\0\0", b"Stra\xdfe"]
    rows = {name.decode("utf-8", "surrogateescape"): (image(k), k % 2) for k, name in enumerate(names)}
    write(tmp_path / "a", rows)
    keys = {"source": tmp_path / "a", "test": 0, "workers": 1}
    dataset = fastlt.write_dataset("lmdb", tmp_path / "data", **keys)
    found = {dataset.key("train", row): dataset.data("train", row).tobytes() for row in range(3)}
    escaped = [r"a/\x00\x00\x00\x07", r"a/\x07\x00\x00\x00", r"a/Stra\udcdfe"]
    assert found == {key: image(number) for number, key in enumerate(escaped)}


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit(99)",)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"0": (Evil(), 1)}, "key '0': refused to load 'builtins.exec' from this pickle, nothing of it was run"),
        ({"0": (image(0), np.float64(1))}, "refused to load 'numpy"),
        ({"0": (image(0), None)}, "its label is a NoneType, allowed are numbers and texts"),
        ({"0": {"image": 3}}, "its pickle holds no pair of image file and label"),
        ({"0": b"\x80\x04broken"}, "its pickle cannot be read"),
        ({"0": image(0)}, "this sample has no label; allowed are keys CLASS/NAME"),
        ({"__len__": 3}, "there is no image in it"),
    ],
)
def test_what_no_layout_has_is_one_line(rows: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.mdb") as error:
        Lmdb({"train": [write(tmp_path / "train", rows)]})
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_database_does_not_end_the_process(tmp_path: Path) -> None:
    file = write(tmp_path / "train", by_class(range(40)))
    whole = file.read_bytes()
    for size in range(0, len(whole), 4096 * 3):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"data\.mdb (is truncated|is no LMDB database|is damaged)"):
            Lmdb({"train": [file]})
    told = refusal(main, "dataset=lmdb", f"source={tmp_path}", "test=0.2", f"out={tmp_path}/data", cwd=tmp_path)
    assert "data.mdb is truncated" in told and not (tmp_path / "data").exists()


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_text("no database, but long enough to be looked at" * 500)
    with pytest.raises(UserError, match=r"data\.mdb is no LMDB database"):
        Lmdb({"train": [tmp_path / "data.mdb"]})
