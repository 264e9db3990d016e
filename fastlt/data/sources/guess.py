"""Guesses what kind of source a path is, so that a conversion can be started with nothing but the path."""

import itertools
from collections.abc import Collection, Iterator
from pathlib import Path

from fastlt.core.errors import UserError, first_line
from fastlt.data.sources import lmdb_file, parquet, webdataset
from fastlt.data.sources.base import SPLITS, split_in_name, split_named
from fastlt.data.sources.csv_rows import Columns, filled_rows, find_columns
from fastlt.data.sources.image_list import first_paths
from fastlt.data.sources.packed_files import files_by_split, is_pattern
from fastlt.data.sources.tar_file import BROKEN, is_tar, open_tar
from fastlt.data.sources.walk import LeftOut, entries, identity, images_below, is_folder, is_image, subfolders

SPLIT = "0.7,0.1,0.2"  # default shares of train, val and test for a source without splits
_CIFAR = {"cifar-10-batches-py": "cifar10_lt", "cifar-100-python": "cifar100_lt"}
_TABLES, _LISTS, _JSON = (".csv", ".tsv"), (".txt", ".lst", ".list"), (".json",)
_TARS = (".tar", ".tgz", ".tbz2", ".txz")
_PACKED = {  # kinds of sources with many images in each file
    "parquet": parquet.ENDS,
    "webdataset": webdataset.ENDS,
    "lmdb": lmdb_file.ENDS,
}
_FORMS = (
    "a folder of images, a CSV table, a text list, JSON annotations, Parquet files, tars, LMDB databases or an archive "
    "of CIFAR"
)


def guessed(path: Path, given: Collection[str] = ()) -> dict[str, str]:
    """Returns the keys of the conversion that describe `path`, such as {"dataset": "image_folder", "root": "photos"}.

    path: a folder of images, a CSV table, a text list, a JSON file of annotations, Parquet files or WebDataset tars (a
        file, a folder or a pattern), or an archive of CIFAR. If it is a list, a Parquet file or a tar that is named
        after the train split (`train.txt`, `train-00000-of-00002.parquet`), the files beside it that differ in split
        and number are used, too.
    given: the keys that the user gave, which are not returned. For a source without splits, default shares are added
        unless the user gave `split`, `val` or `test`.

    Raises UserError for a path that is no source.
    """
    if path.is_dir():
        keys = _folder(path)
    elif path.exists():
        keys = _file(path)
    elif is_pattern(str(path)) and (kind := _packed(path)):
        keys = _in_packed(kind, path)
    else:
        raise UserError(f"{path}: no such file or folder; give {_FORMS}")
    if keys.pop("splits", "") == "none" and not {"split", "val", "test"} & set(given):
        keys["split"] = SPLIT
    return {key: value for key, value in keys.items() if key not in given}


def _folder(path: Path) -> dict[str, str]:
    names = subfolders(path)
    for name, dataset in _CIFAR.items():
        if name in (path.resolve().name, *names):
            return {"dataset": dataset, "source": str(path)}
    with_images = [name for name in names if next(_images(path / name), None)]
    if not with_images and (packed := _packed_below(path)):
        return _in_packed(packed, path)
    heaps = [name for name in with_images if split_named(name) == "train" and not subfolders(path / name)]
    if any(map(split_named, names)) and not heaps:
        return {"dataset": "image_folder", "root": str(path)}
    files = sorted(one for one in path.iterdir() if one.is_file() and _end(one) in (*_TABLES, *_LISTS, *_JSON))
    listing = _listing_of(files)
    if listing is not None and (len(with_images) < 2 or heaps):
        return {**_file(listing), "root": str(path)}
    if heaps:  # the images of train lie side by side, which the error of this kind of source says
        return {"dataset": "image_folder", "root": str(path)}
    if len(with_images) == 1:
        only = path / with_images[0]
        heap = any(is_image(one.name) for one in only.iterdir() if one.is_file())
        if not heap and subfolders(only):  # the archive was unpacked into a folder inside this one, or inside several
            return _folder(only)
    return _per_class(path)


def _per_class(path: Path) -> dict[str, str]:
    return {"dataset": "image_folder", "root": str(path), "splits": "none"}


def _images(folder: Path) -> Iterator[str]:
    return images_below(folder, {identity(folder)}, LeftOut(folder))


