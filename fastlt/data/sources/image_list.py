"""A source of image files in text lists with lines `relative/path label`, in which the papers publish their splits."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.words import counted
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.classes import read_class_names
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

_LARGEST_LABEL = 2**31 - 1  # labels are stored as int32
_FORM = "expected `relative/path label`"
_WHOLE = re.compile(rb"(?<=\d)\.0+$")  # the end of a whole number that was written as a float


@dataclass(frozen=True)
class ImageList(FilesBelowRoot):
    """Image files below `root` that are listed in one text file per split.

    root: the folder that the paths in the lists are relative to.
    lists: {split: text file} (plain or gzip, UTF-8); `train` is required, `val` and `test` are optional.
    classes: optional file of class names, in which line k (from 0) names class k, or a class map (`read_class_names`).
    name: the name of the dataset; by default that of the root folder.

    The last field of a line is the label, 0 to C-1; the rest is the path, which may contain spaces. Blank lines are
    skipped. Samples keep the order of the list, and a key is the normalized path (`a/./b.jpg` becomes `a/b.jpg`). Paths
    must not leave the root as they are spelled; symbolic links below it may lead anywhere.

    Without `classes`, classes are named after their folders if every class of train has a folder of its own, else by
    their numbers.

    Raises UserError, naming list and line, for lines of another form, a path listed twice in one split, and a class
    without a training image; and if none of a split's first files exists (the root is wrong). Other missing files raise
    OSError in `load`.

    The keys are pickled with the source (about 60 bytes each): pass it to a worker once, when it starts.

    Example: ImageList(Path("places"), {"train": Path("Places_LT_train.txt"), "test": Path("Places_LT_test.txt")})
    """

    root: Path
    lists: Mapping[str, Path] = field(hash=False)
    classes: Path | None = None
    name: str = ""
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        root = Path(self.root)
        check_root(root)
        unknown = sorted(set(self.lists) - set(SPLITS))
        if unknown or "train" not in self.lists:
            problem = f"unknown split {unknown[0]!r}" if unknown else "no train list"
            raise UserError(f"{problem}: give train=LIST and, where there are any, val=LIST and test=LIST")
        lists = {split: Path(self.lists[split]) for split in SPLITS if split in self.lists}
        splits = {split: _read_list(path, root) for split, path in lists.items()}
        classes = _check_labels(splits, lists)
        for split, listing in splits.items():
            check_first_files(root, lists[split], listing)
        if self.classes is None:
            class_names = _folder_names(splits["train"], classes) or [str(k) for k in range(classes)]
        else:
            class_names = _named(Path(self.classes), classes)
        for attribute, value in (
            ("root", root),
            ("lists", lists),
            ("classes", None if self.classes is None else Path(self.classes)),
            ("name", self.name or root.resolve().name or "images"),
            ("class_names", class_names),
            ("splits", splits),
        ):
            object.__setattr__(self, attribute, value)


class _Line(NamedTuple):
    number: int
    text: bytes

    def error(self, path: Path, problem: str) -> UserError:
        text = self.text.decode(errors="backslashreplace").strip()
        return UserError(f"{path} line {self.number}: {shown(text)}: {problem}")


def _lines(path: Path) -> Iterator[bytes]:
    with opened(path, f"{_FORM} per line") as file:
        yield from file


def _read_list(path: Path, root: Path) -> Listing:
    """Reads keys and labels of one list. It may have millions of lines, so usual ones are handled with few checks."""
    keys: list[str] = []
    labels: list[int] = []
    known: dict[bytes, int] = {}
    for number, text in enumerate(_lines(path), 1):
        fields = text.rsplit(None, 1)
        if len(fields) < 2:
            if not fields:
                continue
            raise _Line(number, text).error(path, f"no label; {_FORM}")
        label = fields[1]
        if label not in known:
            known[label] = _label(_Line(number, text), label, path)
        try:
            name = fields[0].decode()
        except UnicodeDecodeError:
            raise _Line(number, text).error(path, "not UTF-8; save the list as UTF-8") from None
        if name[0] in " \t" or not is_plain(name):
            try:
                name = normalized(name.strip(" \t"), root)
            except BadPath as problem:
                raise _Line(number, text).error(path, str(problem)) from None
        keys.append(name)
        labels.append(known[label])
    if not keys:
        raise UserError(f"{path}: this list is empty; {_FORM} per line")
    _check_unique(keys, path)
    return Listing(keys, np.array(labels, np.int64))


def _label(line: _Line, label: bytes, path: Path) -> int:
    allowed = f"a label is a whole number from 0 to {_LARGEST_LABEL}"
    label = _WHOLE.sub(b"", label)
    shown = label[:40].decode(errors="backslashreplace")
    if label[:1] == b"-" and label[1:].isdigit():
        raise line.error(path, f"negative label {shown}; {allowed}")
    if not label.isdigit():
        raise line.error(path, f"the last field {shown!r} is no label; {_FORM}, {allowed}")
    number = int(label) if len(label) < 20 else _LARGEST_LABEL + 1
    if number > _LARGEST_LABEL:
        raise line.error(path, f"label {shown} is too large; {allowed}")
    return number


def _nth(path: Path, index: int) -> _Line:
    """Returns the line of sample `index`. Reads the list again for an error message, so that line numbers need not be
    kept for lists without errors."""
    filled = (_Line(number, text) for number, text in enumerate(_lines(path), 1) if text.strip())
    return next(itertools.islice(filled, index, None))


def _check_unique(keys: list[str], path: Path) -> None:
    if found := repeated(keys):
        earlier, later = (_nth(path, place) for place in found)
        raise later.error(path, f"already listed in line {earlier.number}; list every image once per split")


def _check_labels(splits: dict[str, Listing], lists: dict[str, Path]) -> int:
    """Returns the number of classes. Raises UserError if a class has no training image."""
    present = np.unique(splits["train"].labels)
    classes = int(present[-1]) + 1
    if len(present) < classes:
        missing = int(np.flatnonzero(present != np.arange(len(present)))[0])
        line = _nth(lists["train"], int(splits["train"].labels.argmax()))
        raise line.error(
            lists["train"],
            f"with this label there are classes 0 to {classes - 1}, but class {missing} has no training image; "
            "labels count from 0 without gaps; those of a CSV table (dataset=csv, header path,label) may have gaps",
        )
    for split, listing in splits.items():
        strange = np.flatnonzero(listing.labels >= classes)
        if len(strange):
            line = _nth(lists[split], int(strange[0]))
            raise line.error(
                lists[split],
                f"class {listing.labels[strange[0]]} has no training image; allowed are the labels 0 to {classes - 1} "
                f"of {lists['train']}",
            )
    return classes


def _named(path: Path, classes: int) -> list[str]:
    names = read_class_names(path)
    if len(names) != classes:
        raise UserError(
            f"class_names={path}: {counted(len(names), 'name')}, expected {classes}: the labels go from 0 to "
            f"{classes - 1}"
        )
    return names


def _folder_names(train: Listing, classes: int) -> list[str] | None:
    """Names classes after their folders, with as few parent folders as make the names unique.

    `train/airfield/1.jpg` gives `airfield`; if several folders contain `outdoor`, the names are `hotel/outdoor` and
    `church/outdoor`. Returns None unless every class has a folder of its own. Only the train split is considered,
    because validation images are often in a single folder.
    """
    folders: dict[int, str] = {}
    for key, label in zip(train.keys, train.labels.tolist(), strict=True):
        folder = key.rpartition("/")[0]
        if folders.setdefault(label, folder) != folder:
            return None
    paths = [folders[k].split("/") for k in range(classes)]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if all(names) and len(set(names)) == classes:
            return names
    return None


def first_paths(path: Path) -> list[str]:
    """Returns the first five paths of a list as they are spelled, but with slashes."""
    filled = (text.rsplit(None, 1)[0] for text in _lines(path) if text.strip())
    return [name.decode(errors="replace").strip().replace("\\", "/") for name in itertools.islice(filled, 5)]
