"""Writes the description and the index of a dataset whose shards are complete."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.files import sync
from fastlt.data.shards import format as layout
from fastlt.data.shards.encode import AS_IT_LIES
from fastlt.data.shards.index import write_index
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.writer import Files, Writer


@dataclass
class Content:
    """What the shards of a dataset hold, as index.h5 and dataset.json record it.

    shards: name, size and SHA-256 of each.
    columns: for each split, the columns of format.COLUMNS and `key` (bytes), and `group` (bytes) if there are groups.
    colours: the number of images of each colour type other than RGB.
    quarantined: for each split, key and reason of the inputs that were left out.
    """

    shards: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    colours: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> "Content":
        """Returns the content of a dataset. Raises UserError if its index is damaged."""
        columns = {}
        for split, index in dataset.splits.items():
            columns[split] = {name: getattr(index, name) for name in layout.COLUMNS if name != "shard"}
            columns[split] |= {"key": dataset.keys(split), "shard": index.shard}
            if (groups := dataset.group_names(split)) is not None:
                columns[split]["group"] = groups
        about = dataset.about
        return cls(list(about["shards"]), columns, dict(about.get("colours", {})), dict(about["quarantined"]))

    def add(self, split: str, writer: Writer, groups: Mapping[str, str] | None = None) -> None:
        """Adds the shards of a split, given its finished writer, after those that are there.

        groups: {key: group} of its images, if they have groups.
        """
        parts = writer.finish()
        bad = [{"key": key, "reason": reason} for key, reason in writer.quarantined]
        self.quarantined[split] = [*self.quarantined.get(split, []), *bad]
        if not parts:
            return
        column = {name: np.concatenate([p[name] for p in parts]) for name in layout.COLUMNS if name != "shard"}
        column["key"] = np.concatenate([p["key"] for p in parts])
        numbers = [np.full(len(p["label"]), len(self.shards) + i, np.int32) for i, p in enumerate(parts)]
        column["shard"] = np.concatenate(numbers)
        before = self.columns.get(split)
        if groups is not None or (before is not None and "group" in before):
            column["group"] = np.array(
                [(groups or {}).get(key.decode(), "").encode() for key in column["key"].tolist()]
            )
        if before is not None:
            if "group" in column and "group" not in before:
                before["group"] = np.zeros(len(before["key"]), "S1")
            column = {name: np.concatenate([before[name], own]) for name, own in column.items()}
        self.columns[split] = column
        for part in parts:
            shard = {"name": str(part["name"]), "size": int(part["size"]), "sha256": str(part["sha256"])}
            self.shards.append(shard)
            for colour in part["colour"].tolist():
                colour = colour.removesuffix(AS_IT_LIES).removesuffix(", ")  # only told: pixels are stored as they are
                if colour:
                    self.colours[colour] = self.colours.get(colour, 0) + 1


def write_dataset(
    folder: Path,
    writers: Mapping[str, Writer],
    about: dict[str, Any],
    groups: Mapping[str, Mapping[str, str] | None] | None = None,
) -> Files:
    """Writes index.h5 and dataset.json for complete shards and flushes them to disk.

    writers: {split: finished writer}. about: the fields of dataset.json that the shards do not determine (name,
    class_names, options, ...). groups: {split: {key: group}}, if images have groups.

    Returns all files of the dataset.
    """
    content = Content()
    for split, writer in writers.items():
        content.add(split, writer, (groups or {}).get(split))
    files = {name: file for writer in writers.values() for name, file in writer.files().items()}
    return files | write_content(folder, content, about)


def write_content(folder: Path, content: Content, about: dict[str, Any]) -> Files:
    """Writes index.h5 and dataset.json of the content and flushes them to disk; returns these two files.

    about: as in `write_dataset`.
    """
    classes = len(about["class_names"])
    summary = {}
    for split, column in content.columns.items():
        counts = np.bincount(column["label"], minlength=classes)
        encodings = np.bincount(column["encoding"], minlength=len(layout.EXTENSIONS))
        named = dict(zip(layout.EXTENSIONS, encodings.tolist(), strict=True))
        summary[split] = {
            "samples": len(column["label"]),
            "counts": counts.tolist(),
            "encodings": {name: count for name, count in named.items() if count},
        }
    described = {
        "schema": layout.SCHEMA,
        **about,
        "splits": summary,
        "colours": dict(sorted(content.colours.items())),
        "quarantined": {split: rows for split, rows in content.quarantined.items() if rows},
        "shards": content.shards,
    }
    write_description(folder, described, content.columns)
    return {name: finished(folder / name) for name in (layout.INDEX_FILE, layout.DATASET_FILE)}


def finished(path: Path) -> tuple[int, str]:
    """Flushes a file to disk; returns (size, SHA-256)."""
    sync(path)
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def write_description(folder: Path, about: dict[str, Any], splits: dict[str, dict[str, np.ndarray]]) -> None:
    """Writes index.h5 and dataset.json. Raises OSError.

    about: the content of dataset.json without the entries for the index and the digest. splits: for each split the
    columns of format.COLUMNS and `key` (bytes).
    """
    columns = {split: layout.indexed(column, len(about["class_names"])) for split, column in splits.items()}
    about = write_index(folder / layout.INDEX_FILE, about, columns)
    (folder / layout.DATASET_FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
