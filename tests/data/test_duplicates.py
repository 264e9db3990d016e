"""Near duplicates across splits: what counts as one, what does not, how they are reported and left out."""

import io
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, picture
from PIL import Image

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.convert.duplicates import Looks, close_pairs, near_duplicates
from fastlt.data.shards.describe import describe, page
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.look import look_of
from fastlt.data.sources.examples import Examples


def resaved(pixels: np.ndarray, scale: float, quality: int) -> bytes:
    """The image scaled and compressed anew."""
    image = Image.fromarray(pixels)
    size = (round(image.width * scale), round(image.height * scale))
    return jpeg(np.asarray(image.resize(size, Image.Resampling.BICUBIC)), quality)


def looks_of(source: Examples) -> dict[str, Looks]:
    found = {}
    for split, listing in source.splits.items():
        images = [source.load(split, place) for place in range(len(listing.keys))]
        images = [Image.fromarray(one) if isinstance(one, np.ndarray) else one for one in images]
        opened = [Image.open(io.BytesIO(one)) if isinstance(one, bytes) else one for one in images]
        looks = np.array([look_of(one) for one in opened], np.uint64)
        found[split] = Looks(looks, np.arange(len(looks)))
    return found


def found_in(train: list, test: list) -> list[tuple[int, int]]:
    """(place in test, place in train) of near duplicates."""
    source = Examples({"train": [(one, 0) for one in train], "test": [(one, 0) for one in test]}, "x")
    return [(twin.place, twin.other) for twin in near_duplicates(source, looks_of(source), Encoding())["test"]]


def test_scaled_and_compressed_copies_are_found_and_other_images_are_not() -> None:
    train = [picture(seed, 120, 160) for seed in range(40)]
    test = [resaved(train[seed], scale, quality) for seed, scale, quality in ((3, 1, 30), (7, 0.5, 90), (9, 1.6, 75))]
    test += [picture(seed, 120, 160) for seed in range(100, 140)]
    mirrored = train[5][:, ::-1].copy()
    assert found_in(train, [*test, mirrored]) == [(0, 3), (1, 7), (2, 9)]


def test_images_of_one_colour_are_alike_only_in_that_colour() -> None:
    def plain(value: int) -> np.ndarray:
        return np.full((40, 40, 3), value, np.uint8)

    assert found_in([plain(10), plain(200)], [plain(11), plain(90), plain(199)]) == [(0, 0), (2, 1)]
    red, blue = plain(0), plain(0)
    red[..., 0], blue[..., 2] = 100, 255
    assert found_in([red], [blue]) == []


def test_close_pairs_are_those_of_a_comparison_of_all() -> None:
    rng = np.random.default_rng(0)
    looks = np.unique(rng.integers(0, 1 << 64, 300, np.uint64))
    one = np.uint64(1)
    flips = [np.bitwise_or.reduce(one << rng.integers(0, 64, bits, np.uint64)) for bits in [0, 1, 3, 4, 5, 8] * 9]
    close = looks[: len(flips)] ^ np.array(flips, np.uint64)
    others = np.unique(np.concatenate([close, rng.integers(0, 1 << 64, 300, np.uint64)]))
    distance = np.bitwise_count(looks[:, None] ^ others)
    expected = np.argwhere(distance <= 4)
    pairs = np.concatenate([part.pairs for part in close_pairs(looks, others)])
    assert len(expected) >= 36 and sorted(map(tuple, pairs.tolist())) == sorted(map(tuple, expected.tolist()))


def test_time_and_memory_of_a_hash_are_bounded() -> None:
    """Hashes that agree in most of the ranges, as those of products on a white ground do."""
    rng = np.random.default_rng(0)
    others = np.unique(rng.integers(0, 1 << 18, 3000, np.uint64) << np.uint64(20)) | np.uint64(63)
    flips = np.where(np.arange(len(others)) % 2, 1 << 21, 1 << 21 | 1 << 30).astype(np.uint64)
    looks, places = np.unique(others ^ flips, return_index=True)
    parts = list(close_pairs(looks, others))
    assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(len(looks)))
    assert sum(len(part.crowded) for part in parts) == len(looks)
    pairs = np.concatenate([part.pairs for part in parts])
    assert np.bincount(pairs[:, 0]).tolist() == [3] * len(looks)  # and not hundreds
    found = np.bitwise_count(looks[pairs[::3, 0]] ^ others[pairs[::3, 1]])
    assert (found <= np.bitwise_count(flips[places])).all()


def test_rotated_copies_are_found_where_images_are_turned_upright(tmp_path: Path) -> None:
    upright = [Image.fromarray(picture(seed, 60, 90)) for seed in range(3)]
    turned = Image.Exif()
    turned[0x0112] = 6
    files = []
    for image in upright:
        buffer = io.BytesIO()
        image.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=turned)
        files.append(buffer.getvalue())
    given = {"train": [(one, 0) for one in files], "test": [(one, 0) for one in upright]}
    dataset = fastlt.write_dataset(given, tmp_path / "data", orientation="apply", workers=1)
    assert dataset.about["near_duplicates"]["test"]["images"] == 3


@pytest.fixture(scope="module")
def copies() -> dict[str, list]:
    images = [picture(seed, 60, 80) for seed in range(12)]
    test = [images[2], picture(50, 60, 80), Image.fromarray(images[4]).resize((120, 90))]
    return {
        "train": [(one, number % 2) for number, one in enumerate(images[:6])],
        "val": [(images[7], 0), (images[3], 1)],
        "test": [(test[0], 0), (test[1], 0), (test[2], 0), (images[7], 1)],
    }


def test_they_are_reported(copies: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = fastlt.write_dataset(copies, tmp_path / "data", encode="jpeg", workers=1)
    said = capsys.readouterr().err
    near = dataset.about["near_duplicates"]
    assert {split: row["images"] for split, row in near.items()} == {"val": 1, "test": 3}
    pairs = {(one["key"], one["split"], one["of"]) for one in near["test"]["first"]}
    assert pairs == {("test/0", "train", "train/2"), ("test/2", "train", "train/4"), ("test/3", "val", "val/0")}
    assert "note: 3 images of test look like images of earlier splits, such as test/0 like train/2 of train" in said
    assert "3 images of test look like others, such as test/0 like train/2 of train" in page(describe(dataset))
    again = fastlt.write_dataset(copies, tmp_path / "again", name="data", encode="jpeg", workers=3)
    assert again.digest == dataset.digest


def test_they_are_left_out(copies: dict, tmp_path: Path) -> None:
    found = []
    for workers, order in ((1, ("train", "val", "test")), (3, ("test", "train", "val"))):
        given = {split: copies[split] for split in order}
        dataset = fastlt.write_dataset(given, tmp_path / str(workers), name="x", drop_duplicates=True, workers=workers)
        assert {name: split.counts.tolist() for name, split in dataset.splits.items()} == {
            "train": [3, 3],
            "val": [1, 0],
            "test": [1, 0],
        }
        assert dataset.key("test", 0) == "test/1" and dataset.about["near_duplicates"] == {}
        assert dataset.about["source"]["dropped"] == 4
        assert "none across splits" in page(describe(dataset))
        found.append(dataset.digest)
    assert len(set(found)) == 1
    with pytest.raises(UserError, match="drop_duplicates=true leaves no image of test"):
        fastlt.write_dataset({**copies, "test": copies["train"]}, tmp_path / "no", drop_duplicates=True)
