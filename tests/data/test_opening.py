"""What a dataset was found to be when it was opened is what is read from it, and damage of its index is found."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import Pictures, conversion

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards import format as layout
from fastlt.data.shards import reader
from fastlt.data.shards.content import write_description
from fastlt.data.shards.index import INDEXED, write_index
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.longtail.sampler import InOrder


def copy(dataset: Dataset, out: Path) -> Path:
    shutil.copytree(dataset.root, out)
    return out


def inverted(root: Path) -> None:
    """Makes a raw dataset one of other pixels, as a conversion of other images with the same sizes would."""
    about = json.loads((root / layout.DATASET_FILE).read_text())
    dataset = Dataset(root)
    for number, shard in enumerate(dataset.shards):
        data = bytearray(shard.read_bytes())
        for index in dataset.splits.values():
            for sample in np.flatnonzero(index.shard == number).tolist():
                size = 3 * int(index.height[sample]) * int(index.width[sample])
                end = int(index.offset[sample] + index.length[sample])
                data[end - size : end] = bytes(255 - value for value in data[end - size : end])
        shard.write_bytes(data)
        about["shards"][number]["sha256"] = "of the other"
    columns = {
        split: {name: getattr(index, name) for name in layout.COLUMNS} | {"key": np.zeros(len(index), "S1")}
        for split, index in dataset.splits.items()
    }
    write_description(root, about, columns)


@pytest.fixture
def twins(raw_dataset: Dataset, tmp_path: Path) -> tuple[Path, Path]:
    """Two datasets that differ in their pixels and digests alone."""
    one, other = copy(raw_dataset, tmp_path / "one"), copy(raw_dataset, tmp_path / "other")
    inverted(other)
    return one, other


def put(finished: Path, place: Path) -> None:
    """As the end of a conversion with overwrite=true."""
    place.rename(place.with_name("old"))
    finished.rename(place)
    shutil.rmtree(place.with_name("old"))


def pixels(dataset: Dataset) -> np.ndarray:
    return np.stack([dataset.pixels("train", sample) for sample in range(len(dataset.split("train")))])


def test_a_dataset_that_is_converted_anew_is_read_as_it_was_opened(twins: tuple[Path, Path]) -> None:
    one, other = twins
    expected, opened = pixels(Dataset(one)).copy(), Dataset(one)
    put(other, one)
    np.testing.assert_array_equal(pixels(opened), expected)
    order = InOrder(np.arange(len(opened.split("train"))))
    with Loader(opened, "train", order, Augment(32, crop_pct=1.0), 16, dtype=torch.uint8) as loader:
        seen = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in loader.epoch()])
    np.testing.assert_array_equal(seen, expected)
    assert opened.key("train", 0) == "unknown (sample 0)"  # its index is gone, the new one is of other images
    again = Dataset(one)
    assert again.digest != opened.digest
    np.testing.assert_array_equal(pixels(again), 255 - expected)


def test_a_dataset_that_is_replaced_while_it_is_opened_is_all_new(
    twins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = twins
    expected, digest = pixels(Dataset(other)).copy(), Dataset(other).digest
    read_index, calls = reader.read_index, []

    def read_late(*arguments: object) -> object:
        if not calls:
            put(other, one)
        calls.append(1)
        return read_index(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "read_index", read_late)
    opened = Dataset(one)
    assert (opened.digest, len(calls)) == (digest, 2)
    np.testing.assert_array_equal(pixels(opened), expected)


def test_more_shards_than_a_process_may_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.data.convert.engine.SHARD_UNIT", 1)  # shard_mb counts bytes
    options = conversion("raw", shard_mb=4_000)  # less than two samples
    root = convert(Pictures(counts=(60, 3), pixels=True), options, tmp_path / "data", workers=1)
    before, limits = len(list(Path("/proc/self/fd").iterdir())), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
    try:
        dataset = Dataset(root)
        assert len(dataset.shards) > 60
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert pixels(dataset).shape == (63, 32, 32, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert Path("/proc/self/maps").read_text().count(str(root)) == len(dataset.shards)
    view = dataset.pixels("train", 0)
    shard = dataset.shards[dataset.split("train").shard[0]]
    del dataset
    assert Path("/proc/self/maps").read_text().count(str(root)) == 1  # the view keeps its own shard
    assert view.base is not None and str(shard) in Path("/proc/self/maps").read_text()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0


def flips(path: Path, count: int) -> list[bytes]:
    data, rng = path.read_bytes(), np.random.default_rng(0)
    flipped = []
    for bit in rng.choice(8 * len(data), count, replace=False).tolist():
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(damaged))
    return flipped


@pytest.mark.parametrize("name", [layout.INDEX_FILE, layout.DATASET_FILE])
def test_a_flipped_bit_is_refused_or_changes_nothing(raw_dataset: Dataset, tmp_path: Path, name: str) -> None:
    root, refused = copy(raw_dataset, tmp_path / "data"), 0
    for damaged in flips(root / name, 150):
        (root / name).write_bytes(damaged)
        try:
            opened = Dataset(root)
        except UserError as error:
            refused += 1
            assert str(root / name) in str(error) and "\n" not in str(error)
            continue
        assert opened.about == raw_dataset.about
        for split, index in opened.splits.items():
            for column in INDEXED:
                np.testing.assert_array_equal(getattr(index, column), getattr(raw_dataset.split(split), column))
    assert refused > 30


@pytest.mark.parametrize(
    "edit",
    [
        lambda about: about["mean"].reverse(),
        lambda about: about["class_names"].reverse(),
        lambda about: about["shards"][0].update(sha256="another"),
        lambda about: about["index"]["columns"]["train"]["label"].update(crc32=1),
        lambda about: about.update(digest="another"),
    ],
)
def test_an_edited_description_is_refused(raw_dataset: Dataset, tmp_path: Path, edit: Callable[[dict], None]) -> None:
    root = copy(raw_dataset, tmp_path / "data")
    about = json.loads((root / layout.DATASET_FILE).read_text())
    edit(about)
    (root / layout.DATASET_FILE).write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"dataset\.json is damaged or was edited \(its digest is \w+, what it says"):
        Dataset(root)


def described_anew(root: Path, change: Callable[[dict, dict[str, np.ndarray]], None]) -> None:
    """A dataset that says something else, with all checksums right, as somebody could make it."""
    about = json.loads((root / layout.DATASET_FILE).read_text())
    columns = {name: getattr(Dataset(root).split("train"), name).copy() for name in INDEXED}
    columns["key"] = np.zeros(len(columns["label"]), "S1")
    splits = {"train": about["splits"]["train"]}
    about = {name: value for name, value in about.items() if name not in ("digest", "index")} | {"splits": splits}
    change(about, columns)
    about = write_index(root / layout.INDEX_FILE, about, {"train": columns})
    (root / layout.DATASET_FILE).write_text(json.dumps(about))


def setting(column: str, value: int, at: int = 0) -> Callable[[dict, dict[str, np.ndarray]], None]:
    return lambda about, columns: columns[column].__setitem__(at, value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (setting("label", 9), "label holds 9, allowed are 0 to 3"),
        (setting("label", -1), "label holds -1"),
        (setting("label", 3), "class_start, the labels and the counts of dataset.json are at odds"),
        (setting("shard", 99), "shard holds 99, allowed are 0 to "),
        (setting("offset", -512), "offset holds -512"),
        (setting("offset", 1 << 40), "samples end after their shards"),
        (setting("length", 0), "length holds 0"),
        (setting("length", 1 << 61), "samples end after their shards"),
        (setting("height", 30_000), "raw samples are shorter than their pixels"),
        (setting("width", 0), "width holds 0"),
        (setting("encoding", 7), "encoding holds 7, allowed are 0 to 2"),
        (setting("class_members", 70, 1), "class_members is not the order of the labels"),
        (setting("class_members", 10_000), "class_members holds 10000"),
        (setting("class_start", 41, 1), "class_start, the labels and the counts of dataset.json are at odds"),
        (setting("class_start", 1), "class_start, the labels and the counts of dataset.json are at odds"),
        (lambda about, columns: about["splits"]["train"].update(samples=2_000_000_000), "cannot have 2000000000 rows"),
        (
            lambda about, columns: columns.update(label=columns["label"][:5].copy()),
            "cannot have 71 rows",
        ),
    ],
)
def test_values_that_cannot_be_are_one_line(
    raw_dataset: Dataset, tmp_path: Path, change: Callable[[dict, dict[str, np.ndarray]], None], told: str
) -> None:
    root = copy(raw_dataset, tmp_path / "data")
    described_anew(root, lambda about, columns: None)
    assert len(Dataset(root).split("train")) == 71
    described_anew(root, change)
    with pytest.raises(UserError) as error:
        Dataset(root)
    line = str(error.value)
    assert line.startswith(f"index {root / layout.INDEX_FILE} is damaged (") and told in line and "\n" not in line
    verify(root)  # tells it without falling


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mean": [0.1, 0.2]}, "mean=[0.1, 0.2], not three numbers from 0 to 1"),
        ({"mean": ["0.1", 0.2, 0.3]}, "not three numbers"),
        ({"std": [0.1, 0.0, 0.3]}, "not three numbers above 0, at most 1"),
        ({"std": [0.1, float("nan"), 0.3]}, "not three numbers above 0, at most 1"),
        ({"class_names": ["a", "b", "c", "a"]}, "two classes have the name 'a'"),
        ({"class_names": ["a", "b", "c", None]}, "class_names are no names"),
        ({"class_names": ["a"]}, "splits.train.counts are no number of samples for each of 1 class"),
        ({"name": "${oc.env:HOME}"}, "name is '${oc.env:HOME}'"),
        ({"name": "a\x1b[2J"}, "name is 'a\\x1b[2J'"),
        ({"protocol": "${oc.env:HOME}"}, "protocol is '${oc.env:HOME}'"),
        *(({"protocol": name}, f"protocol is '{name}'") for name in ("../grid/demo", "demo,small_32", "[a]", "~demo")),
        ({"protocol": None}, "no protocol"),
        ({"options": 3}, "no options"),
        ({"source": []}, "no source"),
        ({"splits": {}}, "splits are []"),
        ({"shards": [{"name": "../x.tar", "size": 1, "sha256": ""}]}, "a shard is called '../x.tar'"),
        ({"shards": [{"name": "/etc/passwd", "size": 1, "sha256": ""}]}, "a shard is called '/etc/passwd'"),
        ({"shards": [{"name": "a.tar", "size": -1, "sha256": ""}]}, "no shards.0.size"),
        ({"shards": [{"name": "a.tar", "size": True, "sha256": ""}]}, "no shards.0.size"),
        ({"index": {"size": 3}}, "no index.crc32, index.columns"),
    ],
)
def test_descriptions_that_cannot_be_are_one_line(
    raw_dataset: Dataset, tmp_path: Path, fields: dict[str, object], told: str
) -> None:
    about = {**raw_dataset.about, **fields}
    (tmp_path / layout.DATASET_FILE).write_text(json.dumps(about | {"digest": layout.dataset_digest(about)}))
    with pytest.raises(UserError) as error:
        Dataset(tmp_path)
    line = str(error.value)
    assert told in line and line.endswith("): convert the dataset again") and "\n" not in line


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "3", '{"schema": []}', ""])
def test_a_file_of_something_else_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / layout.DATASET_FILE).write_text(text)
    with pytest.raises(UserError, match=r"^[^\n]*dataset\.json [^\n]*convert the dataset again$"):
        Dataset(tmp_path)
