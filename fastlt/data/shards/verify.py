"""Checks a dataset against itself: description, index, and every byte of its shards.

What one file says is compared with what the others say; a file that is missing or damaged is a finding, and all that
does not need it is still checked.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import h5py
import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import Progress
from fastlt.data.shards import format as layout
from fastlt.data.shards.reader import SplitIndex, read_description, read_index, read_keys
from fastlt.data.shards.verify_shard import Findings, Row, check_dali_index, check_shard

LINES = 100  # findings in full before the rest is only counted
_COLUMNS = Row._fields[2:]  # those behind split and sample are columns of the index
THREADS = 8  # more only wait for each other: what is not hashing is Python


@dataclass(frozen=True)
class Verdict:
    """How much was checked, and what is wrong: all findings counted, the first of them as lines."""

    shards: int
    samples: int
    bytes: int
    findings: int
    lines: list[str]

    @property
    def summary(self) -> str:
        """3 shards, 4,835 samples, 13.0 MB: all checks passed"""
        outcome = "all checks passed" if not self.findings else _plural(self.findings, "finding")
        checked = f"{_plural(self.shards, 'shard')}, {_plural(self.samples, 'sample')}, {self.bytes / 1e6:,.1f} MB"
        return f"{checked}: {outcome}"


def verify(root: Path, lines: int = LINES) -> Verdict:
    """Checks the dataset in the folder `root`; at most `lines` findings are told in full.

    Shards are read once each, side by side on up to 8 threads, 4 MB at a time. Raises UserError if `root` is no
    converted dataset at all.
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
    index = _open_index(root, about, digest, indexed)
    for split, columns in index.items():
        _check_split(split, columns, about, indexed)
    listed = [shard["name"] for shard in about["shards"]]
    beside = [layout.index_name(name) for name in listed]
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
    """What an error says, without the name of the file, which stands before every finding."""
    return str(error).removeprefix("index ").removeprefix(f"{path} ")


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _open_index(root: Path, about: dict[str, Any], digest: str, found: Findings) -> dict[str, SplitIndex]:
    """The index, or nothing if it cannot be used."""
    path = root / layout.INDEX_FILE
    try:
        index = read_index(path, about["digest"], list(about["splits"]))
    except UserError as error:
        found.add(_text(error, path))
        try:  # a digest that was edited makes the dataset's own index look like another's
            index = read_index(path, digest, list(about["splits"]))
        except UserError:
            return {}
    for split, columns in index.items():
        with h5py.File(path, "r") as file:
            held = {**vars(columns), "key": file[split]["key"][:]}  # type: ignore[index]
        for name, checksum in about["index"][split].items():
            if layout.checksum(held[name]) != checksum:
                found.add(f"column {name} of {split} does not match its checksum in dataset.json")
    return index


def _check_split(split: str, index: SplitIndex, about: dict[str, Any], found: Findings) -> None:
    """Labels, counts and class_start of a split agree with each other and with dataset.json."""
    summary, classes = about["splits"][split], len(about["class_names"])
    if len(index) != summary["samples"]:
        found.add(f"{split} has {len(index):,} samples, dataset.json says {summary['samples']:,}")
    for sample in np.flatnonzero((index.label < 0) | (index.label >= classes)).tolist():
        row = _row(split, index, sample)
        found.add(f"{split} sample {sample} has label {row.label}, there are {classes} classes", row, row.offset)
    for sample in np.flatnonzero(~np.isin(index.shard, _own_shards(about, split))).tolist():
        found.add(f"{split} sample {sample} lies in shard {index.shard[sample]}, which is none of {split}")
    small = (index.encoding == layout.RAW) & (index.length < 3 * index.height.astype(np.int64) * index.width)
    for sample in np.flatnonzero((index.height < 1) | (index.width < 1) | small).tolist():
        size = f"{index.height[sample]} x {index.width[sample]} pixels"
        found.add(
            f"{split} sample {sample} of {index.length[sample]} bytes cannot have {size}", _row(split, index, sample)
        )
    named = dict(zip(layout.EXTENSIONS, np.bincount(index.encoding, minlength=3).tolist(), strict=False))
    if (encodings := {name: count for name, count in named.items() if count}) != summary["encodings"]:
        found.add(f"{split} has encodings {encodings}, dataset.json says {summary['encodings']}")
    counts = np.bincount(np.clip(index.label, -1, classes) + 1, minlength=classes + 2)[1:-1]
    for name, says in ((layout.DATASET_FILE, summary["counts"]), ("class_start", np.diff(index.class_start).tolist())):
        if len(says) != classes:
            found.add(f"{split} has {classes} classes, {name} says {len(says)}")
        for label, (count, other) in enumerate(zip(counts.tolist(), says, strict=False)):
            if count != other:
                class_name = about["class_names"][label]
                found.add(f"{split} has {count:,} samples of label {label} ({class_name}), {name} says {other}")
    wrong = np.flatnonzero(index.class_members != np.argsort(index.label, kind="stable"))
    if len(wrong):
        at = int(wrong[0])
        found.add(
            f"class_members of {split} is not the order of the labels at {_plural(len(wrong), 'place')}, "
            f"first at {at}, where it names sample {index.class_members[at]}"
        )


