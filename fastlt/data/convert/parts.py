"""Converts a dataset on many machines: each converts a part of the images, and the last one joins the parts.

OUT.parts/003-of-016/           a finished part: shards as in a dataset, their pages of the journal, dataset.json.part
OUT.parts/003-of-016.partial/   a part that is being converted, see work_folder.py

A part is the same range of every split's listing, whatever machine converts it. Where shards end depends on the sizes
of all images before, so the join writes the shards anew, from the encoded images of the parts. It decodes none of them,
except for those that may be near duplicates.
"""

import contextlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.core.words import agree, first_of
from fastlt.data.convert.engine import (
    Before,
    Conversion,
    chosen_raw,
    convert_prepared,
    convert_split,
    described_conversion,
    is_result,
    refuse_bad,
    told,
)
from fastlt.data.convert.fingerprint import Fingerprint, check_outside
from fastlt.data.convert.work_folder import PART_FILE, InUse, WorkFolder
from fastlt.data.convert.workers import Result, Stored, Workers, cores, encode_sample
from fastlt.data.shards import format as layout
from fastlt.data.shards.content import finished
from fastlt.data.shards.durable import Damaged, discard, read_sealed, write_sealed
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.mapped import map_file
from fastlt.data.shards.writer import Files, SplitWriter, images_digest
from fastlt.data.sources.base import SPLITS, Listing, Rearranged, Source

_SHOWN = 10  # missing parts that are named


