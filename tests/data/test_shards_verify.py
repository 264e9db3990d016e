"""python -m fastlt.shards verify: every kind of damage is found and named, and nothing else is."""

import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import h5py
import numpy as np
import pytest
from pictures import Pictures, conversion

from fastlt import shards as command
from fastlt.data.convert import convert
from fastlt.data.shards import format as layout
from fastlt.data.shards import verify as verifying
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify

TRAIN = layout.shard_name("train", 0)


def convert_small(kind: str, out: Path, shard_bytes: int = 100_000) -> Dataset:
    """Pictures in shards of a few samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastlt.data.convert.engine.SHARD_UNIT", 1)  # shard_mb counts bytes
        source = Pictures(counts=(20, 6, 2), pixels=kind == "raw")
        return Dataset(convert(source, conversion(kind, shard_mb=shard_bytes), out, workers=1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Pictures as PNG in several shards; what a test damages is a copy."""
    return convert_small("png", tmp_path_factory.mktemp("png") / "data")


@pytest.fixture
def root(whole: Dataset, tmp_path: Path) -> Path:
    """A copy to damage."""
    out = tmp_path / "data"
    out.mkdir()
    for path in whole.root.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def change(root: Path, column: str, sample: int, value: int) -> None:
    with h5py.File(root / layout.INDEX_FILE, "r+") as file:
        file["train"][column][sample] = value  # type: ignore[index]


def describe_anew(root: Path, **fields: object) -> None:
    path = root / layout.DATASET_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def findings(root: Path) -> list[str]:
    """The lines of a damaged dataset, those apart that only tell that a hash or checksum differs."""
    verdict = verify(root)
    assert verdict.findings == len(verdict.lines) > 0
    differs = r": (has SHA-256 [0-9a-f]{64}, dataset.json says|column \w+ of \w+ does not match its checksum)"
    hashes = [line for line in verdict.lines if re.search(differs, line)]
    return [line for line in verdict.lines if line not in hashes]


def called(sample: int, label: int = 0) -> str:
    return f"key train/größe {sample}.jpg, label {label} (class {label})"


@pytest.mark.parametrize("kind", ["keep", "jpeg", "png", "raw"])
def test_a_good_dataset_passes(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = convert_small(kind, tmp_path / "data", 30_000)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in dataset.root.iterdir()}
    with pytest.raises(SystemExit) as stop:
        command.main(["verify", str(dataset.root)])
    assert stop.value.code == 0
    size = sum(path.stat().st_size for path in dataset.shards)
    assert len(dataset.shards) > 3
    line = f"{dataset.root}: {len(dataset.shards)} shards, 46 samples, {size / 1e6:.1f} MB: all checks passed\n"
    assert capsys.readouterr().out == line
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in dataset.root.iterdir()} == before


def test_the_session_datasets_pass(jpeg_dataset: Dataset, raw_dataset: Dataset) -> None:
    assert verify(jpeg_dataset.root).lines == verify(raw_dataset.root).lines == []


@pytest.mark.parametrize("block", [512, 700, 4096])
def test_a_dataset_passes_whatever_is_read_at_once(
    block: int, jpeg_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlt.data.shards.verify_shard.BLOCK", block)  # members begin and end anywhere in a block
    assert verify(jpeg_dataset.root).lines == []


def test_headers_are_those_of_tarfile() -> None:
    for name, size in (("000000001.jpg", 3000), ("123456789.cls", 1), ("000000000.npy", 0), ("1.png", 8**11 - 1)):
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        assert layout.member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_flipped_byte_of_an_image_is_named(whole: Dataset, root: Path) -> None:
    index = whole.split("train")
    shard, offset = index.shard[9], int(index.offset[9])
    flip(root / whole.shards[shard].name, offset + 100)
    data = bytearray(whole.data("train", 9))
    data[100] ^= 1
    crc = f"{zlib.crc32(data):08x}, index.h5 says {index.crc32[9]:08x}"
    name = whole.shards[shard].name
    assert findings(root) == [f"{name}, offset {offset}, {called(9)}: the image's bytes have CRC-32 {crc}"]
    assert verify(root).lines[1].startswith(f"{name}: has SHA-256")


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "the tar header of 000000001.png is damaged (bad checksum)"),
        (130, "the tar header of 000000001.png is damaged (bad checksum)"),
        (500, "the tar header of 000000001.png is damaged (bad checksum)"),
    ],
)
def test_a_flipped_byte_of_a_tar_header_is_named(at: int, text: str, whole: Dataset, root: Path) -> None:
    start = int(whole.split("train").offset[1]) - layout.BLOCK
    flip(root / TRAIN, start + at)
    assert findings(root) == [f"{TRAIN}, offset {start}, {called(1)}: {text}"]


