"""Annotation files of iNaturalist, COCO and camera traps: classes, names, every inconsistency that a file may have."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import fastlt
from fastlt.core.errors import UserError
from fastlt.data.sources.inaturalist import INaturalist


def annotations(*images: tuple[int, str, int], names: dict[int, Any] | None = None) -> dict[str, Any]:
    """A file of (image id, path, category id); names: category id -> name."""
    content: dict[str, Any] = {
        "info": {"year": 2018},
        "images": [{"id": number, "file_name": path, "width": 1} for number, path, _ in images],
        "annotations": [{"id": i, "image_id": image[0], "category_id": image[2]} for i, image in enumerate(images)],
    }
    if names is not None:
        content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    return content


TRAIN = ((7, "t/a.jpg", 30), (3, "t/ b é.jpg", 10), (5, "t/./c.jpg", 30))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "inat"
    (folder / "t").mkdir(parents=True)
    for name in ("a", " b é", "c"):
        (folder / "t" / f"{name}.jpg").write_text(name)
    return folder


def write(root: Path, content: Any, name: str = "train.json") -> Path:
    path = root.parent / name
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def refusal(root: Path, train: Path, test: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        INaturalist(root, train, test=test)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_files(root: Path) -> None:
    train = write(root, annotations(*TRAIN, names={30: "Felis catus", 10: "Bubo bubo"}), "train2018.json.gz")
    test = write(root, annotations((1, "t/c.jpg", 10), (2, "t/missing.jpg", 30)), "val2018.json")
    source = INaturalist(root, train, test=test)
    assert list(source.splits) == ["train", "test"]
    assert source.class_names == ["Bubo bubo", "Felis catus"]
    assert source.splits["train"].keys == ["t/a.jpg", "t/ b é.jpg", "t/c.jpg"]
    assert source.splits["train"].labels.tolist() == [1, 0, 1]
    assert source.splits["test"].labels.tolist() == [0, 1]
    assert source.load("train", 1) == " b é".encode() and source.where("test", 0) == root / "t/c.jpg"
    with pytest.raises(OSError):
        source.load("test", 1)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source and hash(copy) == hash(source) and copy.load("train", 0) == b"a"


def test_names_of_classes(root: Path) -> None:
    def names(given: dict[int, Any] | None) -> list[str]:
        return INaturalist(root, write(root, annotations(*TRAIN, names=given))).class_names

    assert names(None) == ["10", "30"]
    assert names({10: "owl", 30: None}) == ["owl", "30"]
    assert names({10: "owl", 30: "owl"}) == ["10", "30"]
    assert names({10: " ", 30: "a\nb"}) == ["10", "30"]
    assert names({30: "\ud800", 10: "owl"}) == ["owl", "30"]


def test_a_category_has_the_same_name_in_every_file(root: Path) -> None:
    """Programs that write a file for each split may number categories anew."""
    train = write(root, annotations(*TRAIN, names={10: "owl", 30: "cat"}))
    test = annotations((1, "t/c.jpg", 10), names={10: "cat", 30: "owl"})
    assert refusal(root, train, write(root, test, "test.json")) == (
        f"{root.parent}/test.json: category 10 is 'cat', in {train} it is 'owl': give the categories the same ids in "
        "both files"
    )
    for names in ({10: " owl", 30: "no image of it"}, {10: None}, {}, None):
        test = annotations((1, "t/c.jpg", 10), names=names)
        assert INaturalist(root, train, test=write(root, test, "test.json")).splits["test"].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a.jpg 0\n", "not JSON (Expecting value: line 1 column 1"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[]", "a list where an object was expected; expected an official annotation file"),
        (b"\xff\xfe{}\xff", "not UTF-8"),
        (b'{"images": %s}' % (b"9" * 9999), "not JSON (Exceeds the limit"),
        (b"{}", "no list 'images' in it"),
        (b'{"images": {}}', "no list 'images' in it"),
        (b'{"images": []}', "there is no image in it"),
        (b'{"images": [7]}', "images[0] is '7': 'id' should be a whole number"),
        (b'{"images": [{"id": true, "file_name": "x"}]}', "'id' should be a whole number"),
        (b'{"images": [{"id": 1}]}', "'file_name' should be a text"),
        (
            b'{"images": [{"id": 1, "file_name": "t/a.jpg"}]}',
            "no list 'annotations' in it (test sets come without labels)",
        ),
    ],
)
def test_other_files_are_refused(root: Path, text: bytes, problem: str) -> None:
    path = write(root, text)
    message = refusal(root, path)
    assert message.startswith(f"{path}: ") and problem in message


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../a.jpg", "images[1] '../a.jpg': this path leaves the root"),
        ("/a.jpg", "absolute path"),
        ("", "images[1] '': no path"),
        ("a\0", "NUL byte"),
        ("a\n", "the path holds a line break"),
        ("\ud800.jpg", "not UTF-8; rename the file"),
        ("t//a.jpg", "images[1] 't/a.jpg': already listed as images[0]; list every image once per split"),
    ],
)
def test_paths(root: Path, name: str, problem: str) -> None:
    assert problem in refusal(root, write(root, annotations((1, "t/a.jpg", 0), (2, name, 0))))


def test_inconsistent_files(root: Path) -> None:
    def changed(part: str, *entries: dict[str, Any]) -> str:
        content = annotations(*TRAIN, names={10: "owl", 30: "cat"})
        content[part] = [*content[part], *entries]
        return refusal(root, write(root, content))

    assert "image 3 has 2 annotations; every image needs exactly one" in changed(
        "annotations", {"image_id": 3, "category_id": 10}
    )
    assert "an annotation is of image 8, which is not among the images" in changed(
        "annotations", {"image_id": 8, "category_id": 10}
    )
    assert "'category_id' should be a whole number" in changed("annotations", {"image_id": 8})
    assert "image 9 (t/d.jpg) has no annotation" in changed("images", {"id": 9, "file_name": "t/d.jpg"})
    assert "2 images have the id 3" in changed("images", {"id": 3, "file_name": "t/d.jpg"})
    assert "2 categories have the id 10" in changed("categories", {"id": 10, "name": "wol"})
    assert "category 4 (eel) has no training image; add one or remove it from categories" in changed(
        "categories", {"id": 4, "name": "eel"}
    )


def test_a_category_that_train_lacks(root: Path) -> None:
    train = write(root, annotations(*TRAIN))
    test = write(root, annotations((1, "t/c.jpg", 10), (2, "t/a.jpg", 20)), "val.json")
    assert refusal(root, train, test) == (
        f"{test}: image t/a.jpg is of category 20, which has no training image; allowed: the 2 categories of {train}"
    )
    # One that annotations use and categories lack.
    narrow = write(root, annotations(*TRAIN, names={10: "owl"}), "narrow.json")
    assert "image t/a.jpg is of category 30, which is not among the categories; allowed: the 1" in refusal(root, narrow)
    # Beyond the last category and before the first.
    assert "of category 99" in refusal(root, train, write(root, annotations((1, "t/c.jpg", 99)), "val.json"))
    assert "of category -1" in refusal(root, train, write(root, annotations((1, "t/c.jpg", -1)), "val.json"))


def test_a_wrong_root_fails_at_once(root: Path) -> None:
    train = write(root, annotations(*TRAIN))
    assert "none of the first images" in refusal(root.parent, train)
    assert "no such folder" in refusal(root / "nowhere", train)
    assert "cannot read this file (No such file or directory)" in refusal(root, root / "train2018.json")


def boxes(*rows: tuple[int | str, int, dict[str, Any]]) -> dict[str, Any]:
    """A file with the images of `root` and annotations (image id, category, further fields)."""
    content = annotations((1, "t/a.jpg", 0), (2, "t/ b é.jpg", 0), (3, "t/c.jpg", 0))
    content["annotations"] = [{"image_id": image, "category_id": own, **more} for image, own, more in rows]
    content["categories"] = [{"id": number, "name": f"class {number}"} for number in (4, 5, 6)]
    return content


def test_several_annotations_an_image(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Image 1 has a small annotation of class 4 and a large one of class 5, image 2 two of class 5, image 3 none."""
    rows = [(2, 5, {"bbox": [0, 0, 3, 3]}), (1, 4, {"area": 10.0}), (2, 5, {"area": 2}), (1, 5, {"bbox": [1, 1, 4, 5]})]
    train = write(root, boxes(*rows))
    assert "image 2 has 2 annotations; every image needs exactly one, unless" in refusal(root, train)
    expected = {
        "first": (["t/a.jpg", "t/ b é.jpg"], [4, 5]),
        "largest": (["t/a.jpg", "t/ b é.jpg"], [5, 5]),
        "skip": (["t/ b é.jpg"], [5]),
    }
    for choice, (keys, categories) in expected.items():
        source = INaturalist(root, train, annotations=choice)
        own = source.splits["train"]
        assert own.keys == keys and [source.class_names[label] for label in own.labels] == [
            f"class {number}" for number in categories
        ]
        said = capsys.readouterr().err
        assert f"{train}: {3 - len(keys)} image" in said and "without a training image left out" in said
    with pytest.raises(UserError, match=r"annotations\[1\] has neither area nor bbox: annotations=largest cannot"):
        INaturalist(root, write(root, boxes(rows[0], (2, 4, {}))), annotations="largest")
    with pytest.raises(UserError, match="annotations=all is unknown: allowed are first, largest, skip"):
        INaturalist(root, train, annotations="all")
    with pytest.raises(UserError, match="no image is left with annotations=skip"):
        INaturalist(root, write(root, boxes((1, 4, {}), (1, 5, {}))), annotations="skip")
    single = write(root, boxes((1, 4, {}), (2, 5, {}), (3, 6, {})))  # one each: no area is needed
    assert INaturalist(root, single, annotations="largest").splits["train"].labels.tolist() == [0, 1, 2]


