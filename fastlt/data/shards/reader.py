"""Opens a converted dataset: its description, its index and its memory-mapped shards."""

import collections
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.checks import wrong_channels
from fastlt.core.errors import UserError
from fastlt.core.text import is_one_line
from fastlt.core.words import counted
from fastlt.data.shards import format as layout
from fastlt.data.shards.history import damage_of_history
from fastlt.data.shards.index import INDEXED, SplitIndex, read_index, read_keys, read_texts
from fastlt.data.shards.mapped import map_file
from fastlt.longtail.whole_groups import group_numbers


class Dataset:
    """A converted dataset, opened for reading.

    Opening it checks that description, index and shards are complete and belong together. The bytes of the shards are
    not read for this; `python -m fastlt.shards verify` checks them as well.

    root: the folder that a conversion wrote.

    Attributes: name; class_names; digest, which identifies the content; splits, {split name: SplitIndex}; about, the
    content of dataset.json; shards, their paths; maps, their bytes as uint8 arrays.

    Raises UserError if a file is missing, damaged or of another dataset.

    Example:

        dataset = fastlt.Dataset("data/photos")
        train = dataset.split("train")
        print(dataset.class_names, train.counts, train.label[:5])
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        while True:
            about, problem = read_description(self.root), None
            try:
                self._open(about)
            except UserError as error:
                problem = error
            # Another dataset may have replaced the folder meanwhile. In that case everything is opened again.
            if read_description(self.root)["digest"] == about["digest"]:
                break
        if problem:
            raise problem

    def _open(self, about: dict[str, Any]) -> None:
        self.about = about
        self.digest: str = about["digest"]
        self.name: str = about["name"]
        self.class_names: list[str] = about["class_names"]
        if (given := layout.dataset_digest(about)) != self.digest:
            raise UserError(
                f"{self.root / layout.DATASET_FILE} is damaged or was edited (its digest is {self.digest[:12]}, what "
                f"it says gives {given[:12]}): put it back or convert the dataset again"
            )
        self.shards = [self.root / shard["name"] for shard in about["shards"]]
        # The bytes of the shards, uint8. Mappings remain valid even if other files take the names of the shards.
        self.maps = [_mapped(path, shard["size"]) for path, shard in zip(self.shards, about["shards"], strict=True)]
        self.splits = read_index(self.root / layout.INDEX_FILE, about)

    def __repr__(self) -> str:
        images = ", ".join(f"{name}: {len(index):,} images" for name, index in self.splits.items())
        return f"Dataset({str(self.root)!r}, {self.name}, {self.classes} classes, {images})"

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def split(self, name: str) -> SplitIndex:
        """Returns the index of a split. Raises UserError if the dataset has no split of this name."""
        if name not in self.splits:
            raise UserError(f"{self.root} has no split {name}: it has {', '.join(self.splits)}")
        return self.splits[name]

    def data(self, split: str, sample: int) -> np.ndarray:
        """Returns the stored bytes of a sample's image as a uint8 view of the shard, without a copy."""
        index = self.splits[split]
        start = index.offset[sample]
        return self.maps[index.shard[sample]][start : start + index.length[sample]]

    def pixels(self, split: str, sample: int) -> np.ndarray:
        """Returns the pixels of a raw sample as a uint8 [H, W, 3] view of the shard, without a copy."""
        index = self.splits[split]
        height, width = int(index.height[sample]), int(index.width[sample])
        return self.data(split, sample)[-height * width * 3 :].reshape(height, width, 3)

    def stored(self, split: str, samples: np.ndarray) -> list[np.ndarray]:
        """Returns, for every sample of a batch, `pixels` if it is stored raw and `data` otherwise.

        samples: int64 [n], sample ids.
        """
        index = self.splits[split]
        size = np.full((len(samples), 3), 3, np.int64)
        size[:, 0], size[:, 1] = index.height[samples], index.width[samples]
        raw = index.encoding[samples] == layout.RAW
        stop = index.offset[samples] + index.length[samples]
        begin = np.where(raw, stop - size.prod(axis=1), index.offset[samples])
        places = zip(index.shard[samples].tolist(), begin.tolist(), stop.tolist(), strict=True)
        views = [self.maps[shard][first:end] for shard, first, end in places]
        for k in np.flatnonzero(raw).tolist():
            views[k] = views[k].reshape(size[k])
        return views

    def pixels_together(self, split: str, samples: np.ndarray) -> np.ndarray:
        """Copies raw samples that all have the same size into one array, uint8 [n, H, W, 3]."""
        index = self.splits[split]
        height, width = int(index.height[samples[0]]), int(index.width[samples[0]])
        together = np.empty((len(samples), height * width * 3), np.uint8)
        stop = index.offset[samples] + index.length[samples]
        for row, shard, end in zip(together, index.shard[samples].tolist(), stop.tolist(), strict=True):
            row[:] = self.maps[shard][end - row.size : end]
        return together.reshape(-1, height, width, 3)

    def key(self, split: str, sample: int) -> str:
        """Reads the key of a sample, its name in the source, for messages. `unknown ...` if the index is damaged."""
        try:
            return read_keys(self.root / layout.INDEX_FILE, self.about, {split: [sample]})[split, sample]
        except (OSError, ValueError, UserError):  # the index was damaged or replaced meanwhile
            return f"unknown (sample {sample})"

    def keys(self, split: str) -> np.ndarray:
        """Reads the keys of all samples of a split, as bytes (UTF-8) [N]. Raises UserError if the index is damaged."""
        return read_texts(self.root / layout.INDEX_FILE, self.about, split, "key")

    def group_names(self, split: str) -> np.ndarray | None:
        """Reads the groups of all samples of a split, as bytes (UTF-8) [N], empty for samples without a group.

        Returns None for a dataset that was converted without group_by=. Raises UserError if the index is damaged.
        """
        if "group" not in self.about["index"]["columns"][split]:
            return None
        return read_texts(self.root / layout.INDEX_FILE, self.about, split, "group")

    def image_groups(self, split: str) -> np.ndarray | None:
        """Returns the group of every sample of a split as a number, int64 [N], each sample without one a group alone.

        Returns None and raises UserError as `group_names` does.
        """
        names = self.group_names(split)
        return None if names is None else group_numbers(names)


