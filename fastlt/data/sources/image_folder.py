"""Image files in one folder per class, the layout of torchvision's ImageFolder for every split."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.listed import FilesBelowRoot

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
_LAYOUT = "expected ROOT/train/<class>/<images> and, beside train, val/ and test/ of the same form"


@dataclass(frozen=True)
class ImageFolder(FilesBelowRoot):
    """Images in `root/train/<class>/`, `root/val/<class>/` and `root/test/<class>/`; val and test are optional.

    name: the data set's name; the root folder's unless given.

    Classes are the folders in train, sorted by name. Samples are listed class after class in the order of torchvision
    (folder, then file name; folders may be nested) and a key is the path relative to root. A file is an image if its
    name ends in one of EXTENSIONS, upper or lower case. Names that begin with a dot are passed over, as editors and
    desktops leave such things behind. Symbolic links are followed, but of the folders in a split each is read once: no
    loop of links hangs, and a link into another class's folder adds nothing. A link that leads nowhere is listed and
    fails in `load`.

    Raises UserError for another layout, a split without images, a class without training image and a class that only
    val or test has.

    The keys travel whenever the source is pickled: hand it to a worker once, when it starts.
    """

    root: Path
    name: str = ""
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        root = Path(self.root)
        if not root.is_dir():
            raise UserError(f"root={root}: no such folder; {_LAYOUT}")
        if not (root / "train").is_dir():
            raise _no_train(root)
        class_names = _subfolders(root / "train")
        if not class_names:
            raise UserError(f"{root / 'train'}: no class folders in it; {_LAYOUT}")
        splits = {split: _list_split(root, split, class_names) for split in SPLITS if (root / split).is_dir()}
        for attribute, value in (
            ("root", root),
            ("name", self.name or root.resolve().name or "images"),
            ("class_names", class_names),
            ("splits", splits),
        ):
            object.__setattr__(self, attribute, value)


def _no_train(root: Path) -> UserError:
    classes = _subfolders(root)
    if not classes:
        return UserError(f"{root}: no train folder in it; {_LAYOUT}")
    return UserError(
        f"{root}: no train folder in it, only {_some(classes)}; if these are classes, all images would be for training "
        f"and none for testing: move the class folders into {root / 'train'} and a part of the images into "
        f"{root / 'test'}; {_LAYOUT}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot read this folder ({error.strerror}); allow it or move it away") from None
    for entry in found:
        if not entry.name.isascii():
            try:
                entry.name.encode()
            except UnicodeEncodeError:
                raise UserError(f"{folder}: the name {entry.name!r} in it is not UTF-8; rename it") from None
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or through a folder that may not be entered
        return False


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _is_folder(entry)]


def _identity(folder: Path | str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - walks millions of entries, where Path objects cost more than the work
    return status.st_dev, status.st_ino


def _list_split(root: Path, split: str, class_names: list[str]) -> Listing:
    folder = root / split
    present = _subfolders(folder)
    strange = sorted(set(present) - set(class_names))
    if strange:
        raise UserError(
            f"{folder}: class folder {_some(strange)} that {root / 'train'} lacks; every class needs training images: "
            "add them there or remove it here"
        )
    # A link from within one class to another, or to the split itself, must not give those images a second label.
    visited = {_identity(root), _identity(folder), *(_identity(folder / name) for name in present)}
    keys: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = _images(folder / name, visited) if name in present else []
        if not found and split == "train":
            raise UserError(
                f"{folder / name}: no image in it ({', '.join(EXTENSIONS)}); every class needs a training image: "
                "add one or remove the folder"
            )
        keys += [f"{split}/{name}/{path}" for path in found]
        labels += [label] * len(found)
    if not keys:
        raise UserError(f"{folder}: no image found ({', '.join(EXTENSIONS)}); {_LAYOUT}, or remove this folder")
    return Listing(keys, np.array(labels, np.int64))


def _images(top: Path, visited: set[tuple[int, int]]) -> list[str]:
    """Paths of the images below `top`, relative to it; adds the folders it reads to `visited`."""
    found: list[tuple[str, str]] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in _entries(top / below):
            if _is_folder(entry):
                identity = _identity(entry.path)
                if identity not in visited:
                    visited.add(identity)
                    waiting.append(_join(below, entry.name))
            # A broken link counts: leaving out an image the user put there must not pass in silence. A pipe does not.
            elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_symlink() or entry.is_file()):
                found.append((below, entry.name))
    return [_join(below, name) for below, name in sorted(found)]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
