"""Finds the files of sources that pack many images into each file, such as Parquet files or tars, and their splits."""

import glob
import itertools
import os
import re
from collections.abc import Collection
from pathlib import Path

from fastlt.core.errors import UserError
from fastlt.core.log import printed
from fastlt.data.sources.base import SPLITS, split_in_name
from fastlt.data.sources.walk import LeftOut, entries, identity, is_folder

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LARGEST_RANGE = 1_000_000
_LOCK = "lock.mdb"  # lies beside an LMDB database and has no images


def files_by_split(key: str, place: Path, ends: Collection[str], tell: bool = True) -> dict[str, list[Path]]:
    """Returns {split: sorted files} for the files that `place` names, in the order of SPLITS.

    key: the configuration key of `place`, for messages.
    place: a file; a folder, whose files are found at any depth; or a pattern: `*`, `?` and `[...]` as in a shell, or a
        range of numbers such as `train-{000000..000009}.tar`.
    ends: the extensions of the files, in lower case. A file that `place` names itself may have any other.
    tell: whether to print which files of a folder are left out.

    A file belongs to the split that it is named after (`validation-00000-of-00001.parquet`), else to that of the
    nearest folder below `place` (`train/0000.parquet`). If no file is named after a split, all are of the train split.

    Raises UserError if there is no such file, if only some files are named after a split, and if none is of train.
    """
    files, top = _files(key, place, ends, tell)
    found: dict[str | None, list[Path]] = {}
    for file in files:
        found.setdefault(_split_of(file, top), []).append(file)
    if found.keys() == {None} or len(files) == 1:
        return {"train": files}
    if None in found:
        known = next(split for split in found if split)
        raise UserError(
            f"{key}={place}: {printed(found[None][0].name)} is named after no split, but {found[known][0].name} after "
            f"{known}: rename it or move it away"
        )
    if "train" not in found:
        split, (first, *_) = next(iter(found.items()))
        raise UserError(f"{key}={place}: there is {printed(first.name)} for {split}, but no file for train")
    return {split: found[split] for split in SPLITS if split in found}


def files_of(key: str, place: Path, ends: Collection[str]) -> list[Path]:
    """Returns the sorted files that `place` names, whatever their names are. Arguments are those of files_by_split."""
    return _files(key, place, ends, True)[0]


def folder_of(place: Path) -> Path:
    """Returns the folder that keys of the files in `place` are relative to: `place`, or where its pattern begins.

    Which files there are does not matter, so that keys remain as they are when further files and folders arrive.
    """
    if place.is_dir():
        return place
    return (
        place.parent if place.exists() else Path(*itertools.takewhile(lambda part: not is_pattern(part), place.parts))
    )


def name_of(file: Path, top: Path) -> str:
    """Returns the name of a file, or of a folder, in keys: its path relative to `top`, or to a folder above both."""
    name = os.path.relpath(file, top)
    while name.startswith("../"):
        name = name[3:]
    return name


def state_of(file: Path) -> tuple[int, int]:
    """Returns (size, time of the last change) of a file, by which a change is noticed.

    Raises UserError if it is gone.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def is_pattern(place: str) -> bool:
    """Returns whether a text is a pattern that names files, such as `train-*.tar` or `train-{000..009}.tar`."""
    return glob.has_magic(place) or bool(_RANGE.search(place))


def _files(key: str, place: Path, ends: Collection[str], tell: bool) -> tuple[list[Path], Path]:
    """Returns (files, the folder that contains them all)."""
    if place.is_dir():
        left_out = LeftOut(place)
        files = sorted(_below(place, ends, {identity(place)}, left_out))
        if tell:
            left_out.say()
        if not files:
            raise UserError(f"{key}={place}: no file in this folder ends in {' or '.join(sorted(ends))}")
        return files, place
    if place.exists():
        return [place], place.parent
    if not is_pattern(str(place)):
        raise UserError(f"{key}={place}: no such file or folder")
    names = _expanded(key, str(place))
    found = [sorted(glob.glob(name)) or [name] for name in names]  # noqa: PTH207 - the pattern may be absolute
    files = [Path(name) for some in found for name in some]
    for file in files:
        if not file.is_file():
            raise UserError(f"{key}={place}: there is no file {file}")
    return files, Path(os.path.commonpath([file.parent for file in files]))


def _expanded(key: str, pattern: str) -> list[str]:
    """Returns the patterns that a pattern with a range of numbers stands for."""
    match = _RANGE.search(pattern)
    if not match:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _LARGEST_RANGE:
        raise UserError(f"{key}={pattern}: the range {match[0]} must go up, by less than {_LARGEST_RANGE:,}")
    before, behind = pattern[: match.start()], pattern[match.end() :]
    numbers = (str(number).zfill(len(match[1])) for number in range(first, last + 1))
    return [name for number in numbers for name in _expanded(key, f"{before}{number}{behind}")]


def _below(folder: Path, ends: Collection[str], visited: set[tuple[int, int]], left_out: LeftOut) -> list[Path]:
    found = []
    for entry in entries(folder):
        path = folder / entry.name
        if entry.name.startswith(".") or entry.name == _LOCK:
            continue
        if is_folder(entry):
            if (known := identity(path)) not in visited:
                visited.add(known)
                found += _below(path, ends, visited, left_out)
        elif entry.name.lower().endswith(tuple(ends)):
            found.append(path)
        else:
            left_out.add_file(str(path.relative_to(left_out.root)))
    return found


def _split_of(file: Path, top: Path) -> str | None:
    names = [file.name, *(folder.name for folder in file.relative_to(top).parents if folder.name)]
    return next((split for name in names if (split := split_in_name(name))), None)