def _own_shards(about: dict[str, Any], split: str) -> list[int]:
    return [place for place, shard in enumerate(about["shards"]) if _split_of(shard["name"]) == split]


def _split_of(shard: str) -> str:
    return shard.rpartition("-")[0]


def _row(split: str, index: SplitIndex, sample: int) -> Row:
    return _rows(split, index, np.array([sample]))[0]


def _rows(split: str, index: SplitIndex, samples: np.ndarray) -> list[Row]:
    columns = [getattr(index, name)[samples].tolist() for name in _COLUMNS]
    return [Row(split, *values) for values in zip(samples.tolist(), *columns, strict=True)]


def _samples_of_shards(index: SplitIndex, own: list[int]) -> dict[int, np.ndarray]:
    """The samples that lie in each of a split's `own` shards; one said to lie elsewhere is sought where the one before
    it lies."""
    places = np.arange(len(index))
    shard = index.shard[np.maximum.accumulate(np.where(np.isin(index.shard, own), places, 0))]
    order = np.argsort(shard, kind="stable")
    shards, starts = np.unique(shard[order], return_index=True)
    return dict(zip(shards.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}


class _Stopped(Exception):
    """Ends a thread whose work nobody waits for any longer."""


class _Bytes:
    """Adds up what the threads have read, for the bar; ends them when the command is interrupted."""

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
    """Findings of every shard and of DALI's index beside it, in order."""
    samples = {split: _samples_of_shards(columns, _own_shards(about, split)) for split, columns in index.items()}
    found: list[Findings] = []

    def check(place: int, tar: Findings, dali: Findings) -> None:
        shard = about["shards"][place]
        split, rows = _split_of(tar.file), None
        if split in index:
            rows = _rows(split, index[split], samples[split].get(place, np.empty(0, np.int64)))
        check_shard(root / shard["name"], shard["size"], shard["sha256"], rows, tar, counted.add)
        check_dali_index(root / dali.file, rows, dali)

    total = sum(shard["size"] for shard in about["shards"])
    threads = min(THREADS, len(os.sched_getaffinity(0)))
    with Progress("verifying", -(-total // 1_000_000), "MB") as progress, ThreadPoolExecutor(threads) as pool:
        counted = _Bytes(progress)
        work = []
        for place, shard in enumerate(about["shards"]):
            both = [Findings(name, lines) for name in (shard["name"], layout.index_name(shard["name"]))]
            work.append(pool.submit(check, place, *both))
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
    """The findings as lines, at most `limit`: first ones of every file before second ones of any, so that a file full
    of damage does not hide another; then where there are more."""
    ranked = sorted((rank, place) for place, findings in enumerate(found) for rank in range(len(findings.kept)))
    shown = sorted((place, rank) for rank, place in ranked[:limit])
    keys = _keys(found, shown, root)
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
            lines.append(f"{findings.file}: and {_plural(findings.count - len(told), 'more finding')}")
    return lines


def _keys(found: list[Findings], shown: list[tuple[int, int]], root: Path) -> dict[tuple[str, int], str]:
    """The keys of the samples that lines name."""
    wanted: dict[str, list[int]] = {}
    for place, rank in shown:
        if row := found[place].kept[rank].row:
            wanted.setdefault(row.split, []).append(row.sample)
    try:
        return read_keys(root / layout.INDEX_FILE, wanted) if wanted else {}
    except Exception:  # h5py raises nearly anything on damaged files; the rest of the line is worth telling
        return {}


def _printable(text: str) -> str:
    """The text in one line; what a terminal cannot show is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