def test_camera_traps(root: Path) -> None:
    """COCO Camera Traps: ids are texts, boxes are optional, and images have a location."""
    content = boxes(("a", 4, {"id": "x"}), ("b", 5, {"id": "y"}), ("c", 4, {"id": "z", "bbox": [1, 2, 3, 4]}))
    for image, number in zip(content["images"], "abc", strict=True):
        image.update(id=number, location=int(number == "b"), seq_id=f"seq {number}", frame_num=1)
    train = write(root, content)
    source = INaturalist(root, train, annotations="first", group_by="location")
    assert source.class_names == ["class 4", "class 5"] and source.splits["train"].labels.tolist() == [0, 1, 0]
    assert source.splits["train"].groups == ["0", "1", "0"]
    assert INaturalist(root, train, annotations="first", group_by="t/").splits["train"].groups is None
    del content["images"][0]["location"]  # as some images have none, be it the first one
    content["images"][1]["location"] = 1.0
    source = INaturalist(root, write(root, content), annotations="first", group_by="location")
    assert source.splits["train"].groups == ["None", "1", "0"]


def test_inaturalist_2021(root: Path) -> None:
    """The fields of the files of 2021: taxa with more names, and folders that are named after them."""
    content = annotations(*TRAIN)
    content["categories"] = [
        {"id": number, "name": name, "common_name": "x", "supercategory": "Birds", "kingdom": "Animalia"}
        | {"genus": name.split()[0], "specific_epithet": name.split()[1], "image_dir_name": f"0{number}_{name}"}
        for number, name in ((10, "Bubo bubo"), (30, "Felis catus"))
    ]
    content["images"] = [{**one, "license": 0, "date": "2010", "latitude": 1.5} for one in content["images"]]
    assert INaturalist(root, write(root, content)).class_names == ["Bubo bubo", "Felis catus"]


def test_the_key_is_for_json(root: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("t/a.jpg 0\n")
    keys = {"root": str(root), "train": str(tmp_path / "train.txt"), "annotations": "first", "test": 0}
    with pytest.raises(UserError, match="annotations=first is for JSON: the lists of this source are text"):
        fastlt.write_dataset("image_list", tmp_path / "out", **keys)