def read_description(root: Path) -> dict[str, Any]:
    """Reads dataset.json of a dataset folder. Raises UserError if it is missing, damaged or of another schema."""
    path = root / layout.DATASET_FILE
    if not root.is_dir():
        raise UserError(
            f"data={root}: no such folder; convert a dataset first (python -m fastlt.convert dataset=... out={root})"
        )
    try:
        path.lstat()  # os.path.lexists calls a file missing whose folder may not be read
    except FileNotFoundError:
        raise UserError(
            f"data={root} has no {layout.DATASET_FILE}, so it is no converted dataset; make one with "
            "python -m fastlt.convert"
        ) from None
    if not path.is_file():  # reading from a named pipe would block
        raise UserError(f"{path} is no file: put it back, or convert the dataset again")
    try:
        about = json.loads(path.read_text("utf-8"))
        if not isinstance(about, dict) or "schema" not in about:
            raise ValueError("it holds no schema")
        schema = about["schema"]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): convert the dataset again") from None
    if schema != layout.SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {layout.SCHEMA}: convert the dataset again")
    if damage := _damage(about):
        raise UserError(f"{path} is damaged ({damage}): convert the dataset again")
    return about


_FIELDS = {"digest": str, "name": str, "protocol": str, "class_names": list, "mean": list, "std": list} | {
    "options": dict,
    "source": dict,
    "splits": dict,
    "quarantined": dict,
    "shards": list,
    "index": dict,
}
_SPLIT_FIELDS = {"samples": int, "counts": list, "encodings": dict}
_SHARD_FIELDS = {"name": str, "size": int, "sha256": str}
_INDEX_FIELDS = {"size": int, "crc32": int, "columns": dict}
_COLUMN_FIELDS = {"offset": int, "bytes": int, "crc32": int}


