"""Reads iNaturalist from its official annotation files: JSON with images, annotations and categories."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.words import counted
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.listed import (
    BadPath,
    FilesBelowRoot,
    check_first_files,
    check_root,
    is_plain,
    normalized,
    opened,
    repeated,
    shown,
)

_FORM = "expected an official annotation file (JSON with images, annotations and categories)"


@dataclass(frozen=True)
class INaturalist(FilesBelowRoot):
    """Image files below `root` that annotation files in the layout of iNaturalist 2018 (that of COCO) list.

    root: the folder that the paths (`file_name`) are relative to; official paths begin with train_val2018/.
    train, val, test: annotation files, plain or gzip. The papers test on the official val2018.json: give it as `test`.
    name: the name of the data set; by default that of the root folder.

    These entries are read: `images` (id, file_name), `annotations` (image_id, category_id) and, of the train file,
    `categories` (id, name). Every image needs exactly one annotation. Class k is the category with the k-th smallest
    id, so ids may have gaps, but every category needs a training image. In a file without categories they are the ids
    in its annotations. A class is named after its category, or by its id if the category has no name of its own.
    Samples keep the order of `images`, and a key is the normalized path.

    Raises UserError, naming file and entry, for another layout, a path listed twice in one split, an image without
    annotation or with several, and a category without a training image; and if none of a split's first files exists
    (the root is wrong). Other missing files raise OSError in `load`.

    The keys are pickled with the source: pass it to a worker once, when it starts.

    Example: INaturalist(Path("inat"), Path("inat/train2018.json"), test=Path("inat/val2018.json"))
    """

    root: Path
    train: Path
    val: Path | None = None
    test: Path | None = None
    name: str = ""
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        root = Path(self.root)
        check_root(root)
        files = {split: Path(file) for split in SPLITS if (file := getattr(self, split)) is not None}
        ids, class_names, splits = np.empty(0, np.int64), [], {}
        for split, file in files.items():
            content = _read(file)
            keys, categories = _annotated(file, content, root)
            if split == "train":
                ids, class_names = _classes(file, content, categories)
            splits[split] = Listing(keys, _numbered(file, keys, categories, ids, files["train"]))
            check_first_files(root, file, splits[split])
        for attribute, value in (
            ("root", root),
            *((split, files.get(split)) for split in SPLITS),
            ("name", self.name or root.resolve().name or "images"),
            ("class_names", class_names),
            ("splits", splits),
        ):
            object.__setattr__(self, attribute, value)


def _read(file: Path) -> dict[str, Any]:
    with opened(file, _FORM) as stream:
        text = stream.read()
    try:
        content = json.loads(text)
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8; {_FORM}") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply; {_FORM}") from None
    except ValueError as error:  # raised by the decoder, or by Python for a number of thousands of digits
        raise UserError(f"{file}: not JSON ({error}); {_FORM}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: a {type(content).__name__} where an object was expected; {_FORM}")
    return content


def _column(file: Path, content: dict[str, Any], part: str, key: str, kind: type) -> list[Any]:
    """Returns the value of `key` in every entry of a part of the file. Raises UserError for a value of another type."""
    entries = content.get(part)
    if not isinstance(entries, list):
        hint = " (test sets come without labels)" if part == "annotations" else ""
        raise UserError(f"{file}: no list {part!r} in it{hint}; {_FORM}")
    values: list[Any] = [entry.get(key) if type(entry) is dict else None for entry in entries]
    for place, value in enumerate(values):
        if type(value) is not kind or (kind is int and abs(value) >= 2**63):
            wanted = "a whole number" if kind is int else "a text"
            entry = shown(json.dumps(entries[place], ensure_ascii=False))
            raise UserError(f"{file}: {part}[{place}] is {entry}: {key!r} should be {wanted}; {_FORM}")
    return values


def _annotated(file: Path, content: dict[str, Any], root: Path) -> tuple[list[str], np.ndarray]:
    """Returns (keys of the images, category id of each image int64 [N])."""
    image_ids = _column(file, content, "images", "id", int)
    names = _column(file, content, "images", "file_name", str)
    keys = [_key(file, place, name, root) for place, name in enumerate(names)]
    if not keys:
        raise UserError(f"{file}: there is no image in it; {_FORM}")
    if again := repeated(keys):
        raise UserError(
            f"{file}: images[{again[1]}] {shown(keys[again[1]])}: already listed as images[{again[0]}]; "
            "list every image once per split"
        )
    annotated = _column(file, content, "annotations", "image_id", int)
    category = dict(zip(annotated, _column(file, content, "annotations", "category_id", int), strict=True))
    if len(category) < len(annotated):
        image, count = Counter(annotated).most_common(1)[0]
        raise UserError(f"{file}: image {image} has {counted(count, 'annotation')}; every image needs exactly one")
    places = dict(zip(image_ids, range(len(keys)), strict=True))
    if len(places) < len(keys):
        image, count = Counter(image_ids).most_common(1)[0]
        raise UserError(f"{file}: {count} images have the id {image}; every image needs an id of its own")
    for image, key in zip(image_ids, keys, strict=True):
        if image not in category:
            raise UserError(f"{file}: image {image} ({key}) has no annotation; every image needs exactly one")
    if len(category) > len(places):
        image = next(image for image in category if image not in places)
        raise UserError(f"{file}: an annotation is of image {image}, which is not among the images; remove it")
    return keys, np.array([category[image] for image in image_ids], np.int64)


def _key(file: Path, place: int, name: str, root: Path) -> str:
    problem = "no path; give the path of an image, relative to the root"
    if name:
        try:
            name.encode()
            return name if is_plain(name) else normalized(name, root)
        except BadPath as error:
            problem = str(error)
        except UnicodeEncodeError:
            problem = "not UTF-8; rename the file"
    raise UserError(f"{file}: images[{place}] {shown(name)}: {problem}")


def _classes(file: Path, content: dict[str, Any], present: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns (ids of the categories in ascending order int64 [C], their names)."""
    if "categories" not in content:
        ids = np.unique(present)
        return ids, [str(number) for number in ids]
    listed = _column(file, content, "categories", "id", int)
    if len(set(listed)) < len(listed):
        number, count = Counter(listed).most_common(1)[0]
        raise UserError(f"{file}: {count} categories have the id {number}; every category needs an id of its own")
    entries = dict(zip(listed, content["categories"], strict=True))
    ids = np.array(sorted(entries), np.int64)
    names = {number: _name(entries[number], number) for number in ids.tolist()}
    common = Counter(names.values())
    missing = np.setdiff1d(ids, present)
    if len(missing):
        number = int(missing[0])
        raise UserError(
            f"{file}: category {number} ({names[number]}) has no training image; add one or remove it from categories"
        )
    return ids, [name if common[name] == 1 else str(number) for number, name in names.items()]


def _name(entry: dict[str, Any], number: int) -> str:
    name = entry.get("name")
    return name.strip() if isinstance(name, str) and name.strip().isprintable() and name.strip() else str(number)


def _numbered(file: Path, keys: list[str], categories: np.ndarray, ids: np.ndarray, train: Path) -> np.ndarray:
    """Returns the class index of every image, int64 [N]."""
    labels = np.searchsorted(ids, categories)
    strange = np.flatnonzero(ids[np.minimum(labels, len(ids) - 1)] != categories)
    if len(strange):
        place = int(strange[0])
        problem = "which is not among the categories" if file == train else "which has no training image"
        raise UserError(
            f"{file}: image {keys[place]} is of category {categories[place]}, {problem}; allowed: the {len(ids)} "
            f"categories of {train}"
        )
    return labels.astype(np.int64)
