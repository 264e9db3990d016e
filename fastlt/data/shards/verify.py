"""Verifies a dataset: its description, its index, and every byte of its shards.

The files are compared with each other. A missing or damaged file is a finding, and all checks that do not need it are
still made.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.core.words import counted
from fastlt.data.shards import format as layout
from fastlt.data.shards.history import numbers
from fastlt.data.shards.index import (
    SplitIndex,
    damage_of_column,
    damage_of_the_rest,
    read_column,
    read_index,
    read_keys,
)
from fastlt.data.shards.reader import read_description
from fastlt.data.shards.verify_shard import Findings, Row, check_dali_index, check_linked, check_shard

LINES = 100  # findings that are printed; the rest is only counted
_COLUMNS = Row._fields[2:-1]  # the fields between sample and number are columns of the index
THREADS = 8  # more threads would wait for each other, because all but the hashing is Python code


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`.

    shards, samples, bytes: how much was checked. findings: the number of all findings. lines: the first findings as
    text.
    """

    shards: int
    samples: int
    bytes: int
    findings: int
    lines: list[str]

    @property
    def summary(self) -> str:
        """The result in one line, such as `3 shards, 4,835 samples, 13.0 MB: all checks passed`."""
        outcome = "all checks passed" if not self.findings else counted(self.findings, "finding")
        checked = f"{counted(self.shards, 'shard')}, {counted(self.samples, 'sample')}, {self.bytes / 1e6:,.1f} MB"
        return f"{checked}: {outcome}"


def verify(root: Path, lines: int = LINES) -> Verdict:
    """Verifies the dataset in the folder `root`.

    lines: how many findings are returned as text; the rest is only counted.

    Each shard is read once, in blocks of 4 MB, by up to 8 threads in parallel. Raises UserError if `root` is no
    converted dataset at all.

    Example: verify(Path("data/photos")).findings == 0
    """
    try:
        about = read_description(root)
    except UserError as error:
        if not (root / layout.DATASET_FILE).is_file():
            raise
        return Verdict(0, 0, 0, 1, [f"{layout.DATASET_FILE}: {_text(error, root / layout.DATASET_FILE)}"])
    described = Findings(layout.DATASET_FILE, lines)
    digest = layout.dataset_digest(about)
    if digest != about["digest"]:
        described.add(f"holds the digest {about['digest']}, but its fields give {digest}: it was edited")
    indexed = Findings(layout.INDEX_FILE, lines)
    index = _open_index(root, about, indexed)
    for split, columns in index.items():
        _check_split(split, columns, about, indexed)
    listed = [shard["name"] for shard in about["shards"]]
    beside = [] if linked(about) else [layout.index_name(name) for name in listed]
    for path in sorted((*root.glob("*.tar"), *root.glob("*.idx"))):
        if path.name not in (*listed, *beside):
            described.add(f"does not list {path.name}, which lies beside it")
    found = [described, indexed, *_check_shards(root, about, index, lines)]
    return Verdict(
        shards=len(listed),
        samples=sum(summary["samples"] for summary in about["splits"].values()),
        bytes=sum(shard["size"] for shard in about["shards"]),
        findings=sum(findings.count for findings in found),
        lines=_lines(found, lines, root, about),
    )


def _text(error: UserError, path: Path) -> str:
    """Returns an error's message without the name of the file, which is printed before every finding."""
    return str(error).removeprefix("index ").removeprefix(f"{path} ")


def _open_index(root: Path, about: dict[str, Any], found: Findings) -> dict[str, SplitIndex]:
    """Reads the index and adds its damage to `found`; returns {} if it cannot be used."""
    path = root / layout.INDEX_FILE
    try:
        index = read_index(path, about, check=False)
        with path.open("rb") as file:
            if problem := damage_of_the_rest(file, about):
                found.add(problem)
            for split in index:
                for name in about["index"]["columns"][split]:
                    if problem := damage_of_column(read_column(file, about, split, name), about, split, name):
                        found.add(problem)
    except UserError as error:
        found.add(_text(error, path))
        return {}
    return index


