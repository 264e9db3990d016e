"""A source of image files in one folder per class, as in torchvision's ImageFolder, with or without splits."""

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.words import agree, counted
from fastlt.data.sources.base import SPLITS, Listing, split_in_name, split_named
from fastlt.data.sources.classes import some
from fastlt.data.sources.listed import FilesBelowRoot
from fastlt.data.sources.walk import LeftOut, entries, identity, images_below, is_folder, is_image, subfolders

_CLASS = "if it is a class, give its folder another name"
_LAYOUT = (
    "expected ROOT/train/<class>/<images> and, beside train, val/ and test/ of the same form; or ROOT/<class>/<images>"
)


@dataclass(frozen=True)
class ImageFolder(FilesBelowRoot):
    """Images in `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`; val and test are optional.

    If there is no folder of a split, images are in `root/<class>/` and all belong to the train split.

    root: the folder. name: the name of the dataset; by default that of the root folder.

    The folder of a split may have another usual name (SPLIT_NAMES: valid, validation, dev, ...), in any case. Classes
    are the folders in train, sorted by name. Samples are sorted by class and then as in torchvision (by folder, then by
    file name; folders may be nested). A key is the path relative to root. A file is an image if it has the extension of
    a format that Pillow decodes.

    Symbolic links are followed, but each folder of a split is read only once: loops of links end, and a link to the
    folder of another class adds nothing. A broken link is listed and raises OSError in `load`. All other files below
    root are counted by kind and reported in one line.

    Raises UserError for another layout, two folders of one split, classes that are named like splits (training_set and
    test_set), a split without images, a class without a training image, and a class that only val or test has.

    The keys are pickled with the source: pass it to a worker once, when it starts.

    Example: ImageFolder(Path("photos")).class_names
    """

    root: Path
    name: str = ""
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"root={root}: no such folder; {_LAYOUT}")
        left_out = LeftOut(root)
        folders = _split_folders(root)
        if folders:
            class_names = subfolders(root / folders["train"])
            if not class_names:
                raise UserError(f"{root / folders['train']}: no class folders in it; {_CLASS}; {_LAYOUT}")
            splits = {split: _list_split(root, split, folders, class_names, left_out) for split in folders}
            _look_beside(root, list(folders.values()), left_out)
        else:
            class_names, splits = _list_root(root, left_out)
        left_out.say()
        for attribute, value in (
            ("root", root),
            ("name", self.name or root.resolve().name or "images"),
            ("class_names", class_names),
            ("splits", splits),
        ):
            object.__setattr__(self, attribute, value)


def _split_folders(root: Path) -> dict[str, str]:
    """Returns {split: name of its folder} in the order of SPLITS; empty if no folder has the name of a split."""
    found: dict[str, str] = {}
    for name in subfolders(root):
        split = split_named(name)
        if split in found:
            raise UserError(f"{root}: {found[split]}/ and {name}/ are both folders of the {split} split; leave one")
        if split:
            found[split] = name
    if found and "train" not in found:
        named = " and ".join(f"{name}/" for name in found.values())
        raise UserError(f"{root}: there is {named}, but no train folder; {_CLASS}; {_LAYOUT}")
    return {split: found[split] for split in SPLITS if split in found}


def _list_root(root: Path, left_out: LeftOut) -> tuple[list[str], dict[str, Listing]]:
    """Lists images in one folder per class, without splits; returns (class names, {"train": listing}).

    A folder without images is no class here.
    """
    names = subfolders(root)
    visited = {identity(root), *(identity(root / name) for name in names)}
    found = {name: _images(root, name, visited, left_out) for name in names}
    class_names = [name for name in names if found[name]]
    for name in names:
        if not found[name]:
            left_out.add(name, "folder", " without an image")
    _look_beside(root, names, left_out)
    if not class_names:
        raise UserError(f"{root}: no folder with images in it{f' ({left_out})' if left_out else ''}; {_LAYOUT}")
    for key in itertools.chain(*found.values()):
        name, below, *deeper = key.split("/")
        if deeper and split_named(below):
            raise UserError(
                f"{root}: {name}/{below}/ is a folder of a split inside a class; give ROOT/<split>/<class>/ instead, "
                "or a CSV table with a column split"
            )
    if splits := _like_splits(class_names):
        named = " and ".join(f"{name}/" for name in splits)
        raise UserError(
            f"{root}: {named} are named like splits and would be {counted(len(splits), 'class')}: name them "
            f"{', '.join(f'{split_in_name(name)}/' for name in splits)}, or give a CSV table if they are classes"
        )
    keys = [key for name in class_names for key in found[name]]
    labels = np.repeat(np.arange(len(class_names)), [len(found[name]) for name in class_names])
    return class_names, {"train": Listing(keys, labels.astype(np.int64))}


