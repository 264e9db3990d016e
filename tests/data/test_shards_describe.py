"""python -m fastlt.shards describe: its numbers are those of the source, its picture is one, and all else stays."""

import contextlib
import io
import json
from pathlib import Path

import commands
import numpy as np
import pytest
from pictures import Pictures, conversion, jpeg, picture
from PIL import Image

from fastlt import shards as command
from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.shards.describe import describe, page
from fastlt.data.shards.picture import picture_path, save_picture
from fastlt.data.shards.reader import Dataset


def run(*arguments: str, cwd: Path) -> str:
    """What `describe ARGUMENTS` prints."""
    out = io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
        command.main(["describe", *arguments])
    assert stop.value.code == 0
    return out.getvalue()


def colours(path: Path) -> int:
    """Number of different colours of a PNG, after checks that it is one of sensible size."""
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert 900 <= image.width <= 1200 and 1000 <= image.height <= 2400
        return len(image.convert("RGB").getcolors(image.width * image.height) or [])


def test_facts_are_those_of_the_source(jpeg_dataset: Dataset) -> None:
    source = Pictures()
    arrays = [source.array(split, i) for split in source.splits for i in range(len(source.splits[split].keys))]
    sizes = [len(source.load(split, i)) for split in source.splits for i in range(len(source.splits[split].keys))]
    height, width = (np.array([array.shape[axis] for array in arrays]) for axis in (0, 1))

    def spread(values: np.ndarray) -> dict[str, float]:
        return {"min": values.min(), "median": np.median(values), "max": values.max()}

    facts = describe(jpeg_dataset)
    assert facts == json.loads(json.dumps(facts))
    assert facts == {
        "name": "pictures",
        "digest": jpeg_dataset.digest,
        "protocol": "demo",
        "splits": {
            "train": {"images": 71, "classes": 4, "image_groups": None},
            "val": {"images": 12, "classes": 4, "image_groups": None},
            "test": {"images": 12, "classes": 4, "image_groups": None},
        },
        "classes": 4,
        "largest_class": {"class": "class 0", "images": 40},
        "smallest_class": {"class": "class 3", "images": 3},
        "imbalance": 13.33,
        "groups": {
            "many": {"classes": 0, "images": 0},
            "medium": {"classes": 2, "images": 60},
            "few": {"classes": 2, "images": 11},
        },
        "image_sizes": {
            "height": spread(height),
            "width": spread(width),
            "short_side": spread(np.minimum(height, width)),
        },
        "encodings": {"jpg": {"images": 95, "bytes_per_image": round(sum(sizes) / 95, 1)}},
        "colours": {},
        "near_duplicates": {},
        "quarantined": {"images": 0, "first": []},
        "history": [],
        "shards": {"count": 3, "bytes": sum(path.stat().st_size for path in jpeg_dataset.shards)},
    }


def test_odd_inputs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Pictures(counts=(30, 2), broken=tuple(("train", i) for i in range(7)))
    real = Pictures.load
    grey = jpeg(picture(0, 40, 50)[:, :, 0])
    monkeypatch.setattr(Pictures, "load", lambda *of: grey if of[1:] == ("train", 9) else real(*of))
    facts = describe(Dataset(convert(source, conversion(max_bad=7), tmp_path / "data", workers=1)))
    assert facts["colours"] == {"grey": 1}
    assert facts["quarantined"]["images"] == 7
    assert [row["key"] for row in facts["quarantined"]["first"]] == [f"train/größe {i}.jpg" for i in range(5)]
    text = page(facts)
    assert "train train/größe 4.jpg: " in text and "and 2 more, see dataset.json" in text and "grey: 1" in text


def test_near_duplicates_that_nobody_looked_for_are_not_said_to_be_none(jpeg_dataset: Dataset) -> None:
    facts = describe(jpeg_dataset)
    assert "near duplicates  none across splits" in page(facts)
    added = {**facts, "history": [{"step": "append", "images": {"test": 3}, "from": "0" * 64}]}
    assert "images that were added later were compared with each other only" in page(added)
    assert "near duplicates  not looked for (check=false)" in page({**facts, "near_duplicates": None})


def test_text_and_json_tell_the_same(raw_dataset: Dataset, tmp_path: Path) -> None:
    facts = json.loads(run(str(raw_dataset.root), "--json", cwd=tmp_path))
    assert facts == {**describe(raw_dataset), "picture": str(raw_dataset.root.resolve().with_name("data.png"))}
    assert list(tmp_path.iterdir()) == []  # the picture is beside the dataset
    text = run(str(raw_dataset.root), cwd=tmp_path)
    assert text == page(facts)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "name pictures",
        f"digest {raw_dataset.digest}",
        "protocol demo",
        "splits train 71 images 4 classes",
        "few 11 images 2 classes",
        "largest class class 0 (40)",
        "smallest class class 3 (3)",
        "imbalance 13.33",
        "height 32 pixels, all",
        "encodings npy: 95 images of 3,200 bytes on average",
        "quarantined none",
    ):
        assert line in lines, text