def _check_split(split: str, index: SplitIndex, about: dict[str, Any], found: Findings) -> None:
    """Adds a finding wherever the columns of a split contradict each other or dataset.json."""
    summary, classes = about["splits"][split], len(about["class_names"])
    numbered = numbers(about, split)  # once, as there may be millions of samples and of findings
    if len(index) != summary["samples"]:
        found.add(f"{split} has {counted(len(index), 'sample')}, dataset.json says {summary['samples']:,}")
    for sample in np.flatnonzero((index.label < 0) | (index.label >= classes)).tolist():
        row = _row(split, index, sample, numbered)
        found.add(
            f"{split} sample {sample} has label {row.label}, there are {counted(classes, 'class')}", row, row.offset
        )
    for sample in np.flatnonzero(~np.isin(index.shard, _own_shards(about, split))).tolist():
        found.add(f"{split} sample {sample} lies in shard {index.shard[sample]}, which is none of {split}")
    small = (index.encoding == layout.RAW) & (index.length < 3 * index.height.astype(np.int64) * index.width)
    for sample in np.flatnonzero((index.height < 1) | (index.width < 1) | small).tolist():
        size = f"{index.height[sample]} x {index.width[sample]} pixels"
        found.add(
            f"{split} sample {sample} of {index.length[sample]} bytes cannot have {size}",
            _row(split, index, sample, numbered),
        )
    named = dict(zip(layout.EXTENSIONS, np.bincount(index.encoding, minlength=3).tolist(), strict=False))
    if (encodings := {name: count for name, count in named.items() if count}) != summary["encodings"]:
        found.add(f"{split} has encodings {encodings}, dataset.json says {summary['encodings']}")
    counts = np.bincount(np.clip(index.label, -1, classes) + 1, minlength=classes + 2)[1:-1]
    for name, says in ((layout.DATASET_FILE, summary["counts"]), ("class_start", np.diff(index.class_start).tolist())):
        if len(says) != classes:
            found.add(f"{split} has {counted(classes, 'class')}, {name} says {len(says)}")
        for label, (count, other) in enumerate(zip(counts.tolist(), says, strict=False)):
            if count != other:
                class_name = about["class_names"][label]
                found.add(
                    f"{split} has {counted(count, 'sample')} of label {label} ({class_name}), {name} says {other}"
                )
    wrong = np.flatnonzero(index.class_members != np.argsort(index.label, kind="stable"))
    if len(wrong):
        at = int(wrong[0])
        found.add(
            f"class_members of {split} is not the order of the labels at {counted(len(wrong), 'place')}, "
            f"first at {at}, where it names sample {index.class_members[at]}"
        )


def linked(about: dict[str, Any]) -> bool:
    """Returns whether the shards of a dataset are tars of the user, which encode=link left where they were."""
    return about["options"].get("kind") == "link"


def _own_shards(about: dict[str, Any], split: str) -> list[int]:
    return [place for place, shard in enumerate(about["shards"]) if _split_of(shard["name"]) == split]


def _split_of(shard: str) -> str:
    return shard.rpartition("-")[0]


def _row(split: str, index: SplitIndex, sample: int, numbered: np.ndarray) -> Row:
    return _rows(split, index, np.array([sample]), numbered)[0]


def _rows(split: str, index: SplitIndex, samples: np.ndarray, numbered: np.ndarray) -> list[Row]:
    """Returns the rows of samples. numbered: the number of each sample of the split."""
    columns = [getattr(index, name)[samples].tolist() for name in _COLUMNS]
    columns.append(numbered[samples].tolist())
    return [Row(split, *values) for values in zip(samples.tolist(), *columns, strict=True)]


