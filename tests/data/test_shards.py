"""Shards and index: readable by others, the same bytes for any number of workers, checked when opened."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (DALI declares less than it takes)

import io
import json
import os
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from pictures import Pictures, conversion, files
from PIL import Image
from webdataset.compat import WebDataset

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.shards import format as layout
from fastlt.data.shards.reader import Dataset


def copy(dataset: Dataset, to: Path) -> Path:
    to.mkdir()
    for name, data in files(dataset.root).items():
        (to / name).write_bytes(data)
    return to


def decoded(data: bytes | np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))


def test_index_says_where_every_sample_lies(jpeg_dataset: Dataset) -> None:
    source = Pictures()
    for split, listing in source.splits.items():
        index = jpeg_dataset.split(split)
        assert index.label.tolist() == listing.labels.tolist()
        for i, key in enumerate(listing.keys):
            assert jpeg_dataset.data(split, i).tobytes() == source.load(split, i)
            assert (index.height[i], index.width[i]) == source.array(split, i).shape[:2]
            assert index.crc32[i] == zlib.crc32(jpeg_dataset.data(split, i))
            assert jpeg_dataset.key(split, i) == key
        for j, count in enumerate(index.counts):
            members = index.class_members[index.class_start[j] : index.class_start[j + 1]]
            assert len(members) == count
            assert (index.label[members] == j).all()


def test_raw_samples_are_the_pixels(raw_dataset: Dataset) -> None:
    source = Pictures(pixels=True)
    for i in range(len(source.splits["train"].keys)):
        np.testing.assert_array_equal(raw_dataset.pixels("train", i), source.array("train", i))
        np.testing.assert_array_equal(
            np.load(io.BytesIO(raw_dataset.data("train", i).tobytes())), source.array("train", i)
        )


@pytest.mark.parametrize("kind", ["jpeg", "raw", "mixed"])
def test_a_batch_is_what_its_samples_are(kind: str, request: pytest.FixtureRequest) -> None:
    dataset: Dataset = request.getfixturevalue(f"{kind}_dataset")
    samples = np.array([70, 3, 3, 0, 41])
    raw = dataset.split("train").encoding[samples] == layout.RAW
    assert raw.any() == (kind != "jpeg") and raw.all() == (kind == "raw")
    kinds = dataset.data, dataset.pixels
    expected = [kinds[is_raw]("train", sample) for is_raw, sample in zip(raw.tolist(), samples.tolist(), strict=True)]
    for found, one in zip(dataset.stored("train", samples), expected, strict=True):
        np.testing.assert_array_equal(found, one)
        assert found.base is not None and not found.flags.writeable  # a view of the mapped shard
    if kind == "raw":
        np.testing.assert_array_equal(dataset.pixels_together("train", samples), np.stack(expected))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
@pytest.mark.parametrize("kind", ["keep", "jpeg", "png", "raw"])
def test_webdataset_reads_the_shards(kind: str, tmp_path: Path) -> None:
    dataset = Dataset(convert(Pictures(counts=(4, 2)), conversion(kind), tmp_path / "data", workers=1))
    shard = str(dataset.shards[0])
    samples = list(WebDataset(shard, shardshuffle=False, empty_check=False).decode("rgb8"))
    extension = {"keep": "jpg", "jpeg": "jpg", "png": "png", "raw": "npy"}[kind]
    assert [sample["cls"] for sample in samples] == dataset.split("train").label.tolist()
    for i, sample in enumerate(samples):
        mine = dataset.pixels("train", i) if kind == "raw" else decoded(dataset.data("train", i))
        np.testing.assert_array_equal(sample[extension], mine)


@pytest.mark.parametrize(("kind", "extension"), [("keep", "jpg"), ("png", "png")])
def test_stock_dali_reader_reads_the_shards(kind: str, extension: str, tmp_path: Path) -> None:
    dataset = Dataset(convert(Pictures(counts=(4, 2)), conversion(kind), tmp_path / "data", workers=1))
    shard = dataset.shards[0]

    @pipeline_def(batch_size=6, num_threads=1, device_id=None)
    def reading():
        image, label = fn.readers.webdataset(
            paths=[str(shard)],
            index_paths=[str(shard.with_suffix(".idx"))],
            ext=[extension, "cls"],
            missing_component_behavior="error",
        )
        return fn.decoders.image(image, output_type=types.RGB), label  # type: ignore[attr-defined]

    pipeline = reading()
    pipeline.build()
    images, labels = pipeline.run()
    for i in range(6):
        # Two builds of libjpeg-turbo may round differently.
        theirs, mine = np.array(images[i]).astype(int), decoded(dataset.data("train", i)).astype(int)
        assert np.abs(theirs - mine).max() <= (0 if extension == "png" else 2)
        assert bytes(np.array(labels[i])).decode() == str(dataset.split("train").label[i])


def test_dali_index_names_every_member(jpeg_dataset: Dataset) -> None:
    shard = jpeg_dataset.shards[0]
    header, *lines = shard.with_suffix(".idx").read_text().splitlines()
    data = shard.read_bytes()
    assert header == f"v1.2 {len(lines)}"
    for i, line in enumerate(lines):
        image, offset, size, name, cls, label_offset, label_size, _ = line.split()
        assert (image, cls, name) == ("jpg", "cls", f"{i:09d}.jpg")
        assert data[int(offset) : int(offset) + int(size)] == jpeg_dataset.data("train", i).tobytes()
        label = data[int(label_offset) : int(label_offset) + int(label_size)]
        assert int(label) == jpeg_dataset.split("train").label[i]


def test_bytes_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    options = conversion("png", shard_mb=1)
    source = Pictures(counts=(150, 60))
    one, four = (convert(source, options, tmp_path / str(n), workers=n) for n in (1, 4))
    assert files(one) == files(four)
    assert len([name for name in files(one) if name.endswith(".tar")]) > 3


def test_a_sample_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.data.convert.engine.SHARD_UNIT", 1)  # shard_mb counts bytes
    dataset = Dataset(convert(Pictures(counts=(3, 2)), conversion(shard_mb=10), tmp_path / "data", workers=1))
    assert dataset.split("train").shard.tolist() == [0, 1, 2, 3, 4]
    assert dataset.data("train", 4).tobytes() == Pictures(counts=(3, 2)).load("train", 4)


class Killed(BaseException):
    """Ends a conversion as a signal does: nothing catches it."""


def test_a_killed_conversion_goes_on_behind_its_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = conversion("png", shard_mb=1)
    source = Pictures(counts=(150, 60))
    whole = files(convert(source, options, tmp_path / "whole", workers=1))
    loads: list[tuple[str, int]] = []
    real = Pictures.load

    def counted(self: Pictures, split: str, index: int) -> bytes | np.ndarray:
        loads.append((split, index))
        if len(loads) == 200:
            raise Killed
        return real(self, split, index)

    monkeypatch.setattr(Pictures, "load", counted)
    with pytest.raises(Killed):
        convert(source, options, tmp_path / "cut", workers=1)
    assert not (tmp_path / "cut").exists()
    assert files(convert(source, options, tmp_path / "cut", workers=1)) == whole
    assert len(loads) < 200 + len(source.splits["train"].keys)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_other_options_do_not_take_up_an_unfinished_conversion(tmp_path: Path) -> None:
    partial = tmp_path / "data.partial"
    partial.mkdir()
    (partial / "conversion.json").write_text("{}")
    (partial / "train-000000.tar.rows.npz").write_bytes(b"left over")
    assert len(Dataset(convert(Pictures(), conversion(), tmp_path / "data", workers=1)).split("train")) == 71


def test_a_finished_dataset_is_not_touched_without_overwrite(tmp_path: Path) -> None:
    out = convert(Pictures(counts=(3, 2)), conversion(), tmp_path / "data", workers=1)
    before = files(out)
    with pytest.raises(UserError, match=r"finished dataset: choose another folder or add overwrite=true"):
        convert(Pictures(), conversion(), out, workers=1)
    assert files(out) == before
    convert(Pictures(), conversion(), out, workers=1, overwrite=True)
    assert len(Dataset(out).split("train")) == 71
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_image_that_does_not_decode_ends_the_conversion(tmp_path: Path) -> None:
    source = Pictures(broken=(("train", 5), ("test", 1)))
    with pytest.raises(UserError, match=r"train image train/größe 5.jpg does not decode .*and 1 more: 0 bad images"):
        convert(source, conversion(), tmp_path / "data", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_bad_images_within_the_budget_are_left_out_and_listed(tmp_path: Path) -> None:
    source = Pictures(broken=(("train", 5), ("test", 1)))
    dataset = Dataset(convert(source, conversion(max_bad=2), tmp_path / "data", workers=1))
    assert len(dataset.split("train")) == 70
    listed = {split: [row["key"] for row in rows] for split, rows in dataset.about["quarantined"].items()}
    assert listed == {"train": ["train/größe 5.jpg"], "test": ["test/größe 1.jpg"]}
    assert dataset.key("train", 5) == "train/größe 6.jpg"


def test_a_class_without_training_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class 1 \(class 1\) has no training image"):
        convert(Pictures(counts=(3, 0, 2)), conversion(), tmp_path / "data", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_class_whose_images_are_all_bad_is_named(tmp_path: Path) -> None:
    source = Pictures(counts=(3, 1), broken=(("train", 3),))
    with pytest.raises(UserError, match=r"class 1 \(class 1\) has no training image left"):
        convert(source, conversion(max_bad=1), tmp_path / "data", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_all_classes_without_training_images_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^classes 0 \(class 0\), 2 \(class 2\) have no training image: every class"):
        convert(Pictures(counts=(0, 3, 0)), conversion(), tmp_path / "data", workers=1)
    source = Pictures(counts=(3, 1, 1), broken=(("train", 3), ("train", 4)))
    with pytest.raises(UserError, match=r"^classes 1 \(class 1\), 2 \(class 2\) have no training image left, all are"):
        convert(source, conversion(max_bad=2), tmp_path / "data", workers=1)


def test_classes_that_look_the_same_are_refused_or_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Pictures(counts=(2, 2), pixels=True)
    object.__setattr__(source, "class_names", ["e\u0301", "\u00e9"])
    with pytest.raises(UserError, match=r"look the same but are spelled 'e\\u0301' and '\\xe9': rename one of them"):
        convert(source, conversion(), tmp_path / "data", workers=1)
    object.__setattr__(source, "class_names", ["Straße", "STRASSE"])
    convert(source, conversion(), tmp_path / "data", workers=1)
    assert "the classes 'Straße' and 'STRASSE' differ only in upper and lower case: are" in capsys.readouterr().err


def test_opening_a_damaged_dataset_says_what_is_wrong(
    jpeg_dataset: Dataset, raw_dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no dataset.json"):
        Dataset(tmp_path)
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to(path)):
        (tmp_path / str(make)).mkdir()
        make(tmp_path / str(make) / "dataset.json")
        with pytest.raises(UserError, match=r"dataset.json is no file: put it back, or convert the dataset again"):
            Dataset(tmp_path / str(make))

    cut = copy(jpeg_dataset, tmp_path / "cut")
    shard = cut / layout.shard_name("train", 0)
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"train-000000.tar is truncated: \d+ bytes, dataset.json says \d+"):
        Dataset(cut)
    shard.unlink()
    with pytest.raises(UserError, match=r"train-000000.tar is missing"):
        Dataset(cut)

    other = copy(jpeg_dataset, tmp_path / "other")
    (other / layout.INDEX_FILE).write_bytes((raw_dataset.root / layout.INDEX_FILE).read_bytes())
    with pytest.raises(UserError, match="is the index of another dataset"):
        Dataset(other)
    (other / layout.INDEX_FILE).write_bytes(b"not hdf5")
    with pytest.raises(UserError, match=r"index .*index.h5 is damaged"):
        Dataset(other)
    (other / layout.INDEX_FILE).unlink()
    with pytest.raises(UserError, match=r"index .*index.h5 is missing"):
        Dataset(other)

    about = json.loads((other / layout.DATASET_FILE).read_text())
    (other / layout.DATASET_FILE).write_text(json.dumps({**about, "schema": 99}))
    with pytest.raises(UserError, match="has schema 99, this version reads 1"):
        Dataset(other)
    (other / layout.DATASET_FILE).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        Dataset(other)


def test_dataset_json_counts_and_hashes(jpeg_dataset: Dataset) -> None:
    about = json.loads((jpeg_dataset.root / layout.DATASET_FILE).read_text())
    assert about["splits"]["train"] == {"samples": 71, "counts": [40, 20, 8, 3], "encodings": {"jpg": 71}}
    assert [shard["size"] for shard in about["shards"]] == [path.stat().st_size for path in jpeg_dataset.shards]
    with h5py.File(jpeg_dataset.root / layout.INDEX_FILE) as index:
        assert index.attrs["dataset"] == about["digest"]
    with pytest.raises(UserError, match="has no split foo: it has train, val, test"):
        jpeg_dataset.split("foo")
