"""A source of images in tars in WebDataset layout, whose samples are runs of members with one key: KEY.jpg, KEY.cls."""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from fastlt.core.errors import UserError, first_line
from fastlt.core.log import Progress
from fastlt.core.text import is_one_line
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.csv_rows import LABEL_NAMES
from fastlt.data.sources.labels import numbered
from fastlt.data.sources.listed import repeated, shown
from fastlt.data.sources.packed_files import name_of, state_of
from fastlt.data.sources.tar_file import BROKEN, open_plain_tar
from fastlt.data.sources.walk import LeftOut, is_image

ENDS = (".tar",)
_LABELS = ("cls", "cls.txt", *LABEL_NAMES)  # extensions of members with a label; the first has priority
_LARGEST_LABEL = 1 << 20  # bytes of a member with a label or with JSON
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # (key, extension); as in webdataset the first dot separates
_BLOCK = 512  # bytes of a tar block


class Place(NamedTuple):
    """Where an image lies: the tar, the offset of its first byte, and the number of bytes."""

    tar: Path
    offset: int
    length: int


@dataclass(frozen=True)
class WebDataset:
    """Images and labels in uncompressed tars, as the package `webdataset`, GNU tar or fastlt write them.

    files: {split: tars}; `train` is required.
    image_column: the extension of images, such as `jpg` or `image.png`; by default the only one that images have.
    label_column: the extension of members that hold a label, such as `cls`, or the name of a value in the JSON of
        `.json` members. By default `cls`, else an extension or a name of JSON such as `label` or `class`.
    name: the name of the dataset.
    top: the folder that keys are relative to; by default the one that contains all tars.

    Members that follow each other and have the same key are a sample. The key is the name of a member up to the first
    dot after the last slash, and the rest is the extension. Other members of a sample are not used. A label is a name
    or a number; classes are sorted by name, or by value if all are numbers.

    Samples keep the order of the tars. The key of a listing is `TAR/KEY.EXTENSION`; TAR is relative to `top`.

    Raises UserError, naming tar and sample, for a tar that is damaged, truncated or compressed, for a sample without
    label or image, for several extensions of images, and for a key that occurs twice; and if a tar changes before
    `load` reads it.

    Example: WebDataset({"train": [Path("train-000000.tar")], "test": [Path("test-000000.tar")]}).class_names
    """

    files: Mapping[str, list[Path]]
    image_column: str = ""
    label_column: str = ""
    name: str = "images"
    top: Path | None = None
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _tars: dict[str, list[tuple[Path, int, int]]] = field(init=False, compare=False, repr=False)  # path, size, time
    _columns: dict[str, np.ndarray] = field(init=False, compare=False, repr=False)  # int64 [N, 3]: tar, offset, length

    def __post_init__(self) -> None:
        files = {split: [Path(file) for file in self.files[split]] for split in SPLITS if split in self.files}
        every = [file for own in files.values() for file in own]
        top = self.top or Path(os.path.commonpath([file.parent for file in every]))
        left_out, columns, keys, labels, tars = LeftOut(top), {}, {}, {}, {}
        # The extension of images, once it is known: that of the first sample holds for all.
        fields = _Fields(self.image_column.lower().lstrip("."), self.label_column.lstrip("."))
        with Progress("reading tars", len(every), "tars") as progress:
            for split, own in files.items():
                columns[split], keys[split], labels[split], tars[split] = [], [], [], []
                for number, file in enumerate(own):
                    name = name_of(file, top)
                    tars[split].append((file, *state_of(file)))
                    for sample in _samples(file, left_out):
                        image, label = fields.of(sample)
                        columns[split].append((number, image.offset_data, image.size))
                        keys[split].append(f"{name}/{image.name.removeprefix('./')}")
                        labels[split].append(label)
                    progress.advance(1, "")
                if not keys[split]:
                    raise UserError(f"{own[0]}: there is no sample in it; leave the {split} split out")
                if again := repeated(keys[split]):
                    raise UserError(f"{keys[split][again[1]]} occurs twice in {split}: samples need keys of their own")
        left_out.say()

        def where(split: str, place: int) -> str:
            return keys[split][place]

        class_names, classes = numbered(labels, where, str(every[0]))
        for attribute, value in (
            ("files", files),
            ("top", top),
            ("class_names", class_names),
            ("splits", {split: Listing(keys[split], classes[split]) for split in files}),
            ("_tars", tars),
            ("_columns", {split: np.array(rows, np.int64) for split, rows in columns.items()}),
        ):
            object.__setattr__(self, attribute, value)

    def place(self, split: str, index: int) -> Place:
        """Returns where the image of a sample lies."""
        number, offset, length = self._columns[split][index].tolist()
        return Place(self._tars[split][number][0], offset, length)

    def load(self, split: str, index: int) -> bytes:
        """Returns the unchanged bytes of an image's file. Raises OSError if it cannot be read, UserError if the tar has
        changed since it was listed."""
        number, offset, length = self._columns[split][index].tolist()
        path, *state = self._tars[split][number]
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if [status.st_size, status.st_mtime_ns] != state:
                raise UserError(f"{path} has changed since it was listed: leave it alone, and give the command again")
            return os.pread(file.fileno(), length, offset)

    def where(self, split: str, index: int) -> str:
        """Returns the path of the tar and the name of the image in it."""
        path = self._tars[split][int(self._columns[split][index, 0])][0]
        assert self.top is not None
        return f"{path}: {self.splits[split].keys[index].removeprefix(name_of(path, self.top) + '/')}"


