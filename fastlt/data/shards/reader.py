"""Opens a converted dataset: its description, its index, and views into its memory-mapped shards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.shards import format as layout
from fastlt.data.shards.mapped import map_file

# Columns of an index that are read when a dataset is opened; `key` is only looked up.
INDEXED = {**layout.COLUMNS, "class_start": np.int64, "class_members": np.int64}


@dataclass(frozen=True)
class SplitIndex:
    """Where the N samples of a split lie. Columns as in shards/format.py; class j's sample ids are
    class_members[class_start[j] : class_start[j + 1]]."""

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    height: np.ndarray
    width: np.ndarray
    encoding: np.ndarray
    crc32: np.ndarray
    class_start: np.ndarray
    class_members: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def counts(self) -> np.ndarray:
        """Samples per class, int64 [C]."""
        return np.diff(self.class_start)


class Dataset:
    """A converted folder, checked when it is opened: description, index and shards belong together and are complete.

    Raises UserError, naming the file, what it holds and what to do.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        while True:
            about, problem = read_description(self.root), None
            try:
                self._open(about)
            except UserError as error:
                problem = error
            # Another data set may have taken the folder's place since: all of it is of one data set, or opened again.
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
                f"it says gives {given[:12]}): put it back or convert the data set again"
            )
        self.shards = [self.root / shard["name"] for shard in about["shards"]]
        # The shards' bytes, uint8. What was checked here is what will be read, whatever comes to lie under these names.
        self.maps = [_mapped(path, shard["size"]) for path, shard in zip(self.shards, about["shards"], strict=True)]
        index = self.root / layout.INDEX_FILE
        self.splits = read_index(index, self.digest, list(about["splits"]), about["index"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def split(self, name: str) -> SplitIndex:
        """Index of a split. Raises UserError if the dataset has none of that name."""
        if name not in self.splits:
            raise UserError(f"{self.root} has no split {name}: it has {', '.join(self.splits)}")
        return self.splits[name]

    def data(self, split: str, sample: int) -> np.ndarray:
        """The stored bytes of a sample's image, a uint8 view."""
        index = self.splits[split]
        start = index.offset[sample]
        return self.maps[index.shard[sample]][start : start + index.length[sample]]

    def pixels(self, split: str, sample: int) -> np.ndarray:
        """A raw sample's uint8 [H, W, 3] view; the .npy header before it is skipped."""
        index = self.splits[split]
        height, width = int(index.height[sample]), int(index.width[sample])
        return self.data(split, sample)[-height * width * 3 :].reshape(height, width, 3)

    def stored(self, split: str, samples: np.ndarray) -> list[np.ndarray]:
        """`pixels` of the raw ones among samples, `data` of the others: what a loader wants of a batch, at once."""
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
        """Raw samples of one size, copied into one uint8 [n, H, W, 3]."""
        index = self.splits[split]
        height, width = int(index.height[samples[0]]), int(index.width[samples[0]])
        together = np.empty((len(samples), height * width * 3), np.uint8)
        stop = index.offset[samples] + index.length[samples]
        for row, shard, end in zip(together, index.shard[samples].tolist(), stop.tolist(), strict=True):
            row[:] = self.maps[shard][end - row.size : end]
        return together.reshape(-1, height, width, 3)

    def key(self, split: str, sample: int) -> str:
        """The name the source gave a sample. It is for messages only, and read when it is asked for."""
        try:
            return read_keys(self.root / layout.INDEX_FILE, {split: [sample]}, self.digest)[split, sample]
        except Exception:  # h5py raises nearly anything on files that were damaged or replaced meanwhile
            return f"unknown (sample {sample})"


def read_description(root: Path) -> dict[str, Any]:
    """dataset.json of a converted folder. Raises UserError if there is none or it is not what the writer makes."""
    path = root / layout.DATASET_FILE
    if not root.is_dir():
        raise UserError(
            f"data={root}: no such folder; convert a data set first (python tools/convert.py dataset=... out={root})"
        )
    if not path.is_file():
        raise UserError(
            f"data={root} has no {layout.DATASET_FILE}, so it is no converted dataset; make one with tools/convert.py"
        )
    try:
        about = json.loads(path.read_text())
        schema = about["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): convert the data set again") from None
    if schema != layout.SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {layout.SCHEMA}: convert the data set again")
    if damage := _damage(about):
        raise UserError(f"{path} is damaged ({damage}): convert the data set again")
    return about


_FIELDS = {"digest": str, "name": str, "class_names": list, "mean": list, "std": list} | {
    "splits": dict,
    "shards": list,
    "index": dict,
}
_INDEX_FIELDS = dict.fromkeys([*INDEXED, "key"], int)
_SPLIT_FIELDS = {"samples": int, "counts": list, "encodings": dict}
_SHARD_FIELDS = {"name": str, "size": int, "sha256": str}


def _damage(about: dict[str, Any]) -> str:
    """The fields of dataset.json that are missing or of another kind than the writer's; empty if there are none."""

    def lacking(fields: dict[str, type], where: Any, name: str = "") -> list[str]:
        return [name + f for f, kind in fields.items() if not isinstance(where, dict) or type(where.get(f)) is not kind]

    wrong = lacking(_FIELDS, about)
    if not wrong:
        for split, summary in about["splits"].items():
            wrong += lacking(_SPLIT_FIELDS, summary, f"splits.{split}.")
            wrong += lacking(_INDEX_FIELDS, about["index"].get(split), f"index.{split}.")
        for place, shard in enumerate(about["shards"]):
            wrong += lacking(_SHARD_FIELDS, shard, f"shards.{place}.")
    return f"no {', '.join(wrong[:10])}" if wrong else ""


def _mapped(path: Path, size: int) -> np.ndarray:
    """A shard that should have `size` bytes. Raises UserError."""
    try:
        mapped = map_file(path, size)
    except FileNotFoundError:
        raise UserError(f"shard {path} is missing; convert the data set again") from None
    except OSError as error:
        raise UserError(f"shard {path} cannot be read ({error.strerror}): make it readable") from None
    if isinstance(mapped, int):
        raise UserError(f"shard {path} {size_problem(mapped, size)}; convert the data set again")
    return mapped


def size_problem(found: int, size: int) -> str:
    """What is wrong with a shard of `found` bytes that should have `size`, as far as that tells; empty if none."""
    if found == size:
        return ""
    kind = "truncated" if found < size else "not the shard that was written"
    return f"is {kind}: {found} bytes, dataset.json says {size}"


def read_index(
    path: Path, digest: str, splits: list[str], checksums: dict[str, dict[str, int]] | None = None
) -> dict[str, SplitIndex]:
    """The index of the dataset with this digest.

    checksums: of the columns of each split, as dataset.json has them; None to compare none. Raises UserError if the
    index is missing, damaged or of another dataset.
    """
    if path.exists() and not path.is_file():  # a pipe would keep its reader waiting
        raise UserError(f"index {path} is no file: convert the data set again")
    try:
        with h5py.File(path, "r") as file:
            owner = file.attrs.get("dataset")
            if owner != digest:
                raise UserError(
                    f"{path} is the index of another dataset ({str(owner)[:12]}, dataset.json says {digest[:12]}): "
                    "put its own index back or convert again"
                )
            return {
                split: _read_split(file[split], None if checksums is None else checksums[split]) for split in splits
            }
    except FileNotFoundError:
        raise UserError(f"index {path} is missing: convert the data set again") from None
    except UserError:
        raise
    except Exception as error:  # h5py raises nearly anything on damaged files
        raise UserError(f"index {path} is damaged ({error}): convert the data set again") from None


def _read_split(group: Any, checksums: dict[str, int] | None) -> SplitIndex:
    columns = {name: group[name][:] for name in INDEXED}
    for name, column in columns.items():
        if column.dtype != INDEXED[name] or column.ndim != 1:
            raise ValueError(f"{name} of {group.name} holds {column.dtype}{list(column.shape)}")
        if checksums is not None and layout.checksum(column) != checksums[name]:
            raise ValueError(f"{name} of {group.name} does not match its checksum in dataset.json")
    if len({len(columns[name]) for name in INDEXED if name != "class_start"} | {len(group["key"])}) != 1:
        raise ValueError(f"the columns of {group.name} have different lengths")
    return SplitIndex(**columns)


def read_keys(path: Path, wanted: dict[str, list[int]], digest: str | None = None) -> dict[tuple[str, int], str]:
    """The names the source gave some samples, by split and sample. wanted: samples of each split. digest: of the
    dataset, None for any. Raises ValueError if this is another's, and what h5py raises on a damaged file."""
    with h5py.File(path, "r") as file:
        if digest is not None and file.attrs.get("dataset") != digest:
            raise ValueError(f"{path} is the index of another dataset")
        column = {split: file[split]["key"] for split in wanted}  # type: ignore[index]
        # A name that is no UTF-8 is read as the operating system's names are.
        return {(s, i): column[s][i].decode("utf-8", "surrogateescape") for s in wanted for i in wanted[s]}  # type: ignore