def test_flipped_bytes_around_a_label_are_named(whole: Dataset, root: Path) -> None:
    index = whole.split("train")
    end = int(index.offset[1] + index.length[1])
    label = int(layout.label_offset(index.offset[1], index.length[1]))
    header = label - layout.BLOCK
    assert header > end  # there is padding
    for at in (end, header + 5, label):
        flip(root / TRAIN, at)
    assert findings(root) == [
        f"{TRAIN}, offset {end}, {called(1)}: the padding after the image is not zero",
        f"{TRAIN}, offset {header}, {called(1)}: the tar header of 000000001.cls is damaged (bad checksum)",
        f"{TRAIN}, offset {label}, {called(1)}: the label member says '1', index.h5 says 0",
    ]


def test_a_damaged_end_is_named(root: Path) -> None:
    size = (root / TRAIN).stat().st_size
    flip(root / TRAIN, size - 1)
    assert findings(root) == [f"{TRAIN}, offset {size - 1024}: the end of the tar is damaged: its bytes are not zero"]


def test_members_that_changed_places_are_named(whole: Dataset, root: Path) -> None:
    """Both headers are whole, but not what the index expects there."""
    first, second = (int(offset) - layout.BLOCK for offset in whole.split("train").offset[:2])
    data = bytearray((root / TRAIN).read_bytes())
    data[first : first + 512], data[second : second + 512] = data[second : second + 512], data[first : first + 512]
    (root / TRAIN).write_bytes(data)
    one, two = findings(root)
    assert re.search(r"key train/größe 0.jpg.*says 000000001.png of \d+ bytes, index.h5 says 000000000.png of \d+", one)
    assert re.search(r"key train/größe 1.jpg.*says 000000000.png of \d+ bytes, index.h5 says 000000001.png of \d+", two)


def test_a_truncated_shard_is_named_and_the_rest_checked(whole: Dataset, root: Path) -> None:
    size = (root / TRAIN).stat().st_size
    inside = np.flatnonzero(whole.split("train").shard == 0)
    offset = int(whole.split("train").offset[inside[-2]])
    (root / TRAIN).write_bytes((root / TRAIN).read_bytes()[: offset + 10])
    flip(root / TRAIN, 600)
    one, two, three = findings(root)
    assert one == f"{TRAIN}: is truncated: {offset + 10} bytes, dataset.json says {size}"
    beyond = f"lies beyond the shard's end at {offset + 10}, the first of 2 such samples"
    assert two == f"{TRAIN}, offset {offset}, {called(int(inside[-2]))}: {beyond}"
    assert "key train/größe 0.jpg" in three and "CRC-32" in three


def test_a_shard_that_grew_is_named(root: Path) -> None:
    with (root / TRAIN).open("ab") as file:
        file.write(b"more")
    (line,) = findings(root)
    assert "is not the shard that was written" in line


def test_missing_shards_and_dali_indexes_are_named(whole: Dataset, root: Path) -> None:
    samples = int((whole.split("train").shard == 0).sum())
    (root / TRAIN).unlink()
    (root / layout.index_name(layout.shard_name("test", 0))).unlink()
    assert findings(root) == [f"{TRAIN}: is missing, with its {samples} samples", "test-000000.idx: is missing"]


def test_a_shard_of_something_else_is_named(root: Path) -> None:
    for name in ("train-000098.idx", "train-000099.tar"):
        (root / name).write_bytes(b"")
    assert findings(root) == [
        f"{layout.DATASET_FILE}: does not list train-000098.idx, which lies beside it",
        f"{layout.DATASET_FILE}: does not list train-000099.tar, which lies beside it",
    ]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_named(make: Callable[[Path], None], root: Path) -> None:
    dali = layout.index_name(layout.shard_name("test", 0))
    for name in (layout.INDEX_FILE, dali):
        (root / name).unlink()
        make(root / name)
    assert findings(root) == ["index.h5: is no file: convert the dataset again", f"{dali}: is no file"]


