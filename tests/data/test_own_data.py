"""One command, or one call, on data as people have them: a folder, a table, pairs."""

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torchvision
from pictures import jpeg, picture
from PIL import Image

import fastlt
from fastlt.convert import main
from fastlt.core.errors import UserError
from fastlt.data.shards.format import PNG, RAW
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.examples import Examples

COUNTS = {"ant": 10, "bee": 5, "cat": 2, "dog": 1}
DIVIDED = {"train": [7, 3, 1, 1], "val": [1, 1, 0, 0], "test": [2, 1, 1, 0]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/CLASS/N.jpg, and a file that is no image."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for name, count in COUNTS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.jpg").write_bytes(jpeg(picture(100 * len(name) + number, 70, 90)))
    (root / "ant" / "notes.txt").write_text("no image")
    return root


def command(*arguments: str, cwd: Path, err: io.StringIO | None = None) -> tuple[str, list[str]]:
    """stdout, and the lines of stderr."""
    out, err = io.StringIO(), err or io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["command", *arguments]),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": "", "FASTLT_DEBUG": ""}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        main()
    return out.getvalue(), err.getvalue().splitlines()


def counts(dataset: Dataset) -> dict[str, list[int]]:
    return {name: split.counts.tolist() for name, split in dataset.splits.items()}


def keys(dataset: Dataset) -> dict[str, list[str]]:
    return {name: [dataset.key(name, place) for place in range(len(split))] for name, split in dataset.splits.items()}


def test_what_is_not_stored_is_told(tmp_path: Path) -> None:
    """Photos of a phone lie on their side in the file, and of several frames one is kept."""
    exif, photo, photos = Image.Exif(), Image.fromarray(picture(5, 40, 60)), tmp_path / "photos"
    exif[0x0112] = 6
    for name in ("ant", "bee"):
        (photos / name).mkdir(parents=True)
        photo.save(photos / name / "1.jpg", exif=exif.tobytes())
        photo.save(photos / name / "2.jpg")
    photo.save(photos / "ant" / "3.gif", save_all=True, append_images=[photo.rotate(90)])
    frames = "note: 1 image has several pages or frames: the first is taken"
    lying = "note: 2 images are to be turned upright, as EXIF says, and stay as they lie: orientation=apply turns them"
    for orientation, notes in (("ignore", [frames, lying]), ("apply", [frames])):
        out = tmp_path / orientation
        options = (f"out={out}", "split=1,0,0", "workers=1", f"orientation={orientation}")
        said = command(str(photos), *options, cwd=tmp_path)[1]
        assert [line for line in said if line.startswith("note")] == notes
        assert list(Dataset(out).about["colours"]) == ["palette, first of several frames"]


def test_a_folder_per_class(photos: Path, tmp_path: Path) -> None:
    out, said = command(str(photos), f"out={tmp_path / 'insects (2)'}", "workers=1", cwd=tmp_path)
    assert said[0] == f"{photos} is taken as dataset=image_folder root={photos} split=0.7,0.1,0.2"
    assert f"note: left out of {photos}: 1 .txt file (ant/notes.txt)" in said
    assert "divided 18 images into train 12, val 2, test 4 (class by class, seed=0)" in said
    dataset = Dataset(tmp_path / "insects (2)")
    assert (dataset.name, dataset.about["protocol"], counts(dataset)) == ("insects (2)", "imagenet_lt_90", DIVIDED)
    table = [line.split() for line in out.splitlines() if line.split()[0] in COUNTS]
    assert table == [[name, *map(str, row)] for name, *row in zip(COUNTS, *DIVIDED.values(), strict=True)]

    again = fastlt.write_dataset(photos, tmp_path / "insects (3)", name="insects (2)", workers=2)
    assert again.digest == dataset.digest
    other = fastlt.write_dataset(str(photos), tmp_path / "other", seed=1, workers=1)
    assert counts(other) == DIVIDED and keys(other) != keys(dataset)