def _listing_of(files: list[Path]) -> Path | None:
    """Returns the file that lists the images of a folder: the only one named after train, else the only table."""
    trains = [file for file in files if split_in_name(file.name) == "train"]
    tables = [file for file in files if _end(file) in _TABLES]
    return trains[0] if len(trains) == 1 else tables[0] if len(tables) == 1 else None


def _packed(path: Path) -> str | None:
    """Returns the kind of source of a file, or of a pattern, that ends like one whose files hold many images each."""
    return next((kind for kind, ends in _PACKED.items() if path.name.lower().endswith(ends)), None)


def _packed_below(folder: Path) -> str | None:
    """Returns the kind of the first such file in a folder, or in the folders in it."""
    for place in (folder, *(folder / name for name in subfolders(folder))):
        for entry in entries(place):
            if not is_folder(entry) and (kind := _packed(Path(entry.name))):
                return kind
    return None


def _in_packed(kind: str, path: Path) -> dict[str, str]:
    keys = {"dataset": kind, "source": str(path)}
    return keys if "test" in files_by_split("source", path, _PACKED[kind], tell=False) else {**keys, "splits": "none"}


def _file(path: Path) -> dict[str, str]:
    end = _end(path)
    if (end in _TARS or is_tar(path)) and (cifar := _cifar_in(path)):
        return {"dataset": cifar, "source": str(path)}
    if kind := _packed(path):
        several = split_in_name(path.name) and sum(_packed(file) == kind for file in path.parent.iterdir()) > 1
        return _in_packed(kind, path.parent if several else path)
    if end in _TARS or is_tar(path):
        raise UserError(f"{path}: an archive, but not of CIFAR and no plain .tar; unpack it and give its folder")
    if end not in (*_TABLES, *_LISTS, *_JSON):
        raise UserError(f"{path}: files that end in {end or 'nothing'} are no source; give {_FORMS}")
    beside = _beside(path)
    found = {split: str(beside[split]) for split in ("val", "test") if split in beside}
    if end in _TABLES:
        _, header = next(filled_rows(path), (0, []))
        split = find_columns(path, 1, header, Columns()).split if header else None
        keys = {"dataset": "csv", "root": str(path.parent), "table": str(path), **found}
        return keys if found or split is not None else {**keys, "splits": "none"}
    root = path.parent if end in _JSON else _root(path)
    keys = {"dataset": "image_list", "root": str(root), "train": str(path), **found}
    return keys if found else {**keys, "splits": "none"}


def _root(path: Path) -> Path:
    """Returns the folder that the paths in a list are relative to: the list's folder, its parent or a subfolder."""
    first = first_paths(path)
    for folder in (path.parent, path.parent / "..", *(path.parent / name for name in subfolders(path.parent))):
        if any((folder / name).exists() for name in first):
            return folder
    return path.parent


def _end(path: Path) -> str:
    """Returns the extension of a file in lower case, ignoring .gz."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix if path.suffix.lower() != ".tgz" else ".tgz"


def _beside(path: Path) -> dict[str, Path]:
    """Returns {split: file} for the files beside a train list whose names differ from its name in the split only."""
    if split_in_name(path.name) != "train":
        return {}

    def rest(file: Path) -> list[str]:
        stem, _, end = file.name.partition(".")
        parts = stem.replace("-", "_").split("_")
        return [end, *(part for part in parts if not split_named(part.rstrip("0123456789")))]

    found: dict[str, Path] = {}
    for file in sorted(path.parent.iterdir()):
        split = split_in_name(file.name)
        if split in SPLITS[1:] and rest(file) == rest(path):
            if split in found:
                raise UserError(f"{path.parent}: {found[split].name} and {file.name} may both be of the {split} split")
            found[split] = file
    return found


def _cifar_in(path: Path) -> str | None:
    """Returns the dataset of CIFAR that an archive holds; None if it holds none."""
    try:
        with open_tar(path) as archive:
            for member in itertools.islice(archive, 10):
                for name, dataset in _CIFAR.items():
                    if name in Path(member.name).parts:
                        return dataset
    except BROKEN as error:
        raise UserError(f"{path}: no tar archive that can be read ({first_line(error)})") from None
    return None