def test_a_label_changed_in_the_index_is_named(whole: Dataset, root: Path) -> None:
    change(root, "label", 1, 2)
    label = int(layout.label_offset(*(int(getattr(whole.split("train"), c)[1]) for c in ("offset", "length"))))
    assert findings(root) == [
        "index.h5: train has 19 samples of label 0 (class 0), dataset.json says 20",
        "index.h5: train has 3 samples of label 2 (class 2), dataset.json says 2",
        "index.h5: train has 19 samples of label 0 (class 0), class_start says 20",
        "index.h5: train has 3 samples of label 2 (class 2), class_start says 2",
        "index.h5: class_members of train is not the order of the labels at 25 places, first at 1, "
        "where it names sample 1",
        f"{TRAIN}, offset {label}, {called(1, 2)}: the label member says '0', index.h5 says 2",
    ]


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        (
            "label",
            99,
            r"index.h5, offset \d+, key train/größe 1.jpg, label 99: train sample 1 has label 99, there are 3",
        ),
        ("label", -1, r"train sample 1 has label -1, there are 3 classes"),
        ("shard", 77, r"train sample 1 lies in shard 77, which is none of train"),
        ("offset", 3, r"key train/größe 1.jpg, label 0 .class 0.: should lie at \d+, after"),
        ("offset", 10**15, r"offset 1000000000000000, key train/größe 1.jpg.*lies beyond the shard's end"),
        (
            "length",
            7,
            r"train sample 1 of 7 bytes cannot|the tar header says 000000001.png of \d+ bytes, index.h5 says",
        ),
        ("length", -5, r"key train/größe 1.jpg.*the tar header says"),
        ("encoding", 9, r"000000001.png of \d+ bytes, index.h5 says 000000001.encoding9 of"),
        ("crc32", 5, r"key train/größe 1.jpg.*have CRC-32 \w{8}, index.h5 says 00000005"),
        ("height", 0, r"train sample 1 of \d+ bytes cannot have 0 x \d+ pixels"),
        (
            "class_members",
            3,
            r"class_members of train is not the order of the labels at 1 place, first at 1, .* sample 3",
        ),
        ("class_start", 3, r"train has 20 samples of label 0 .class 0., class_start says 3"),
    ],
)
def test_what_changed_in_the_index_is_named(column: str, value: int, text: str, root: Path) -> None:
    change(root, column, 1, value)
    lines = findings(root)
    assert any(re.search(text, line) for line in lines), lines
    # The samples beside it are not blamed.
    assert all("größe 1.jpg" in line for line in lines if "größe" in line), lines


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda lines: [lines[0], lines[1].replace("png 512", "png 513"), *lines[2:]], "line 2 says 'png 513 "),
        (lambda lines: ["v1.2 7\n", *lines[1:]], "line 1 says 'v1.2 7', index.h5 gives 'v1.2 "),
        (lambda lines: lines[:-1], "samples have no line"),
        (lambda lines: [*lines, "more\n"], "and what follows belong to no sample"),
    ],
)
def test_a_changed_dali_index_is_named(damage: Callable[[list[str]], list[str]], text: str, root: Path) -> None:
    path = root / layout.index_name(TRAIN)
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))))
    (line,) = findings(root)
    assert line.startswith(path.name) and text in line
    assert called(0) in line or "line 2" not in text


def test_an_edited_description_is_named(root: Path) -> None:
    describe_anew(root, name="other")
    (line,) = findings(root)
    assert re.fullmatch(r"dataset.json: holds the digest \w{64}, but its fields give \w{64}: it was edited", line)
    describe_anew(root, digest="0" * 64)
    assert len(findings(root)) == 2  # the index is another's, too


def test_an_edited_digest_does_not_keep_the_index_from_being_used(root: Path) -> None:
    describe_anew(root, digest="0" * 64)
    flip(root / TRAIN, 600)
    lines = findings(root)
    assert [line.split(":")[0].split(",")[0] for line in lines] == ["dataset.json", TRAIN]
    assert called(0) in lines[1]


@pytest.mark.parametrize("fields", [{"shards": [{"name": "x"}]}, {"splits": {"train": []}}, {"schema": 9}, {"name": 3}])
def test_a_broken_description_is_a_finding(fields: dict[str, object], root: Path) -> None:
    describe_anew(root, **fields)
    verdict = verify(root)
    assert verdict.findings == 1 and verdict.lines[0].startswith("dataset.json: ")


def test_the_index_of_another_dataset_is_named(raw_dataset: Dataset, root: Path) -> None:
    (root / layout.INDEX_FILE).write_bytes((raw_dataset.root / layout.INDEX_FILE).read_bytes())
    (root / layout.shard_name("test", 0)).unlink()  # what needs no index is still checked
    flip(root / TRAIN, 600)
    lines = verify(root).lines
    assert len(lines) == 3
    assert lines[0].startswith("index.h5: is the index of another dataset (")
    assert lines[1].startswith(f"{TRAIN}: has SHA-256") and lines[2] == "test-000000.tar: is missing"