def test_shares_of_ones_own(photos: Path, tmp_path: Path) -> None:
    dataset = fastlt.write_dataset(photos, tmp_path / "a", split=(0.5, 0, 0.5), workers=1)
    assert counts(dataset) == {"train": [5, 2, 1, 1], "test": [5, 3, 1, 0]}
    dataset = fastlt.write_dataset(photos, tmp_path / "b", split="1,0,0", workers=1)
    assert counts(dataset) == {"train": list(COUNTS.values())}
    dataset = fastlt.write_dataset(photos, tmp_path / "c", test=0.2, group_by=r"/(\d)\.jpg", workers=1)
    numbers = [{key.rpartition("/")[2] for key in own} for own in keys(dataset).values()]
    assert len(numbers) == 2 and not numbers[0] & numbers[1]
    with pytest.raises(UserError, match="there are no test images, which a training needs: add split="):
        fastlt.write_dataset(photos, tmp_path / "d", val=0.2)


def test_pairs(tmp_path: Path) -> None:
    pairs = [(picture(number, 20, 30), f"class {number % 2}") for number in range(20)]
    dataset = fastlt.write_dataset(iter(pairs), tmp_path / "pairs", workers=1)
    assert counts(dataset) == {"train": [7, 7], "val": [1, 1], "test": [2, 2]}
    assert dataset.name == "pairs" and dataset.about["protocol"] == "small_32"
    order = tmp_path / "order.txt"
    order.write_text("class 1\nclass 0\n")
    for names in (order, ["class 1", "class 0"]):
        given: dict[str, Any] = {"train": pairs, "test": pairs[:1]}
        dataset = fastlt.write_dataset(given, tmp_path / "ordered", class_names=names, overwrite=True, workers=1)
        assert dataset.class_names == ["class 1", "class 0"] and dataset.split("test").label.tolist() == [1]
    for wrong in ({"root": "."}, {"table": "x.csv"}, {"train": "x.txt"}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))}=.* is not for dataset=examples: its keys are"):
            fastlt.write_dataset(given, tmp_path / "no", **wrong)
    with pytest.raises(UserError, match="there are no test images, which a training needs"):
        fastlt.write_dataset({"train": pairs}, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("side", "protocol"), [(28, "small_32"), (48, "small_64"), (64, "imagenet_lt_90")])
def test_a_protocol_that_fits_the_images(
    tmp_path: Path, side: int, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [(picture(number, side, side + 9), number % 2) for number in range(4)]
    dataset = fastlt.write_dataset({"train": pairs, "test": pairs}, tmp_path / "data", workers=1)
    assert dataset.about["protocol"] == protocol
    line = f"protocol={protocol} is the default for training: the short side of the images has {side} pixels (median)"
    assert line in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "more", "out=out"), "photos and more are two sources: give one; other arguments are key=value"),
        (("photos", "dataset=csv", "out=out"), "photos has no key: with dataset=NAME arguments are key=value, such as"),
        (("nowhere", "out=out"), "nowhere: no such file or folder; give a folder of images"),
        (("photos", "out=out", "table=x.csv"), "table=x.csv is not for dataset=image_folder: its keys are root, "),
        (("photos", "out=out", "split=0.7,0.2"), "split=0.7,0.2: allowed are three numbers from 0 to 1 whose sum is 1"),
        (("photos",), "out is not given"),
    ],
)
def test_wrong_input_is_one_line(photos: Path, arguments: tuple[str, ...], message: str) -> None:
    err = io.StringIO()
    with pytest.raises(SystemExit) as stop:
        command(*arguments, cwd=photos.parent, err=err)
    *said, last = err.getvalue().splitlines()
    assert stop.value.code == 2 and last.startswith("error: ") and message in last
    assert all(line.startswith("photos is taken as ") for line in said)
    assert [path.name for path in photos.parent.iterdir()] == ["photos"]