@pytest.mark.parametrize("kind", ["keep", "png", "raw"])
def test_the_picture_shows_the_images(kind: str, tmp_path: Path) -> None:
    source = Pictures(counts=(102, 25, 2, 1), pixels=kind == "raw")
    dataset = Dataset(convert(source, conversion(kind), tmp_path / "data", workers=1))
    files = {path.name: path.read_bytes() for path in dataset.root.iterdir()}
    save_picture(dataset, tmp_path / "one.png")
    assert colours(tmp_path / "one.png") > 5000
    assert {path.name: path.read_bytes() for path in dataset.root.iterdir()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "one.png"]


def test_class_names_of_any_kind_fit(tmp_path: Path) -> None:
    names = [
        "Plantae/Tracheophyta/Magnoliopsida/Asterales",
        "日本語",
        "x" * 300,
        "$a_1$ \\frac",
        "two\nlines",
        "",
        "  ",
    ]
    source = Pictures(counts=(3,) * len(names), name="n" * 300)
    source.class_names[:] = names
    dataset = Dataset(convert(source, conversion(), tmp_path / "data", workers=1))
    save_picture(dataset, tmp_path / "one.png")
    assert colours(tmp_path / "one.png") > 5000


def test_thousands_of_classes_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = picture(0, 8, 8)
    monkeypatch.setattr(Pictures, "load", lambda *_: one)
    counts = np.maximum(1, 120 / np.arange(1, 8143)).astype(int)
    source = Pictures(counts=tuple(counts.tolist()))
    del source.splits["val"], source.splits["test"]
    dataset = Dataset(convert(source, conversion(), tmp_path / "data", workers=1))
    assert describe(dataset)["groups"]["few"]["classes"] == int((counts < 20).sum())
    save_picture(dataset, tmp_path / "one.png")
    assert colours(tmp_path / "one.png") > 500


def test_an_image_that_is_damaged_is_left_grey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset(convert(Pictures(counts=(3, 2)), conversion(), tmp_path / "data", workers=1))
    shard, start = dataset.shards[0], int(dataset.split("train").offset[1])
    data = bytearray(shard.read_bytes())
    data[start : start + 200] = bytes(200)
    shard.write_bytes(data)
    save_picture(dataset, tmp_path / "one.png")
    assert "train image train/größe 1.jpg does not decode" in capsys.readouterr().err
    colours(tmp_path / "one.png")


def test_an_image_that_max_pixels_allowed_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(convert(Pictures(counts=(3, 2)), conversion(), tmp_path / "data", workers=1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # Pillow refuses twice as many
    save_picture(dataset, tmp_path / "one.png")
    assert "does not decode" not in capsys.readouterr().err
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    colours(tmp_path / "one.png")


def test_only_its_own_picture_is_overwritten(raw_dataset: Dataset, tmp_path: Path) -> None:
    root = raw_dataset.root
    save_picture(raw_dataset, tmp_path / "mine.png")
    before = (tmp_path / "mine.png").read_bytes()
    assert picture_path(root, tmp_path / "mine.png") == tmp_path / "mine.png"
    save_picture(raw_dataset, tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == before
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("photo.png", "text.png"):
        with pytest.raises(UserError, match=f"{name} exists, and is no picture that describe drew: name another"):
            picture_path(root, tmp_path / name)


def test_nothing_is_written_into_the_dataset(raw_dataset: Dataset, tmp_path: Path) -> None:
    root = raw_dataset.root
    before = sorted(root.iterdir())
    inside = f"--picture={root / 'new.png'}"
    assert "would lie inside the dataset" in commands.refusal(command.main, "describe", str(root), inside, cwd=tmp_path)
    assert "name             pictures" in run(".", "--no-picture", cwd=root)
    assert sorted(root.iterdir()) == before
    assert run(str(root), "--picture", "b.png", cwd=tmp_path).splitlines()[-1] == "picture          b.png"
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]
    assert run(".", cwd=root).splitlines()[-1].split() == ["picture", str(root.resolve().with_name("data.png"))]
    assert sorted(root.iterdir()) == before


def test_wrong_input_is_refused_in_one_line(raw_dataset: Dataset, tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        return commands.refusal(command.main, "describe", *arguments, cwd=tmp_path)

    root = str(raw_dataset.root)
    assert "nowhere: no such folder" in refusal("nowhere")
    assert "--picture=a.jpg: the name must end in .png" in refusal(root, "--picture", "a.jpg")
    assert "there is no folder no" in refusal(root, "--picture", "no/a.png")
    assert "unrecognized arguments: --jsn" in refusal(root, "--jsn")
    assert list(tmp_path.iterdir()) == []