def _samples_of_shards(index: SplitIndex, own: list[int]) -> dict[int, np.ndarray]:
    """Returns {shard: its samples} for a split's `own` shards. A sample whose recorded shard is none of them is
    expected in the shard of the sample before it."""
    places = np.arange(len(index))
    shard = index.shard[np.maximum.accumulate(np.where(np.isin(index.shard, own), places, 0))]
    order = np.argsort(shard, kind="stable")
    shards, starts = np.unique(shard[order], return_index=True)
    return dict(zip(shards.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}


class _Stopped(Exception):
    """Raised in a thread to end it after the command was interrupted."""


class _Bytes:
    """Adds up the bytes that the threads have read for the progress bar, and ends them after an interrupt."""

    def __init__(self, progress: Progress):
        self._progress, self._lock, self._done = progress, Lock(), 0
        self.stopped = False

    def add(self, count: int) -> None:
        if self.stopped:
            raise _Stopped
        with self._lock:
            self._done += count
            self._progress.advance(self._done // 1_000_000 - self._progress.done)


def _check_shards(root: Path, about: dict[str, Any], index: dict[str, SplitIndex], lines: int) -> Iterator[Findings]:
    """Yields the findings of every shard and of its DALI index, in order."""
    samples = {split: _samples_of_shards(columns, _own_shards(about, split)) for split, columns in index.items()}
    numbered = {split: numbers(about, split) for split in index}
    found: list[Findings] = []

    def check_one(place: int, tar: Findings, dali: Findings) -> None:
        shard = about["shards"][place]
        split, rows = _split_of(tar.file), None
        if split in index:
            rows = _rows(split, index[split], samples[split].get(place, np.empty(0, np.int64)), numbered[split])
        check = check_linked if linked(about) else check_shard
        check(root / shard["name"], shard["size"], shard["sha256"], rows, tar, counted.add)
        if not linked(about):
            check_dali_index(root / dali.file, rows, dali)

    total = sum(shard["size"] for shard in about["shards"])
    threads = min(THREADS, len(os.sched_getaffinity(0)))
    with Progress("verifying", -(-total // 1_000_000), "MB") as progress, ThreadPoolExecutor(threads) as pool:
        counted = _Bytes(progress)
        work = []
        for place, shard in enumerate(about["shards"]):
            both = [Findings(name, lines) for name in (shard["name"], layout.index_name(shard["name"]))]
            work.append(pool.submit(check_one, place, *both))
            found += both
        try:
            for future in work:
                future.result()
        except BaseException:
            counted.stopped = True
            pool.shutdown(cancel_futures=True)
            raise
    yield from found


def _lines(found: list[Findings], limit: int, root: Path, about: dict[str, Any]) -> list[str]:
    """Formats at most `limit` findings as lines, followed by the number of further findings of each file.

    The first finding of every file has priority over second findings, so that a file with much damage does not hide the
    others.
    """
    ranked = sorted((rank, place) for place, findings in enumerate(found) for rank in range(len(findings.kept)))
    shown = sorted((place, rank) for rank, place in ranked[:limit])
    keys = _keys(found, shown, root, about)
    lines = []
    for place, findings in enumerate(found):
        told = [rank for at, rank in shown if at == place]
        for rank in told:
            finding = findings.kept[rank]
            where = findings.file
            if finding.offset is not None:
                where += f", offset {finding.offset}"
            if row := finding.row:
                names = about["class_names"]
                name = f" ({names[row.label]})" if 0 <= row.label < len(names) else ""
                key = keys.get((row.split, row.sample), "unknown")
                where += f", key {_printable(key)}, label {row.label}{_printable(name)}"
            lines.append(f"{where}: {_printable(finding.text)}")
        if findings.count > len(told):
            lines.append(f"{findings.file}: and {counted(findings.count - len(told), 'more finding')}")
    return lines


def _keys(
    found: list[Findings], shown: list[tuple[int, int]], root: Path, about: dict[str, Any]
) -> dict[tuple[str, int], str]:
    """Reads the keys of the samples that are named in the shown findings; returns {(split, sample): key}."""
    wanted: dict[str, list[int]] = {}
    for place, rank in shown:
        if row := found[place].kept[rank].row:
            wanted.setdefault(row.split, []).append(row.sample)
    try:
        return read_keys(root / layout.INDEX_FILE, about, wanted) if wanted else {}
    except (OSError, ValueError, UserError):  # the findings are still useful without keys
        return {}


def _printable(text: str) -> str:
    """Returns the text with everything that a terminal cannot print escaped, so that it is one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
