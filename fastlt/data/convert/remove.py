"""Withdraws images from a dataset. Only the shards that hold them are written again, without them.

The members of a removed image are left out and not overwritten with zeros: two blocks of zeros end a tar, and zeros
after an intact header would be drawn as an image by other readers of the shards.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.files import sync
from fastlt.core.log import Progress, say
from fastlt.core.words import agree, counted
from fastlt.data.convert.append import bad_keys, carried, check_own_shards, files_of, told
from fastlt.data.convert.work_folder import WorkFolder
from fastlt.data.shards import format as layout
from fastlt.data.shards.content import Content, write_content
from fastlt.data.shards.format import DATASET_FILE
from fastlt.data.shards.history import REMOVE, hashed, numbers, removed_keys, step, steps
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.writer import Files


def read_list(path: Path) -> list[str]:
    """Reads keys or paths from a text file, one in each line. Raises UserError if there are none."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"remove={path}: cannot read ({reason}); expected a key or path in each line") from None
    names = list(dict.fromkeys(filter(None, map(str.strip, lines))))
    if not names:
        raise UserError(f"remove={path}: there is no name in it; expected a key or path in each line")
    return names


def remove(names: Iterable[str], out: Path) -> Path:
    """Removes images from the dataset in the folder `out`, completely or not at all; returns `out`.

    names: keys of images, or paths that end in a key. An image that several splits have is removed from all of them.
    Names that were removed before are only counted.

    The shards without such images stay byte for byte, the digest changes, and labels keep their meaning. A call that
    was killed leaves the old or the new dataset, and the same call ends it.

    Raises UserError if a name is not in the dataset, if a class would have no training image left, or if a split would
    be empty.

    Example: remove(["cat/0017.jpg"], Path("data/photos"))
    """
    folder = WorkFolder(out, None, overwrite=True)
    if not folder.root.exists():
        _check_there(out)
    with told(folder), folder:
        folder.recover()
        _check_there(out)
        folder.check_free()
        dataset = Dataset(out)
        check_own_shards(dataset, "remove=LIST")
        found = _found(list(names), dataset)
        if not any(len(rows) for rows in found.rows.values()) and not found.quarantined:
            say(f"{counted(found.before, 'image')} {agree(found.before, 'was', 'were')} removed from {out} before")
            return out
        _check_left(found.rows, dataset)
        folder.concerns({"remove": found.hashes, "from": dataset.digest})
        folder.prepare()
        _write(found, dataset, folder)
    count = sum(map(len, found.rows.values()))
    parts = ", ".join(f"{split} {len(rows):,}" for split, rows in found.rows.items() if len(rows))
    again = f"; {counted(found.before, 'name')} had been removed before" if found.before else ""
    say(f"removed {counted(count, 'image')} from {out}{f' ({parts})' if parts else ''}{again}")
    return out


class _Found:
    """rows: {split: ids of the samples to remove, ascending}. quarantined: keys of inputs that were left out.
    hashes: SHA-256 of all keys. before: names that were removed earlier."""

    def __init__(self, splits: Iterable[str]):
        self.rows: dict[str, np.ndarray] = {split: np.empty(0, np.int64) for split in splits}
        self.keys: set[str] = set()
        self.quarantined: set[str] = set()
        self.before = 0

    @property
    def hashes(self) -> list[str]:
        return sorted(map(hashed, self.keys | self.quarantined))


def _check_there(out: Path) -> None:
    if not (out / DATASET_FILE).is_file():
        raise UserError(f"remove=LIST: there is no dataset in out={out} to remove images from")


def _found(names: list[str], dataset: Dataset) -> _Found:
    found = _Found(dataset.splits)
    keys = {split: [key.decode() for key in dataset.keys(split).tolist()] for split in dataset.splits}
    there = {key for own in keys.values() for key in own}
    bad = bad_keys(dataset)
    gone = removed_keys(dataset.about)
    for name in names:
        for end in _ends(name):  # a shorter end may be another image than the one that was removed before
            if end in there:
                found.keys.add(end)
            elif end in bad:
                found.quarantined.add(end)
            elif hashed(end) in gone:
                found.before += 1
            else:
                continue
            break
        else:
            raise UserError(
                f"{name!r} is no image of {dataset.root}: give keys, such as {keys['train'][0]!r}, or paths that end "
                "in a key"
            )
    for split, own in keys.items():
        found.rows[split] = np.array([row for row, key in enumerate(own) if key in found.keys], np.int64)
    return found


