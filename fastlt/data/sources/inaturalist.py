"""Reads JSON with images, annotations and categories: the layout of COCO, of iNaturalist and of camera traps."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.text import is_one_line
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
from fastlt.longtail.whole_groups import group_text

CHOICES = ("", "first", "largest", "skip")
_FORM = "expected an official annotation file (JSON with images, annotations and categories)"


@dataclass(frozen=True)
class INaturalist(FilesBelowRoot):
    """Image files below `root` that annotation files in the layout of COCO list, such as those of iNaturalist 2018 and
    2021 and of camera traps.

    root: the folder that the paths (`file_name`) are relative to. Those of iNaturalist 2018 begin with train_val2018/,
        those of 2021 with train/ and val/.
    train, val, test: annotation files, plain or gzip. The papers test on iNaturalist's val file: give it as `test`.
    name: the name of the dataset; by default that of the root folder.
    annotations: what an image with several annotations gets. "" allows none: every image needs exactly one.
        `first`: the category of its first annotation in the file.
        `largest`: that of the annotation with the largest `area`, or else `bbox`; of equal ones the first.
        `skip`: the image is left out if its annotations are of several categories.
        With any of these, images without annotation are left out, and categories without a training image, too.
    group_by: a field of the images, such as `location`, whose values become the groups of a listing; ignored if images
        have no field of this name.

    These entries are read: `images` (id, file_name), `annotations` (image_id, category_id) and `categories` (id, name).
    The classes are the categories of the train file; no other file may give their ids other names. Ids of images are
    whole numbers or texts. Class k is the category with the k-th smallest id, so ids may have gaps, but every category
    needs a training image. In a file without categories they are the ids in its annotations. A class is named after its
    category, or by its id if the category has no name of its own. Samples keep the order of `images`, and a key is the
    normalized path.

    Raises UserError, naming file and entry, for another layout, a path listed twice in one split, an image without
    annotation or with several (see `annotations`), a category without a training image, and a category that val or
    test names otherwise than train; and if none of a split's first files exists (the root is wrong). Other missing
    files raise OSError in `load`.

    The keys are pickled with the source: pass it to a worker once, when it starts.

    Example: INaturalist(Path("inat"), Path("inat/train2018.json"), test=Path("inat/val2018.json"))
    """

    root: Path
    train: Path
    val: Path | None = None
    test: Path | None = None
    name: str = ""
    annotations: str = ""
    group_by: str = ""
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.annotations not in CHOICES:
            allowed = ", ".join(filter(None, CHOICES))
            raise UserError(f"annotations={self.annotations} is unknown: allowed are {allowed}")
        root = Path(self.root)
        check_root(root)
        files = {split: Path(file) for split in SPLITS if (file := getattr(self, split)) is not None}
        ids, class_names, splits, named = np.empty(0, np.int64), [], {}, {}
        for split, file in files.items():
            content = _read(file)
            keys, categories, groups = self._annotated(file, content, root)
            if split == "train":
                ids, class_names = _classes(file, content, categories, bool(self.annotations))
                named = _named(content)
            _check_named(file, _named(content), categories, named, files["train"])
            labels = _numbered(file, keys, categories, ids, files["train"])
            splits[split] = Listing(keys, labels, groups)
            check_first_files(root, file, splits[split])
        for attribute, value in (
            ("root", root),
            *((split, files.get(split)) for split in SPLITS),
            ("name", self.name or root.resolve().name or "images"),
            ("class_names", class_names),
            ("splits", splits),
        ):
            object.__setattr__(self, attribute, value)

    def _annotated(
        self, file: Path, content: dict[str, Any], root: Path
    ) -> tuple[list[str], np.ndarray, list[str] | None]:
        """Returns (keys of the images, category id of each image int64 [N], groups of the images if asked for)."""
        image_ids = _column(file, content, "images", "id", int, str)
        names = _column(file, content, "images", "file_name", str)
        keys = [_key(file, place, name, root) for place, name in enumerate(names)]
        if not keys:
            raise UserError(f"{file}: there is no image in it; {_FORM}")
        if again := repeated(keys):
            raise UserError(
                f"{file}: images[{again[1]}] {shown(keys[again[1]])}: already listed as images[{again[0]}]; "
                "list every image once per split"
            )
        places = dict(zip(image_ids, range(len(keys)), strict=True))
        if len(places) < len(keys):
            image, count = Counter(image_ids).most_common(1)[0]
            raise UserError(f"{file}: {count} images have the id {image}; every image needs an id of its own")
        category = self._categories(file, content, places)
        if len(category) < len(keys) and not self.annotations:
            image, key = next(pair for pair in zip(image_ids, keys, strict=True) if pair[0] not in category)
            raise UserError(
                f"{file}: image {image} ({key}) has no annotation; every image needs exactly one, unless annotations="
                "first, largest or skip is given"
            )
        kept = [place for image, place in places.items() if image in category]
        if not kept:
            raise UserError(f"{file}: no image is left with annotations={self.annotations}")
        entries = content["images"]
        groups = None
        if self.group_by and any(self.group_by in entry for entry in entries):  # some may lack it
            groups = [group_text(entries[place].get(self.group_by)) for place in kept]
        return [keys[place] for place in kept], np.array([category[image_ids[k]] for k in kept], np.int64), groups

    def _categories(self, file: Path, content: dict[str, Any], places: dict[Any, int]) -> dict[Any, int]:
        """Returns {id of an image: the category that it gets}. places: {id: position} of all images."""
        annotated = _column(file, content, "annotations", "image_id", int, str)
        categories = _column(file, content, "annotations", "category_id", int)
        category: dict[Any, int] = {}
        for image, own in zip(annotated, categories, strict=True):
            category.setdefault(image, own)
        if len(category) < len(annotated) and not self.annotations:
            image, count = Counter(annotated).most_common(1)[0]
            raise UserError(
                f"{file}: image {image} has {counted(count, 'annotation')}; every image needs exactly one, unless "
                "annotations=first, largest or skip is given"
            )
        if strange := next((image for image in category if image not in places), None):
            raise UserError(f"{file}: an annotation is of image {strange}, which is not among the images; remove it")
        several = len(annotated) - len(category)
        if self.annotations == "largest" and several:
            category = _largest(file, content["annotations"], annotated, categories)
        if self.annotations == "skip":
            pairs = set(zip(annotated, categories, strict=True))
            differing = {image for image, count in Counter(image for image, _ in pairs).items() if count > 1}
            category = {image: own for image, own in category.items() if image not in differing}
        without = len(places) - len(category)
        if without:
            say(
                f"{file}: {counted(without, 'image')} without annotation"
                f"{', or with several categories,' if self.annotations == 'skip' else ''} left out"
            )
        return category


def _largest(file: Path, entries: list[dict[str, Any]], images: list[Any], categories: list[int]) -> dict[Any, int]:
    """Returns {id of an image: the category of its largest annotation}."""
    several = {image for image, count in Counter(images).items() if count > 1}
    found: dict[Any, tuple[float, int]] = {}
    for place, (image, own) in enumerate(zip(images, categories, strict=True)):
        size = _size(file, place, entries[place]) if image in several else 0.0
        if image not in found or size > found[image][0]:
            found[image] = size, own
    return {image: own for image, (_, own) in found.items()}


def _size(file: Path, place: int, entry: dict[str, Any]) -> float:
    """Returns the area of an annotation in pixels."""
    box = entry.get("bbox")
    if isinstance(area := entry.get("area"), int | float):
        return float(area)
    if isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box):
        return float(box[2] * box[3])
    raise UserError(f"{file}: annotations[{place}] has neither area nor bbox: annotations=largest cannot compare it")


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


def _column(file: Path, content: dict[str, Any], part: str, key: str, *kinds: type) -> list[Any]:
    """Returns the value of `key` in every entry of a part of the file. Raises UserError for a value of other types."""
    entries = content.get(part)
    if not isinstance(entries, list):
        hint = " (test sets come without labels)" if part == "annotations" else ""
        raise UserError(f"{file}: no list {part!r} in it{hint}; {_FORM}")
    values: list[Any] = [entry.get(key) if type(entry) is dict else None for entry in entries]
    for place, value in enumerate(values):
        if type(value) not in kinds or (type(value) is int and abs(value) >= 2**63):
            wanted = "a whole number" if int in kinds else "a text"
            entry = shown(json.dumps(entries[place], ensure_ascii=False))
            raise UserError(f"{file}: {part}[{place}] is {entry}: {key!r} should be {wanted}; {_FORM}")
    return values


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


def _classes(file: Path, content: dict[str, Any], present: np.ndarray, leave_out: bool) -> tuple[np.ndarray, list[str]]:
    """Returns (ids of the categories in ascending order int64 [C], their names).

    present: the categories of the training images. leave_out: whether other categories are left out.
    """
    if "categories" not in content:
        ids = np.unique(present)
        return ids, [str(number) for number in ids]
    listed = _column(file, content, "categories", "id", int)
    if len(set(listed)) < len(listed):
        number, count = Counter(listed).most_common(1)[0]
        raise UserError(f"{file}: {count} categories have the id {number}; every category needs an id of its own")
    entries = dict(zip(listed, content["categories"], strict=True))
    ids = np.array(sorted(entries), np.int64)
    names = {number: _name(entries[number]) or str(number) for number in ids.tolist()}
    common = Counter(names.values())
    missing = np.setdiff1d(ids, present)
    if len(missing) and leave_out:
        say(f"{file}: {counted(len(missing), 'category')} without a training image left out")
        ids = np.intersect1d(ids, present)
    elif len(missing):
        number = int(missing[0])
        raise UserError(
            f"{file}: category {number} ({names[number]}) has no training image; add one or remove it from categories"
        )
    return ids, [names[number] if common[names[number]] == 1 else str(number) for number in ids.tolist()]


def _named(content: dict[str, Any]) -> dict[Any, str]:
    """Returns {id of a category: its name} for the categories of a file that have a name."""
    listed = content.get("categories")
    entries = [entry for entry in listed if type(entry) is dict] if isinstance(listed, list) else []
    return {entry.get("id"): name for entry in entries if (name := _name(entry))}


def _name(entry: dict[str, Any]) -> str:
    name = entry.get("name")
    return name.strip() if isinstance(name, str) and is_one_line(name.strip()) else ""


def _check_named(file: Path, own: dict[Any, str], used: np.ndarray, named: dict[Any, str], train: Path) -> None:
    """Raises UserError if a category of the images has another name than in the train file.

    Every program numbers categories when it writes a file, so that those of two files may be different ones.
    """
    for number in np.unique(used).tolist():
        if (name := own.get(number)) and (other := named.get(number)) and name != other:
            raise UserError(
                f"{file}: category {number} is {shown(name)}, in {train} it is {shown(other)}: give the categories the "
                "same ids in both files"
            )


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