def _like_splits(names: list[str]) -> list[str]:
    """Returns the names that differ only in a split, such as training_set and test_set, train first; [] if none do."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        words = (word.rstrip("0123456789") for word in re.split(r"[-_.]", name.lower()))
        if split_in_name(name):
            alike.setdefault(tuple(word for word in words if not split_named(word)), []).append(name)
    for own in alike.values():
        own.sort(key=lambda name: SPLITS.index(split_in_name(name) or ""))
    return next((own for own in alike.values() if len(own) > 1 and split_in_name(own[0]) == "train"), [])


def _look_beside(folder: Path, taken: list[str], left_out: LeftOut) -> None:
    """Adds everything in a folder except the folders in `taken` to `left_out`."""
    below = os.path.relpath(folder, left_out.root)
    prefix = "" if below == "." else f"{below}/"
    for entry in entries(folder):
        path = prefix + entry.name
        if entry.name.startswith("."):
            left_out.add(path, "name", " with a leading dot")
        elif is_folder(entry):
            if entry.name not in taken:
                inside = sum(1 for _ in images_below(entry.path, {identity(entry.path)}, LeftOut(path)))
                left_out.add(path, "folder", f" with {counted(inside, 'image')} that no split is named after")
        elif is_image(entry.name):
            left_out.add(path, "image", " in the folder of no class")
        else:
            left_out.add_file(path)


def _list_split(root: Path, split: str, folders: dict[str, str], class_names: list[str], left_out: LeftOut) -> Listing:
    folder = root / folders[split]
    present = subfolders(folder)
    strange = sorted(set(present) - set(class_names))
    if strange:
        raise UserError(
            f"{folder}: class folder {some(strange)} that {root / folders['train']} lacks; every class needs training "
            "images: add them there or remove it here"
        )
    # A link from one class to another, or to the split's folder, must not give those images a second label.
    visited = {identity(root), identity(folder), *(identity(folder / name) for name in present)}
    found = {
        name: _images(root, f"{folders[split]}/{name}", visited, left_out) if name in present else []
        for name in class_names
    }
    if split == "train" and (empty := [name for name in class_names if not found[name]]):
        raise UserError(
            f"{folder / empty[0]}: no image in it; every class needs a training image: add one or remove the folder"
        )
    heap = sum(is_image(entry.name) and not is_folder(entry) for entry in entries(folder))
    if not any(found.values()):
        problem = (
            f"its {counted(heap, 'image')} {agree(heap, 'lies', 'lie')} side by side, in the folder of no class"
            if heap
            else "no image found"
        )
        raise UserError(f"{folder}: {problem}; {_LAYOUT}, or remove this folder")
    _look_beside(folder, present, left_out)
    keys = [key for name in class_names for key in found[name]]
    counts = [len(found[name]) for name in class_names]
    return Listing(keys, np.repeat(np.arange(len(class_names)), counts).astype(np.int64))


def _images(root: Path, folder: str, visited: set[tuple[int, int]], left_out: LeftOut) -> list[str]:
    """Returns the keys of the images below a folder of the root, in torchvision's order."""
    found = images_below(root / folder, visited, left_out, f"{folder}/")
    keys = [
        f"{folder}/{below}/{name}" if below else f"{folder}/{name}" for below, name in sorted(map(os.path.split, found))
    ]
    for key in keys:
        if not key.isascii():
            try:
                key.encode()
            except UnicodeEncodeError:
                inside, name = os.path.split(root / key)
                raise UserError(f"{inside}: the name {name!r} in it is not UTF-8; rename it") from None
    return keys