def test_the_description_of_arrays_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    pairs = [(np.full((8, 8), value, np.uint8), value % 3) for value in range(30)]
    digests = {
        fastlt.write_dataset(pairs, tmp_path / str(workers), name="x", workers=workers).digest for workers in (1, 3)
    }
    assert len(digests) == 1


class MapStyle:
    """A dataset as of torchvision: `len`, (PIL image, label) for an index, and perhaps `targets` and `classes`."""

    def __init__(self, count: int, targets: bool = True, classes: list[str] | None = None):
        self.count, self.fetched = count, 0
        if targets:
            self.targets = torch.arange(count) % 3
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.fetched += 1
        return Image.fromarray(picture(index, 20, 24)), index % 3  # no IndexError: a loop without `len` would not end


@pytest.mark.parametrize("targets", [True, False])
def test_map_style_datasets(tmp_path: Path, targets: bool) -> None:
    train, test = MapStyle(12, targets), MapStyle(3, targets)
    dataset = fastlt.write_dataset({"train": train, "test": test}, tmp_path / "data", workers=1)
    assert counts(dataset) == {"train": [4, 4, 4], "test": [1, 1, 1]} and dataset.class_names == ["0", "1", "2"]
    # Every image once, those that look like an image of test again, and once more for labels without `targets`; with
    # them the first image of each class.
    assert train.fetched == (12 + 3 if targets else 24) + 3
    place = keys(dataset)["train"].index("train/7")
    np.testing.assert_array_equal(dataset.pixels("train", place), picture(7, 20, 24))
    divided = fastlt.write_dataset(train, tmp_path / "divided", workers=1)
    assert {split: len(index) for split, index in divided.splits.items()} == {"train": 6, "val": 3, "test": 3}


def test_classes_of_a_map_style_dataset(tmp_path: Path) -> None:
    named = MapStyle(12, classes=["zebra", "ant", "cat", "never"])
    dataset = fastlt.write_dataset({"train": named, "test": named}, tmp_path / "data", workers=1)
    assert dataset.class_names == ["zebra", "ant", "cat"] and counts(dataset)["test"] == [4, 4, 4]