@dataclass(frozen=True)
class Part:
    """Part `number` of `of` parts, counted from 1."""

    number: int
    of: int

    @classmethod
    def parsed(cls, text: str) -> "Part":
        """Returns the part that `part=3/16` names. Raises UserError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text, re.ASCII)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"part={text}: write part=K/N with K from 1 to N, such as part=3/16")
        return cls(int(match[1]), int(match[2]))

    def range(self, samples: int) -> tuple[int, int]:
        """Returns the first position in a listing that belongs to this part, and the one after the last."""
        return samples * (self.number - 1) // self.of, samples * self.number // self.of

    def folder(self, out: Path) -> Path:
        """Returns the folder of the finished part."""
        return out.with_name(f"{out.name}.parts") / f"{self.number:03d}-of-{self.of:03d}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class Share(Rearranged):
    """The samples of a source that belong to a part. Splits of which it has none are left out."""

    source: Source
    part: Part
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    first: dict[str, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        splits, starts = {}, {}
        for split, listing in self.source.splits.items():
            first, end = self.part.range(len(listing.keys))
            if end > first:
                splits[split], starts[split] = listing.take(np.arange(first, end)), first
        object.__setattr__(self, "splits", splits)
        object.__setattr__(self, "first", starts)

    def origin(self, split: str, index: int) -> tuple[str, int]:
        """Returns (split, position) of a sample in the source it comes from."""
        return split, self.first[split] + index


def convert_part(
    source: Source, options: Conversion, out: Path, part: Part, workers: int = 0, overwrite: bool = False
) -> Path | None:
    """Converts a part of a source, and joins all parts if none is missing.

    Returns `out` if the dataset is complete, and None if other parts are missing; a line names them.

    source, options, out, workers, overwrite: as in `convert`, equal for all parts but for `workers`. `out` must lie
        where all machines can read and write.

    The dataset has the same bytes as if one process had converted it. A part that was killed resumes after its last
    complete shard; a finished part is not converted again, unless an image that was bad in it decodes now.

    Raises UserError as `convert` does.
    """
    if options.encoding.kind == "link":
        raise UserError(f"part={part}: encode=link copies nothing, one process does it: leave part= out")
    about = described_conversion(source, options, workers)
    check_outside(source, out)
    whole = WorkFolder(out, about, overwrite, anew=overwrite)
    if not overwrite and is_result(out, about, source, options.encoding):
        if whole.root.exists():  # a process was killed while it cleaned up, or does so now
            with contextlib.suppress(InUse), told(whole), whole:
                whole.recover()
        say(f"{out} is complete, its parts were joined")
        _clean(out, part)
        return out
    if not whole.root.exists():
        whole.check_free()
    _convert(source, options, out, part, about, workers, overwrite)
    parts = [Part(number, part.of) for number in range(1, part.of + 1)]
    missing = [one for one in parts if _note(out, one, about) is None]
    if missing:
        names = first_of([str(one.number) for one in missing], _SHOWN)
        say(
            f"part {part} is done; {agree(len(missing), 'part', 'parts')} {names} of {part.of} "
            f"{agree(len(missing), 'is', 'are')} missing"
        )
        return None
    return _join(source, options, parts, about, whole)


def _about(about: dict[str, Any], part: Part) -> dict[str, Any]:
    return {**about, "part": str(part)}


def _seal(out: Path, part: Part, about: dict[str, Any]) -> bytes:
    return WorkFolder(part.folder(out), _about(about, part), overwrite=True).seal


def _note(out: Path, part: Part, about: dict[str, Any]) -> dict[str, dict[str, list[list[Any]]]] | None:
    """Returns what is known of every split of a finished part.

    bad: rows [position in the part, key, reason] of its bad images.
    shards: rows [position after the last image, digest of the images] of its shards.

    None if the part is missing, or was made with other input, options or versions.
    """
    try:
        text = read_sealed(part.folder(out) / PART_FILE, _seal(out, part, about))
    except (Damaged, NotADirectoryError):
        return None
    return None if text is None else json.loads(text)


def _convert(
    source: Source, options: Conversion, out: Path, part: Part, about: dict[str, Any], workers: int, anew: bool
) -> None:
    """Converts the part, unless it is there. anew: as in `WorkFolder`."""
    share = Share(source, part)
    own = {
        split: chosen_raw(source, split, options)[first : first + len(share.splits[split].keys)]
        for split, first in share.first.items()
    }
    folder = WorkFolder(part.folder(out), _about(about, part), overwrite=True, anew=anew)
    with told(folder), folder:
        folder.recover()
        note = _note(out, part, about)
        if note is not None and not (_changed(share, note) or _mended(share, options.encoding, note, own)):
            return
        folder.prepare()
        with Workers(share, options.encoding, workers or cores()) as pool:
            writers = {
                split: convert_split(share, split, options, folder, pool, Before(raw=own))
                for split in SPLITS
                if split in share.splits
            }
        allowed = options.allowed_bad(sum(len(listing.keys) for listing in source.splits.values()))
        refuse_bad(writers, allowed)
        files: Files = {}
        note = {}
        for split, writer in writers.items():
            files |= writer.files()
            assert isinstance(writer, SplitWriter)
            for page in writer.pages():
                (folder.dataset / page.name).write_bytes(page.read_bytes())
                files[page.name] = finished(folder.dataset / page.name)
            shards = [[int(rows["position"]), str(rows["images"])] for rows in writer.finish()]
            note[split] = {"bad": writer.bad(), "shards": shards}
        write_sealed(folder.dataset / PART_FILE, json.dumps(note).encode(), folder.seal)
        files[PART_FILE] = finished(folder.dataset / PART_FILE)
        folder.publish(files)


def _mended(share: Share, encoding: Encoding, note: dict[str, Any], raw: dict[str, np.ndarray]) -> bool:
    return any(
        isinstance(encode_sample(share, encoding, split, place, bool(raw[split][place])), Stored)
        for split, own in note.items()
        for place, _, _ in own["bad"]
    )


def _changed(share: Share, note: dict[str, Any]) -> bool:
    """Returns whether images of a finished part have changed since."""
    for split, own in note.items():
        known_by, first, bad = Fingerprint(share, split), 0, [place for place, _, _ in own["bad"]]
        for end, digest in own["shards"]:
            if images_digest(known_by, first, end, bad) != digest:
                return True
            first = end
    return False


class _Parts:
    """The encoded images of all parts, with the interface of Workers."""

    def __init__(self, source: Source, options: Conversion, out: Path, parts: list[Part], about: dict[str, Any]):
        self.source, self.encoding, self._out, self._parts, self._about = source, options.encoding, out, parts, about
        self._options = options

    def of_other_images(self) -> Part | None:
        """Returns the first part that is left from a conversion of other images with the same names; None without one.

        Machines may read copies of the images that differ in their times. So some images of every part are encoded
        again: the first, the middle and the last one of each split.
        """
        for split in self.source.splits:
            raw = chosen_raw(self.source, split, self._options)
            for part in self._parts:
                first, end = part.range(len(raw))
                for place in sorted({first, (first + end) // 2, end - 1}) if end > first else ():
                    then = next(self._of_part(part, split, end - first, place - first))
                    now = encode_sample(self.source, self.encoding, split, place, bool(raw[place]))
                    if isinstance(then, Stored) and (isinstance(now, str) or now.crc32 != then.crc32):
                        return part
        return None

    def results(self, split: str, raw: np.ndarray, start: int) -> Iterator[Result]:
        """Yields the results for the samples of a split in order, beginning with sample `start`."""
        for part in self._parts:
            first, end = part.range(len(raw))
            if max(first, start) < end:
                yield from self._of_part(part, split, end - first, max(0, start - first))

    def _of_part(self, part: Part, split: str, count: int, start: int) -> Iterator[Result]:
        note = _note(self._out, part, self._about)
        if note is None:
            raise UserError(_gone(part, part.folder(self._out)))
        bad = {place: reason for place, _, reason in note[split]["bad"]}
        stored = self._stored(part, split, start - sum(place < start for place in bad))
        for place in range(start, count):
            yield bad[place] if place in bad else next(stored)

    def _stored(self, part: Part, split: str, skipped: int) -> Iterator[Stored]:
        """Yields the images of a part in order, without the first `skipped` ones."""
        folder, seal = part.folder(self._out), _seal(self._out, part, self._about)
        number = 0
        while True:
            name = layout.shard_name(split, number)
            page = folder / f"{name}.page"
            try:
                data = read_sealed(page, seal + page.name.encode())
                if data is None:
                    raise UserError(_gone(part, folder))
                with np.load(io.BytesIO(data)) as arrays:
                    rows = dict(arrays)
                shard = map_file(folder / name, int(rows["size"])) if skipped < len(rows["label"]) else None
            except (Damaged, OSError):
                raise UserError(_gone(part, folder)) from None
            if isinstance(shard, int):
                raise UserError(_gone(part, folder))
            for row in range(skipped, len(rows["label"])):
                assert shard is not None
                image = shard[rows["offset"][row] : rows["offset"][row] + rows["length"][row]].tobytes()
                if zlib.crc32(image) != rows["crc32"][row]:
                    raise UserError(_gone(part, folder))
                size = int(rows["height"][row]), int(rows["width"][row])
                about = str(rows["colour"][row]), int(rows["look"][row])
                encoded = layout.Encoded(image, int(rows["encoding"][row]), *size, *about)
                yield Stored(encoded, int(rows["crc32"][row]))
            skipped = max(0, skipped - len(rows["label"]))
            number += 1


def _gone(part: Part, folder: Path) -> str:
    return f"part {part} is damaged: remove {folder} and give the command with part={part} again"


def _join(
    source: Source, options: Conversion, parts: list[Part], about: dict[str, Any], folder: WorkFolder
) -> Path | None:
    """Joins all parts into the dataset; returns `out`, or None if another process does it."""
    out = folder.out
    try:
        folder.__enter__()
    except InUse:
        say(f"all {len(parts)} parts are done; another process joins them")
        return None
    with told(folder), contextlib.ExitStack() as stack:
        stack.push(folder.__exit__)
        folder.recover()
        there = is_result(out, about, source, options.encoding)
        # Another process may have joined them before this one had the lock; it then removed them.
        if not there or (folder.overwrite and parts[0].folder(out).exists()):
            folder.check_free()
            pool = _Parts(source, options, out, parts, about)
            if (other := pool.of_other_images()) is not None:
                say(f"part {other} was made of other images than these: give the command with part={other} again")
                return None
            say(f"all {len(parts)} parts are done: joining them")
            folder.prepare()
            convert_prepared(source, options, folder, about, pool)
        _clean(out, parts[0])
    return out


def _clean(out: Path, one: Part) -> None:
    """Removes the parts of a finished dataset. one: any of the parts."""
    for number in range(1, one.of + 1):
        folder = Part(number, one.of).folder(out)
        with contextlib.suppress(OSError):
            discard(folder)
    with contextlib.suppress(OSError):
        one.folder(out).parent.rmdir()