def _damage(about: dict[str, Any]) -> str:
    """Returns a message for fields of dataset.json that are missing or have impossible values, else ""."""
    wrong: list[str] = []

    def lacking(fields: dict[str, type], where: Any, name: str = "") -> bool:
        """Adds fields that are missing, of another type or negative to `wrong`; returns whether there are any."""
        for field, kind in fields.items():
            value = where.get(field) if isinstance(where, dict) else None
            if type(value) is not kind or (isinstance(value, int) and value < 0):
                wrong.append(name + field)
        return bool(wrong)

    if lacking(_FIELDS, about) or lacking(_INDEX_FIELDS, about["index"], "index."):
        return f"no {', '.join(wrong[:10])}"
    for split, summary in about["splits"].items():
        lacking(_SPLIT_FIELDS, summary, f"splits.{split}.")
        place = about["index"]["columns"].get(split)
        for column in dict.fromkeys((*INDEXED, "key", *(place if isinstance(place, dict) else ()))):
            lacking(_COLUMN_FIELDS, place.get(column) if isinstance(place, dict) else None, f"index.{split}.{column}.")
    for place, shard in enumerate(about["shards"]):
        lacking(_SHARD_FIELDS, shard, f"shards.{place}.")
    if wrong:
        return f"no {', '.join(wrong[:10])}"
    return _implausible(about)


def implausible_settings(about: dict[str, Any]) -> str:
    """Returns a message for a name, class names, mean, std or protocol in a dataset.json that cannot be, else ""."""
    names = about["class_names"]
    if not names or any(type(name) is not str for name in names):
        return "class_names are no names"
    if len(set(names)) < len(names):
        twice = next(name for name, count in collections.Counter(names).items() if count > 1)
        return f"two classes have the name {twice[:60]!r}"
    if problem := wrong_channels(about["mean"], about["std"]):
        return problem
    name = about["name"]
    if not name or "${" in name or not is_one_line(name):
        return f"name is {name[:60]!r}, which is empty, or has a line break or other control character, or ${{"
    # Hydra composes the configuration of this name: it must be no list, no path and no expression.
    if not re.fullmatch(r"[a-zA-Z][\w.-]*", about["protocol"]):
        return f"protocol is {about['protocol'][:60]!r}, not a letter and then letters, digits, _, . or -"
    return ""


def _implausible(about: dict[str, Any]) -> str:
    """Returns a message for the first impossible value in a dataset.json that has all fields, else ""."""
    if problem := implausible_settings(about):
        return problem
    names = about["class_names"]
    if not about["splits"] or any(not re.fullmatch(r"\w[\w.-]*", split) for split in about["splits"]):
        return f"splits are {str(list(about['splits']))[:60]}"
    for split, summary in about["splits"].items():
        counts = summary["counts"]
        if len(counts) != len(names) or any(type(n) is not int or n < 0 for n in counts) or not summary["samples"]:
            return f"splits.{split}.counts are no number of samples for each of {counted(len(names), 'class')}"
    for shard in about["shards"]:
        if not re.fullmatch(r"\w[\w.-]*\.tar", shard["name"]):  # no path that leads out of the folder
            return f"a shard is called {shard['name'][:60]!r}"
    return damage_of_history(about)


def _mapped(path: Path, size: int) -> np.ndarray:
    """Maps a shard into memory. Raises UserError if it is missing, unreadable or not of `size` bytes."""
    try:
        mapped = map_file(path, size)
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(
                f"shard {path} is a link to {path.readlink()}, which is not there: put the tar back, or point the link "
                f"to its new place (ln -sfn NEW {path})"
            ) from None
        raise UserError(f"shard {path} is missing; convert the dataset again") from None
    except OSError as error:
        raise UserError(f"shard {path} cannot be read ({error.strerror}): make it readable") from None
    if isinstance(mapped, int):
        linked = f" (a link to {path.readlink()})" if path.is_symlink() else ""
        remedy = "put the tar back as it was, or convert" if linked else "convert"
        raise UserError(f"shard {path}{linked} {size_problem(mapped, size)}; {remedy} the dataset again")
    return mapped


def size_problem(found: int, size: int) -> str:
    """Returns a message if a shard has `found` instead of `size` bytes, else ""."""
    if found == size:
        return ""
    kind = "truncated" if found < size else "not the shard that was written"
    return f"is {kind}: {found} bytes, dataset.json says {size}"
