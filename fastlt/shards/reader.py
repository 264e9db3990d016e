"""Opens a converted dataset: its description, its index, and views into its memory-mapped shards."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastlt.errors import UserError
from fastlt.shards import format as layout


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
        self.about = _read_description(self.root)
        self.digest: str = self.about["digest"]
        self.name: str = self.about["name"]
        self.class_names: list[str] = self.about["class_names"]
        self.shards = [self.root / shard["name"] for shard in self.about["shards"]]
        for path, shard in zip(self.shards, self.about["shards"], strict=True):
            _check_size(path, shard["size"])
        self.splits = _read_index(self.root / layout.INDEX_FILE, self.digest, list(self.about["splits"]))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def split(self, name: str) -> SplitIndex:
        """Index of a split. Raises UserError if the dataset has none of that name."""
        if name not in self.splits:
            raise UserError(f"{self.root} has no split {name}: it has {', '.join(self.splits)}")
        return self.splits[name]

    @cached_property
    def maps(self) -> list[np.ndarray]:
        """The shards' bytes, uint8, memory-mapped; nothing is read until it is touched."""
        return [np.memmap(path, np.uint8, mode="r") for path in self.shards]

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

    def key(self, split: str, sample: int) -> str:
        """The name the source gave a sample."""
        with h5py.File(self.root / layout.INDEX_FILE, "r") as file:
            return file[split]["key"][sample].decode()  # type: ignore[index, union-attr]


def _read_description(root: Path) -> dict[str, Any]:
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
        missing = [
            key for key in ("digest", "name", "class_names", "splits", "shards", "mean", "std") if key not in about
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): convert the data set again") from None
    if schema != layout.SCHEMA:
        raise UserError(f"{path} has schema {schema}, this version reads {layout.SCHEMA}: convert the data set again")
    if missing:
        raise UserError(f"{path} is damaged (no {', '.join(missing)}): convert the data set again")
    return about


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise UserError(f"shard {path} is missing: convert the data set again")
    found = path.stat().st_size
    if found != size:
        kind = "truncated" if found < size else "not the shard that was written"
        raise UserError(f"shard {path} is {kind}: {found} bytes, dataset.json says {size}; convert the data set again")


def _read_index(path: Path, digest: str, splits: list[str]) -> dict[str, SplitIndex]:
    try:
        with h5py.File(path, "r") as file:
            owner = file.attrs.get("dataset")
            if owner != digest:
                raise UserError(
                    f"{path} is the index of another dataset ({str(owner)[:12]}, dataset.json says {digest[:12]}): "
                    "put its own index back or convert again"
                )
            names = [*layout.COLUMNS, "class_start", "class_members"]
            return {split: SplitIndex(**{name: file[split][name][:] for name in names}) for split in splits}  # type: ignore
    except FileNotFoundError:
        raise UserError(f"index {path} is missing: convert the data set again") from None
    except (OSError, KeyError) as error:
        raise UserError(f"index {path} is damaged ({error}): convert the data set again") from None
