"""encode=link: a dataset of tars that stay where they are, and what happens when they do not."""

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import jpeg, picture
from PIL import Image

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.longtail.sampler import InOrder


def tar(path: Path, images: dict[str, tuple[bytes, str]], end: str = "jpg") -> Path:
    """A tar with an image and a label for each key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, (data, label) in images.items():
            for name, content in ((f"{key}.{end}", data), (f"{key}.cls", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def images(first: int, count: int) -> dict[str, tuple[bytes, str]]:
    return {
        f"{number:03d}": (jpeg(picture(number, 40, 60)), "ab"[number % 3 == 0])
        for number in range(first, first + count)
    }


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    folder = tmp_path / "tars"
    tar(folder / "train-000000.tar", images(0, 7))
    tar(folder / "train-000001.tar", images(10, 5))
    tar(folder / "test-000000.tar", images(20, 4))
    return folder


def linked(source: Path | str, out: Path, **keys: Any) -> Dataset:
    return fastlt.write_dataset(source, out, **{"encode": "link", "workers": 1, **keys})


def batches(dataset: Dataset, split: str) -> np.ndarray:
    """All images of a split as the loader gives them, in the order of their keys."""
    index = dataset.split(split)
    augment = Augment(32, "center")
    with fastlt.Loader(dataset, split, InOrder(np.arange(len(index))), augment, batch=3) as loader:
        found = np.concatenate([batch.images.numpy() for batch in loader])
    keys = [dataset.key(split, place) for place in range(len(index))]
    return found[np.argsort(keys)]


def test_linked_images_are_read_as_converted_ones(tars: Path, tmp_path: Path) -> None:
    sums = {path: path.read_bytes() for path in tars.iterdir()}
    one, copy = linked(tars, tmp_path / "one"), fastlt.write_dataset(tars, tmp_path / "copy", workers=1)
    assert linked(tars, tmp_path / "many", workers=3, name="one").digest == one.digest
    for split in ("train", "test"):
        both = [
            {
                dataset.key(split, place): (dataset.data(split, place).tobytes(), dataset.split(split).label[place])
                for place in range(len(dataset.split(split)))
            }
            for dataset in (one, copy)
        ]
        assert both[0] == both[1]
        np.testing.assert_array_equal(batches(one, split), batches(copy, split))
    assert {path: path.read_bytes() for path in tars.iterdir()} == sums
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["dataset.json", "index.h5", "test-000000.tar", "train-000000.tar", "train-000001.tar"]
    assert [path.resolve() for path in one.shards] == [tars / path.name for path in one.shards]
    assert verify(tmp_path / "one").lines == [] and verify(tmp_path / "one").samples == 16


def test_one_tar_divided_and_thinned(tmp_path: Path) -> None:
    path = tar(tmp_path / "all.tar", images(0, 30))
    dataset = linked(path, tmp_path / "out", split=(0.5, 0.2, 0.3), long_tail="exponential", imbalance=2)
    assert {split: index.counts.tolist() for split, index in dataset.splits.items()} == {
        "train": [10, 5],
        "val": [4, 2],
        "test": [6, 3],
    }
    assert {shard.resolve() for shard in dataset.shards} == {path}
    assert verify(tmp_path / "out").findings == 0
    for split, index in dataset.splits.items():
        for place in range(len(index)):
            number = int(dataset.key(split, place).partition("/")[2].partition(".")[0])
            assert dataset.data(split, place).tobytes() == images(number, 1)[f"{number:03d}"][0]
            assert index.label[place] == (number % 3 == 0)


def test_a_tar_that_moves_is_one_line(tars: Path, tmp_path: Path) -> None:
    dataset = linked(tars, tmp_path / "out")
    place, moved = tars / "train-000001.tar", tars / "moved.tar"
    place.rename(moved)
    link = tmp_path / "out" / place.name
    with pytest.raises(UserError) as caught:
        Dataset(tmp_path / "out")
    assert str(caught.value) == (
        f"shard {link} is a link to {place}, which is not there: put the tar back, or point the link to its new place "
        f"(ln -sfn NEW {link})"
    )
    assert verify(tmp_path / "out").lines == [
        f"train-000001.tar: is a link to {place}, which is not there, with its 5 samples"
    ]
    link.unlink()
    link.symlink_to(moved)
    assert Dataset(tmp_path / "out").digest == dataset.digest and verify(tmp_path / "out").findings == 0


def test_a_tar_that_is_cut_off_is_one_line(tars: Path, tmp_path: Path) -> None:
    linked(tars, tmp_path / "out")
    place = tars / "train-000001.tar"
    size = place.stat().st_size
    os.truncate(place, 3000)
    with pytest.raises(UserError) as caught:
        Dataset(tmp_path / "out")
    link = tmp_path / "out" / place.name
    assert str(caught.value) == (
        f"shard {link} (a link to {place}) is truncated: 3000 bytes, dataset.json says {size}; put the "
        "tar back as it was, or convert the dataset again"
    )
    lines = verify(tmp_path / "out").lines
    assert lines[0] == f"train-000001.tar: is truncated: 3000 bytes, dataset.json says {size}"
    assert any("lies beyond the tar's end at 3000" in line and "key train-000001.tar/01" in line for line in lines)


def test_a_tar_that_is_edited(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = linked(tars, tmp_path / "out")
    index = dataset.split("train")
    with (tars / "train-000000.tar").open("r+b") as file:
        file.seek(int(index.offset[2] + index.length[2] // 2))
        file.write(b"other bytes")
    lines = verify(tmp_path / "out").lines
    assert (
        len(lines) == 2 and "key train-000000.tar/002.jpg" in lines[0] + lines[1] and "SHA-256" in lines[0] + lines[1]
    )
    with pytest.raises(UserError, match=r"train-000000\.tar, offset \d+, key train-000000\.tar/002\.jpg"):
        batches(Dataset(tmp_path / "out"), "train")


def test_images_that_cannot_stay_as_they_are(tars: Path, tmp_path: Path) -> None:
    webp, grey = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(1, 40, 60)).save(webp, "WEBP")
    Image.fromarray(picture(1, 40, 60)[..., 0]).save(grey, "JPEG")
    whole = images(0, 1)["000"][0]
    odd = {"1": (webp.getvalue(), "a"), "2": (grey.getvalue(), "a"), "3": (whole[: len(whole) // 2], "a")}
    tar(tars / "train-000002.tar", odd)
    message = r"train-000002\.tar/1\.jpg does not decode \(this WEBP cannot stay as it is: encode=keep would store it"
    with pytest.raises(UserError, match=message):
        linked(tars, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tars"]
    dataset = linked(tars, tmp_path / "out", max_bad=2)
    assert len(dataset.split("train")) == 13 and dataset.about["colours"] == {"grey": 1}
    assert [row["key"][-5:] for row in dataset.about["quarantined"]["train"]] == ["1.jpg", "3.jpg"]
    assert verify(tmp_path / "out").findings == 0


def test_headers_only(tars: Path, tmp_path: Path) -> None:
    """check=false reads no pixels: the same index, without a search for near duplicates, and damage is not found."""
    checked, quick = linked(tars, tmp_path / "checked"), linked(tars, tmp_path / "quick", check=False)
    for name in ("offset", "length", "label", "height", "width", "encoding", "crc32"):
        np.testing.assert_array_equal(getattr(checked.split("train"), name), getattr(quick.split("train"), name))
    assert quick.about["options"]["check"] is False and "check" not in checked.about["options"]
    assert quick.about["near_duplicates"] == {}
    whole = images(0, 1)["000"][0]
    tar(tars / "train-000002.tar", {"1": (whole[: len(whole) // 2], "a")})
    with pytest.raises(UserError, match=r"train-000002\.tar/1\.jpg does not decode \(the file is truncated\)"):
        linked(tars, tmp_path / "no")
    assert len(linked(tars, tmp_path / "yes", check=False).split("train")) == 13


def test_overwriting_leaves_the_tars(tars: Path, tmp_path: Path) -> None:
    linked(tars, tmp_path / "out")
    fastlt.write_dataset(tars, tmp_path / "out", overwrite=True, workers=1)
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    linked(tars, tmp_path / "out", overwrite=True)
    assert verify(tmp_path / "out").findings == 0 and len(list(tars.iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tars"]


def test_an_unfinished_conversion_begins_again(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("fastlt.data.convert.engine.near_duplicates", fails)
        with pytest.raises(KeyboardInterrupt):
            linked(tars, tmp_path / "out")
    assert (tmp_path / "out.partial" / "dataset" / "train-000000.tar").is_symlink()
    linked(tars, tmp_path / "out")
    assert verify(tmp_path / "out").findings == 0
    shutil.rmtree(tars)
    with pytest.raises(UserError, match="is a link to"):
        Dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"check": False, "encode": "keep"}, "check=false needs encode=link: encode=keep decodes every image once"),
        ({"max_short_side": 20}, "max_short_side needs encode=jpeg, png or raw: encode=link leaves the bytes as found"),
        ({"check": False, "drop_duplicates": True}, "drop_duplicates=true needs decoded images: leave out check=false"),
    ],
)
def test_keys_that_do_not_fit(tars: Path, tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        linked(tars, tmp_path / "out", **keys)
    assert [path.name for path in tmp_path.iterdir()] == ["tars"]


def test_sources_without_tars(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "photos" / split / "a").mkdir(parents=True)
        (tmp_path / "photos" / split / "a" / "1.jpg").write_bytes(jpeg(picture(1, 20, 20)))
    with pytest.raises(UserError, match="encode=link indexes images in tars where they lie, dataset=image_folder has"):
        linked(tmp_path / "photos", tmp_path / "out")


@pytest.mark.parametrize("encode", ["keep", "link"])
def test_tars_of_the_user_are_not_replaced(tars: Path, tmp_path: Path, encode: str) -> None:
    before = {path.name: path.read_bytes() for path in tars.iterdir()}
    with pytest.raises(UserError, match=r"train-000000.tar lies in out=.*tars, where the dataset is to be"):
        fastlt.write_dataset(tars, tars, encode=encode, overwrite=True, workers=1)
    (tars / "train-000000.idx").write_text("an index for DALI")
    pairs = [(picture(number, 20, 30), number % 2) for number in range(8)]
    with pytest.raises(UserError, match=r"tars holds test-000000.tar, which no conversion wrote"):
        fastlt.write_dataset(pairs, tars, test=0, overwrite=True, workers=1)
    (tars / "train-000000.idx").unlink()
    assert {path.name: path.read_bytes() for path in tars.iterdir()} == before