def _ends(name: str) -> list[str]:
    """Returns the ends of a path, the whole first: a/b/c.jpg, b/c.jpg, c.jpg."""
    parts = name.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _check_left(rows: dict[str, np.ndarray], dataset: Dataset) -> None:
    for split, own in rows.items():
        index = dataset.splits[split]
        left = index.counts - np.bincount(index.label[own], minlength=dataset.classes)
        if not left.sum():
            raise UserError(f"no image of {split} would be left: convert the dataset again without these images")
        lost = np.flatnonzero((left == 0) & (index.counts > 0)) if split == "train" else []
        if len(lost):
            raise UserError(
                f"class {dataset.class_names[int(lost[0])]} would have no training image left: convert the dataset "
                "again without this class"
            )


def _write(found: _Found, dataset: Dataset, folder: WorkFolder) -> None:
    """Writes the new dataset and puts it in the place of the old one."""
    about, content = dataset.about, Content.of(dataset)
    numbered = {split: numbers(about, split) for split in dataset.splits}
    touched = sorted(
        {int(shard) for split, rows in found.rows.items() for shard in dataset.splits[split].shard[rows].tolist()}
    )
    files: Files = {}
    empty: list[int] = []
    with Progress("writing shards", len(touched)) as progress:
        for shard in touched:
            split = next(name for name, rows in found.rows.items() if (dataset.splits[name].shard[rows] == shard).any())
            column = content.columns[split]
            own = np.flatnonzero(column["shard"] == shard)
            kept = np.setdiff1d(own, found.rows[split])
            if len(kept):
                written = _rewrite(dataset, shard, kept, numbered[split][kept], column, folder.dataset)
                files |= written
                size, sha256 = written[about["shards"][shard]["name"]]
                content.shards[shard] = {**content.shards[shard], "size": size, "sha256": sha256}
            else:
                empty.append(shard)
            progress.advance(1, split)
    place = np.cumsum(np.isin(np.arange(len(content.shards)), empty, invert=True)) - 1
    for split, rows in found.rows.items():
        column = {name: np.delete(values, rows) for name, values in content.columns[split].items()}
        column["shard"] = place[column["shard"]].astype(np.int32)
        content.columns[split] = column
    content.shards = [one for shard, one in enumerate(content.shards) if shard not in empty]
    names = found.keys | found.quarantined
    content.quarantined = {
        split: [row for row in rows if row["key"] not in names] for split, rows in content.quarantined.items()
    }
    removed = {split: numbered[split][rows].tolist() for split, rows in found.rows.items() if len(rows)}
    note = step(REMOVE, about, removed=removed, keys=found.hashes)
    description = {
        **carried(about),
        "near_duplicates": _without(about.get("near_duplicates", {}), names),
        "history": [*steps(about), note],
    }
    files |= write_content(folder.dataset, content, description)
    gone = {name for shard in touched for name in _names(about["shards"][shard]["name"])}
    unchanged = {name: file for name, file in files_of(dataset).items() if name not in gone}
    folder.take(unchanged, dataset.root)
    folder.publish({**unchanged, **files})


def _names(shard: str) -> tuple[str, str]:
    return shard, layout.index_name(shard)


def _rewrite(
    dataset: Dataset, shard: int, kept: np.ndarray, numbered: np.ndarray, column: dict[str, np.ndarray], folder: Path
) -> Files:
    """Writes a shard with the samples `kept` alone, and its DALI index; returns both files.

    numbered: the numbers of these samples. column: of their split; receives the new offsets.
    """
    name, beside = _names(dataset.about["shards"][shard]["name"])
    digest, lines, size = hashlib.sha256(), [], 0
    source = dataset.maps[shard]
    offsets = column["offset"].copy()
    with (folder / name).open("wb", buffering=1 << 20) as file:
        for row, number in zip(kept.tolist(), numbered.tolist(), strict=True):
            start, length, label = (int(column[one][row]) for one in ("offset", "length", "label"))
            before, behind, line = layout.sample_frame(number, int(column["encoding"][row]), length, label)
            offsets[row] = size + len(before)
            lines.append(line.format(offsets[row], layout.label_offset(int(offsets[row]), length)))
            for data in (before, source[start : start + length].data, behind):
                file.write(data)
                digest.update(data)
                size += len(data)
        file.write(layout.TAR_END)
        digest.update(layout.TAR_END)
        file.flush()
        os.fsync(file.fileno())
    column["offset"] = offsets
    index = (layout.index_header(len(kept)) + "".join(lines)).encode()
    (folder / beside).write_bytes(index)
    sync(folder / beside)
    return {
        name: (size + len(layout.TAR_END), digest.hexdigest()),
        beside: (len(index), hashlib.sha256(index).hexdigest()),
    }


def _without(duplicates: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Returns near duplicates, in the form of dataset.json, without the pairs that name a removed image."""
    left = {}
    for split, row in duplicates.items():
        first = [pair for pair in row["first"] if pair["key"] not in names and pair["of"] not in names]
        images = row["images"] - (len(row["first"]) - len(first))
        if images:
            left[split] = {"images": images, "first": first}
    return left