@pytest.mark.parametrize("damage", ["missing", "no HDF5", "cut", "no column", "short column", "text column", "link"])
def test_a_damaged_index_is_a_finding(damage: str, root: Path) -> None:
    path = root / layout.INDEX_FILE
    if damage == "missing":
        path.unlink()
    elif damage in ("no HDF5", "cut"):
        path.write_bytes(b"no HDF5" if damage == "no HDF5" else path.read_bytes()[:5000])
    else:
        with h5py.File(path, "r+") as file:
            del file["train/label"]
            if damage == "link":
                file["train/label"] = h5py.ExternalLink("/etc/passwd", "/")
            elif damage != "no column":
                file["train/label"] = [1, 2] if damage == "short column" else [b"x"] * len(file["train/offset"])  # type: ignore
    lines = findings(root)
    assert len(lines) == 1
    structure = "what lies between its columns does not match its checksum"  # that is not followed
    told = {"missing": "is missing", "no column": structure, "link": structure}
    assert lines[0].startswith(f"index.h5: {told.get(damage, 'is damaged (')}")


def test_several_kinds_of_damage_are_all_listed(whole: Dataset, root: Path) -> None:
    index = whole.split("train")
    second = whole.shards[1].name
    sample = int(np.flatnonzero(index.shard == 1)[0])
    flip(root / TRAIN, 600)
    flip(root / second, int(index.offset[sample]))
    (root / layout.shard_name("test", 0)).unlink()
    idx = root / layout.index_name(layout.shard_name("val", 0))
    idx.write_text(idx.read_text().replace("cls", "CLS", 1))
    describe_anew(root, protocol="other")
    lines = findings(root)
    assert [re.split("[:,]", line)[0] for line in lines] == ["dataset.json", TRAIN, second, idx.name, "test-000000.tar"]
    assert called(0) in lines[1] and called(sample) in lines[2]


def test_findings_of_many_samples_number_the_split_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for sample in range(5):
        change(root, "label", sample, 99)
    numbered: list[str] = []
    known = verifying.numbers
    monkeypatch.setattr(verifying, "numbers", lambda about, split: (numbered.append(split), known(about, split))[1])
    assert verify(root).findings >= 5
    assert numbered.count("train") == 2  # for the index and for the shards


def test_lines_are_limited_and_no_file_hides_another(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(root / layout.INDEX_FILE, "r+") as file:
        file["train/crc32"][:] = 0  # type: ignore[index]
    (root / layout.shard_name("test", 0)).unlink()
    with pytest.raises(SystemExit) as stop:
        command.main(["verify", str(root), "--lines", "6"])
    assert stop.value.code == 1
    *lines, summary = capsys.readouterr().out.splitlines()
    more = [line for line in lines if re.search(r": and \d+ more findings?$", line)]
    assert len(lines) - len(more) == 6 and "test-000000.tar: is missing, with its 9 samples" in lines
    total = 6 + sum(int(line.split()[-3]) for line in more)
    assert total == 28 + 2 and summary.endswith(f": {total} findings")


def test_keys_and_class_names_stay_in_their_line(tmp_path: Path) -> None:
    source = Pictures(counts=(3,))
    source.class_names[0] = "two\nlines"
    source.splits["train"].keys[0] = "a\tb\nc"
    root = convert(source, conversion(), tmp_path / "data", workers=1)
    flip(root / TRAIN, 600)
    (line,) = findings(root)
    assert r"key a\tb\nc, label 0 (two\nlines): " in line


def test_a_shard_that_cannot_be_read_is_a_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, end: int) -> Iterator[memoryview]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("fastlt.data.shards.verify_shard._Stream.pieces", fails)
    lines = verify(root).lines
    assert lines[0] == f"{TRAIN}, offset 0: cannot be read (Input/output error)"


def test_wrong_input_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    def refusal(*arguments: str) -> str:
        return commands.refusal(command.main, *arguments, cwd=tmp_path)

    assert "nowhere: no such folder" in refusal("verify", "nowhere")
    assert "empty has no dataset.json" in refusal("verify", "empty")
    assert "the following arguments are required: DIR" in refusal("verify")
    assert "invalid choice: 'chekc'" in refusal("chekc")
    assert "--lines=-1: it must be 0 or more" in refusal("verify", "empty", "--lines=-1")


def test_the_command_runs_in_a_process_of_its_own(root: Path) -> None:
    flip(root / TRAIN, 600)
    done = commands.run("-m", "fastlt.shards", "verify", "data", cwd=root.parent)
    assert (done.returncode, done.stderr) == (1, "")
    assert called(0) in done.stdout and done.stdout.splitlines()[-1].startswith("data: ")
    debug = commands.run("-m", "fastlt.shards", "verify", "nowhere", "--debug", cwd=root.parent)
    assert debug.returncode == 1 and "Traceback" in debug.stderr