def test_every_dataset_numbers_its_classes_in_its_own_way(photos: Path, tmp_path: Path) -> None:
    """As ImageFolder does where the folder of test lacks a class."""
    for name in ("bee", "cat"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.jpg").write_bytes((photos / name / "0.jpg").read_bytes())
    train, test = (torchvision.datasets.ImageFolder(str(root)) for root in (photos, tmp_path / "test"))
    given: dict[str, Any] = {"train": train, "test": test}
    dataset = fastlt.write_dataset(given, tmp_path / "data", workers=1)
    assert dataset.class_names == list(COUNTS) and counts(dataset)["test"] == [0, 1, 1, 0]
    other = {**given, "test": MapStyle(3, classes=["cat", "wasp"])}
    other["test"].targets = other["test"].targets % 2
    with pytest.raises(UserError, match="label wasp of test is no class: allowed are ant, bee, cat, dog"):
        fastlt.write_dataset(other, tmp_path / "no", workers=1)


@pytest.mark.parametrize("kind", ["target_transform", "samples", "own"])
def test_labels_are_those_that_the_items_have(photos: Path, tmp_path: Path, kind: str) -> None:
    class Halved(MapStyle):
        target_transform = staticmethod(lambda label: label // 2)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            image, label = super().__getitem__(index)
            return image, label // 2

    one: Any = Halved(12, classes=["zebra", "ant", "cat"])
    expected = [8, 4]
    if kind == "own":
        del Halved.target_transform, one.classes
    if kind == "samples":
        one = torchvision.datasets.ImageFolder(str(photos), target_transform=lambda label: label // 2)
        expected = [15, 3]
    dataset = fastlt.write_dataset({"train": one, "test": one}, tmp_path / "data", workers=1)
    assert dataset.class_names == ["0", "1"] and counts(dataset)["test"] == expected


def test_torchvision(photos: Path, tmp_path: Path) -> None:
    """ImageFolder gives the files as they are; with a transform, in a Subset, or opened by the user, its images."""
    folder = torchvision.datasets.ImageFolder(str(photos))
    dataset = fastlt.write_dataset({"train": folder, "test": folder}, tmp_path / "files", workers=1)
    assert dataset.class_names == list(COUNTS) and counts(dataset)["train"] == list(COUNTS.values())
    assert dataset.data("train", 0).tobytes() == (photos / "ant" / "0.jpg").read_bytes()
    part = torch.utils.data.Subset(folder, list(range(12)))
    dataset = fastlt.write_dataset({"train": part, "test": part}, tmp_path / "subset", workers=1)
    assert counts(dataset)["train"] == [10, 2]

    def small(path: str) -> Image.Image:
        return Image.open(path).resize((9, 7))

    class Small(torchvision.datasets.ImageFolder):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            path, label = self.samples[index]
            return small(path), label

    for number, own in enumerate((torchvision.datasets.ImageFolder(str(photos), loader=small), Small(str(photos)))):
        dataset = fastlt.write_dataset({"train": own, "test": own}, tmp_path / f"own{number}", workers=1)
        assert set(dataset.split("train").height.tolist()) == {7}
        assert counts(dataset)["train"] == list(COUNTS.values())
    tensors = torchvision.datasets.ImageFolder(str(photos), transform=torchvision.transforms.ToTensor())
    with pytest.raises(UserError, match=r"does not decode \(an image is a path, bytes, .* this one is a Tensor"):
        fastlt.write_dataset({"train": tensors, "test": tensors}, tmp_path / "no", workers=1)


def test_examples_that_are_none(tmp_path: Path) -> None:
    class Dicts(MapStyle):
        def __getitem__(self, index: int) -> Any:
            return {"image": 1, "label": 2}

    class Failing(MapStyle):
        def __getitem__(self, index: int) -> Any:
            raise RuntimeError("no such index")

    with pytest.raises(UserError, match=r"item 0 of the dataset is a dict: \(image, label\) is needed"):
        fastlt.write_dataset(Dicts(3, targets=False), tmp_path / "no")
    with pytest.raises(UserError, match=r"does not decode \(dataset\[\d\] raises RuntimeError: no such index\)"):
        fastlt.write_dataset(Failing(9), tmp_path / "no", workers=1)
    with pytest.raises(UserError, match=r"an example is \(image, label\) or \(image, label, group\), not '7'"):
        fastlt.write_dataset([7], tmp_path / "no")  # type: ignore[list-item]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_tables(library: str, photos: Path, tmp_path: Path) -> None:
    """Columns are found as those of CSV tables; paths are relative to root=."""
    module = pytest.importorskip(library, reason=f"{library} is not installed: pip install {library}")
    make = module.table if library == "pyarrow" else module.DataFrame
    paths = [f"{name}/{number}.jpg" for name, count in COUNTS.items() for number in range(count)]
    rows = {"file_name": paths, "species": [path.split("/")[0] for path in paths], "camera": [p[-5] for p in paths]}
    dataset = fastlt.write_dataset(make(rows), tmp_path / "divided", root=photos, workers=1)
    assert counts(dataset) == DIVIDED and dataset.class_names == list(COUNTS)
    key = keys(dataset)["train"][0]
    assert dataset.data("train", 0).tobytes() == (photos / paths[int(key.split("/")[1])]).read_bytes()
    grouped = fastlt.write_dataset(
        make(rows), tmp_path / "grouped", root=photos, test=0.3, group_by="camera", workers=1
    )
    cameras = [{paths[int(key.split("/")[1])][-5] for key in own} for own in keys(grouped).values()]
    assert len(cameras) == 2 and not cameras[0] & cameras[1]
    split = make({**rows, "split": ["test" if path.startswith("ant/1") else "training" for path in paths]})
    divided = fastlt.write_dataset(split, tmp_path / "split", root=photos, workers=1)
    assert {name: len(index) for name, index in divided.splits.items()} == {"train": 17, "test": 1}
    images = make({"image": [jpeg(picture(k, 20, 20)) for k in range(4)], "label": [5, 3, 5, 3]})
    both = fastlt.write_dataset({"train": images, "test": images}, tmp_path / "bytes", workers=1)
    assert both.class_names == ["3", "5"] and counts(both)["test"] == [2, 2]
    for wrong, message in (
        ({"x": [1], "label": [2]}, "the table of train line 1: 'x,label': the header lacks path: say path_column=NAME"),
        ({"image": ["a"], "label": [None]}, "the table of train, row 0: no label; give it one, or take the row out"),
        ({"image": ["a"], "label": [1], "split": ["x"]}, "row 0: unknown split 'x'; allowed: train, val, test"),
    ):
        with pytest.raises(UserError, match=message):
            fastlt.write_dataset(make(wrong), tmp_path / "no")


@pytest.mark.parametrize(
    ("kind", "mode", "keys"),
    [
        ("png", "I;16", {}),
        ("tiff", "F", {}),
        ("png", "RGBA", {"background": "white"}),
        ("jpg", "RGB", {"orientation": "apply"}),
        ("tiff", "RGB", {"orientation": "apply", "max_short_side": 15, "encode": "png"}),
        ("png", "P", {}),
    ],
)
def test_a_pil_image_is_stored_as_its_file(tmp_path: Path, kind: str, mode: str, keys: dict[str, Any]) -> None:
    path, pixels = tmp_path / f"a.{kind}", picture(0, 20, 30)
    grey = pixels[..., 0]
    image = Image.fromarray({"I;16": np.uint16(grey) * 250, "F": np.float32(grey) / 255}.get(mode, pixels))
    if mode in ("RGBA", "P"):
        image.putalpha(Image.fromarray(grey))
        image = image if mode == "RGBA" else image.quantize(16)
    turned = Image.Exif()
    turned[0x0112] = 6
    given: dict[str, Any] = {"exif": turned} if keys.get("orientation") else {}
    image.save(path, **given)
    opened = Image.open(path)
    before = opened.info.copy(), opened.size
    options: dict[str, Any] = {"test": 0, "workers": 1, **keys}
    file, pil = (
        fastlt.write_dataset({"train": [(one, "x")]}, tmp_path / name, **options)
        for name, one in (("file", path), ("pil", opened))
    )
    assert pil.split("train").encoding[0] == (PNG if "encode" in keys else RAW)
    with Image.open(io.BytesIO(file.data("train", 0).tobytes())) as expected:
        found = (
            pil.pixels("train", 0) if "encode" not in keys else Image.open(io.BytesIO(pil.data("train", 0).tobytes()))
        )
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert pil.about["colours"] == file.about["colours"] and (opened.info, opened.size) == before


def test_triples_keep_groups_together(tmp_path: Path) -> None:
    triples = [(picture(number, 20, 30), number % 2, f"patient {number // 5}") for number in range(40)]
    dataset = fastlt.write_dataset(triples, tmp_path / "data", workers=1)
    patients = [{int(key.split("/")[1]) // 5 for key in own} for own in keys(dataset).values()]
    assert len(patients) == 3 and sum(map(len, patients)) == 8


def test_a_whole_number_and_the_same_as_a_float_are_one_group() -> None:
    """A column of whole numbers, of which some are missing, is one of floats in most programs."""
    pairs = [(picture(number, 20, 30), 0, group) for number, group in enumerate([7, 7.0, np.float32(7), 7.5, np.nan])]
    assert Examples({"train": pairs}, "floats").splits["train"].groups == ["7", "7", "7", "7.5", "nan"]


def test_examples_of_which_some_have_no_group_are_refused() -> None:
    pairs = [(picture(0, 20, 30), 0), (picture(1, 20, 30), 0, "patient 1")]
    for given in (pairs, pairs[::-1]):
        with pytest.raises(UserError, match="some examples of train have a group and some have none: give each one"):
            Examples({"train": given}, "mixed")