class _Sample(NamedTuple):
    """The members of a sample by extension."""

    tar: Path
    key: str
    members: dict[str, tarfile.TarInfo]


class _Fields:
    """Finds image and label of a sample. image, label: their extensions (or a name in JSON) if the user gave them."""

    def __init__(self, image: str, label: str):
        self._asked_image, self._asked_label, self._image = image, label, image

    def of(self, sample: _Sample) -> tuple[tarfile.TarInfo, str]:
        """Returns (member of the image, label) of a sample. Raises UserError if one is missing or not clear."""
        image = sample.members.get(self._image) or self._other_image(sample)
        return image, self._label(sample)

    def _other_image(self, sample: _Sample) -> tarfile.TarInfo:
        found = [end for end in sample.members if is_image(f"x.{end}")]
        if self._asked_image:
            _refuse(sample, f"no image: image_column={self._asked_image}, members are {_names(sample)}")
        if not found:
            _refuse(sample, f"no image: members are {_names(sample)}")
        if len(found) > 1:
            _refuse(sample, f"more than one image, {', '.join(found)}: say image_column=EXTENSION")
        self._image = found[0]  # tried first for the next sample
        return sample.members[found[0]]

    def _label(self, sample: _Sample) -> str:
        asked = self._asked_label
        for end in (asked,) if asked else _LABELS:
            if end in sample.members:
                try:
                    return _content(sample, end).decode().strip()
                except UnicodeDecodeError:
                    _refuse(sample, f"its label in .{end} is not UTF-8")
        if "json" not in sample.members:
            hint = "; if folders are the classes, unpack the tar and give the folder" if "/" in sample.key else ""
            _refuse(sample, f"no label: members are {_names(sample)}; say label_column=EXTENSION{hint}")
        return self._label_in_json(sample)

    def _label_in_json(self, sample: _Sample) -> str:
        try:
            content = json.loads(_content(sample, "json"))
        except (ValueError, RecursionError) as error:
            _refuse(sample, f"its .json is not JSON ({first_line(error)})")
        known = content if isinstance(content, dict) else {}
        wanted = (self._asked_label,) if self._asked_label else LABEL_NAMES
        name = next((name for name in wanted if name in known), None)
        if name is None:
            there = ", ".join(map(str, known)) or "nothing"
            what = f"{self._asked_label} in its JSON" if self._asked_label else "label in its JSON"
            _refuse(sample, f"no {what}, which has {shown(there)}; say label_column=NAME")
        value = known[name]
        if not isinstance(value, str | int | float):
            _refuse(sample, f"its label {name} is {shown(json.dumps(value))}; a label is a text or a number")
        return str(value)


def _names(sample: _Sample) -> str:
    return ", ".join(f".{end}" for end in sample.members)


def _refuse(sample: _Sample, problem: str) -> NoReturn:
    raise UserError(f"{sample.tar}: sample {shown(sample.key)}: {problem}")


def _content(sample: _Sample, end: str) -> bytes:
    member = sample.members[end]
    if member.size > _LARGEST_LABEL:
        _refuse(sample, f".{end} has {member.size:,} bytes, at most {_LARGEST_LABEL:,} are read")
    with sample.tar.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), member.size, member.offset_data)


def _samples(file: Path, left_out: LeftOut) -> Iterator[_Sample]:
    """Yields the samples of a tar that have more than one member or an image, in order."""
    sample = _Sample(file, "", {})
    for member in _members(file):
        match = _NAME.fullmatch(member.name) if member.isreg() else None
        if not match or not is_one_line(member.name) or member.issparse():
            if not member.isdir():
                left_out.add(f"{file.name}/{member.name}", "member", " of no sample")
            continue
        key, end = match[1], match[2].lower()
        if key != sample.key:
            yield from _worth(sample, left_out)
            sample = _Sample(file, key, {})
        if end in sample.members:
            _refuse(sample, f"more than one member .{end}")
        sample.members[end] = member
    yield from _worth(sample, left_out)


def _worth(sample: _Sample, left_out: LeftOut) -> Iterator[_Sample]:
    """Yields the sample, unless it is a single member that is no image, such as a README."""
    if len(sample.members) > 1 or any(is_image(f"x.{end}") for end in sample.members):
        yield sample
    elif sample.members:
        left_out.add(f"{sample.tar.name}/{sample.key}", "member", " of no sample")


def _members(file: Path) -> Iterator[tarfile.TarInfo]:
    """Yields the members of a tar. Raises UserError if it is no tar, or compressed, damaged or truncated."""
    try:
        with open_plain_tar(file) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - tarfile would keep them all
                yield member
            _check_end(file, archive.offset)
    except BROKEN as error:
        raise UserError(f"{file}: no tar, or a compressed, damaged or truncated one ({first_line(error)})") from None


def _check_end(file: Path, offset: int) -> None:
    """Raises ReadError unless a tar ends at `offset` with a block of zeros: tarfile takes damage for an end."""
    with file.open("rb") as content:
        content.seek(offset)
        block = content.read(_BLOCK)
        if len(block) < _BLOCK:
            raise tarfile.ReadError("it ends without the mark of its end")
        while block:
            if any(block):
                raise tarfile.ReadError(f"damaged at byte {offset:,}, or something follows its end")
            block = content.read(1 << 20)
