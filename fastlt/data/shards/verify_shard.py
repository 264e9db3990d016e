"""Verifies one shard: reads every byte once, in order, and compares it with the index and the layout of the writer."""

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from fastlt.core.words import counted
from fastlt.data.shards import format as layout
from fastlt.data.shards.reader import size_problem

BLOCK = 4_000_000  # bytes read at once, which bounds the memory for a shard of any size


class Row(NamedTuple):
    """The row of the index for one sample."""

    split: str
    sample: int
    offset: int
    length: int
    label: int
    encoding: int
    crc32: int
    number: int  # by which its members are named; it differs from `sample` once samples before it were removed

    @property
    def image_name(self) -> str:
        """The name of the image's tar member."""
        extensions = layout.EXTENSIONS
        known = self.encoding < len(extensions)
        return layout.member_name(self.number, extensions[self.encoding] if known else f"encoding{self.encoding}")


@dataclass(frozen=True)
class Finding:
    """A fault in a file. text: continues a line that begins with the name of the file and the offset in it."""

    text: str
    row: Row | None = None
    offset: int | None = None


@dataclass
class Findings:
    """The findings of one file: the first `limit` in `kept`, the number of all in `count`."""

    file: str
    limit: int
    kept: list[Finding] = field(default_factory=list)
    count: int = 0

    def add(self, text: str, row: Row | None = None, offset: int | None = None) -> None:
        """Adds a finding."""
        self.count += 1
        if len(self.kept) < self.limit:
            self.kept.append(Finding(text, row, offset))


class _Stream:
    """Reads a file once from start to end and hashes it meanwhile. `position` is the offset of the next byte."""

    def __init__(self, path: Path, advance: Callable[[int], None]):
        self._file = path.open("rb", buffering=0)
        self._buffer = memoryview(bytearray(BLOCK))
        self._start = self._filled = self.position = 0
        self._advance = advance
        self.hash = hashlib.sha256()

    def pieces(self, end: int) -> Iterator[memoryview]:
        """Yields the bytes from `position` to `end`, or to the end of the file, in pieces. The next piece overwrites
        the buffer of the last one."""
        while self.position < end:
            if self.position == self._start + self._filled:
                self._start, self._filled = self.position, self._file.readinto(self._buffer) or 0
                if not self._filled:
                    return
                self.hash.update(self._buffer[: self._filled])
                self._advance(self._filled)
            first, last = self.position - self._start, min(end - self._start, self._filled)
            self.position = self._start + last
            yield self._buffer[first:last]

    def take(self, end: int) -> bytes:
        """Returns the bytes from `position` to `end`, or to the end of the file."""
        return b"".join(bytes(piece) for piece in self.pieces(end))

    def close(self) -> None:
        self._file.close()


def check_shard(
    path: Path, size: int, sha256: str, rows: list[Row] | None, found: Findings, advance: Callable[[int], None]
) -> None:
    """Compares a shard with its size and SHA-256 in dataset.json, and its samples with their rows of the index.

    rows: in the order of the samples; None if the index cannot be used.
    found: receives the findings.
    advance: is called with the number of bytes after each read.
    """
    _check_file(path, size, sha256, rows, found, advance, _check_samples)


def check_linked(
    path: Path, size: int, sha256: str, rows: list[Row] | None, found: Findings, advance: Callable[[int], None]
) -> None:
    """The same for a tar of the user that encode=link left where it was: of it only the images are compared."""
    _check_file(path, size, sha256, rows, found, advance, _check_images)


def _check_file(
    path: Path,
    size: int,
    sha256: str,
    rows: list[Row] | None,
    found: Findings,
    advance: Callable[[int], None],
    compare: Callable[..., None],
) -> None:
    problem = size_problem(path.stat().st_size, size) if path.is_file() else "is missing"
    if not path.is_file():
        problem = f"is a link to {path.readlink()}, which is not there" if path.is_symlink() else problem
        found.add(f"{problem}, with its {counted(len(rows), 'sample')}" if rows is not None else problem)
        return
    if problem:
        found.add(problem)
    stream = None
    try:
        stream = _Stream(path, advance)
        if rows is not None:
            compare(stream, path.stat().st_size, rows, found, whole=not problem)
        _skip(stream, path.stat().st_size)
        if not problem and stream.hash.hexdigest() != sha256:
            found.add(f"has SHA-256 {stream.hash.hexdigest()}, dataset.json says {sha256}")
    except OSError as error:
        found.add(f"cannot be read ({error.strerror})", offset=stream.position if stream else 0)
    finally:
        if stream:
            stream.close()


def _check_samples(stream: _Stream, size: int, rows: list[Row], found: Findings, whole: bool) -> None:
    lost = [row for row in rows if layout.sample_end(row.offset, row.length) > size]
    if lost:
        more = f", the first of {len(lost):,} such samples" if len(lost) > 1 else ""
        found.add(f"lies beyond the shard's end at {size}{more}", lost[0], lost[0].offset)
    end = size - len(layout.TAR_END)
    for row, behind in zip_longest(rows, rows[1:]):
        next_at = behind.offset - layout.BLOCK if behind else end
        if layout.sample_end(row.offset, row.length) > size:
            _skip(stream, next_at)
        else:
            _check_sample(stream, row, next_at, found)
    if not whole:
        return
    at = stream.position
    tail = stream.take(at + len(layout.TAR_END))
    if size - at != len(layout.TAR_END):
        found.add(f"{size - at:,} bytes are left after the last sample, an end takes {len(tail)}", offset=at)
    elif any(tail):
        found.add("the end of the tar is damaged: its bytes are not zero", offset=at)


def _check_images(stream: _Stream, size: int, rows: list[Row], found: Findings, whole: bool) -> None:
    for row in sorted(rows, key=lambda row: row.offset):
        if row.offset + row.length > size:
            found.add(f"lies beyond the tar's end at {size}", row, row.offset)
        elif row.offset < stream.position:
            found.add("lies in another image", row, row.offset)
        else:
            _skip(stream, row.offset)
            _check_bytes(stream, row, found)


def _check_bytes(stream: _Stream, row: Row, found: Findings) -> None:
    crc = 0
    for piece in stream.pieces(row.offset + row.length):
        crc = zlib.crc32(piece, crc)
    if crc != row.crc32:
        found.add(f"the image's bytes have CRC-32 {crc:08x}, index.h5 says {row.crc32:08x}", row, row.offset)


def _check_sample(stream: _Stream, row: Row, next_at: int, found: Findings) -> None:
    """Checks one sample, which must follow the one before it. next_at: where the next one begins, by the index."""
    start = row.offset - layout.BLOCK
    if start != stream.position:
        found.add(f"should lie at {stream.position + layout.BLOCK}, after the sample before it", row, row.offset)
        _skip(stream, next_at)
        return
    header = stream.take(row.offset)
    if header != layout.member_header(row.image_name, row.length):
        found.add(_header_problem(header, row.image_name, row.length), row, start)
        if layout.sample_end(row.offset, row.length) != next_at:  # the length is wrong, so the rest cannot be checked
            _skip(stream, next_at)
            return
    _check_bytes(stream, row, found)
    padding = stream.take(layout.label_offset(row.offset, row.length) - layout.BLOCK)
    if any(padding):
        found.add("the padding after the image is not zero", row, stream.position - len(padding))
    _check_label(stream, row, found)


def _skip(stream: _Stream, end: int) -> None:
    for _ in stream.pieces(end):
        pass


def _check_label(stream: _Stream, row: Row, found: Findings) -> None:
    at = stream.position
    member = stream.take(at + 2 * layout.BLOCK)
    name, expected = layout.member_name(row.number, "cls"), str(row.label).encode()
    if member == layout.member(name, expected):
        return
    header, text = member[: layout.BLOCK], member[layout.BLOCK :]
    if problem := _header_problem(header, name, None):
        found.add(problem, row, at)
    value = text.rstrip(b"\0")
    if value != expected:
        shown = ascii(value.decode("latin-1"))[:40]
        found.add(f"the label member says {shown}, index.h5 says {row.label}", row, at + layout.BLOCK)
    elif not problem:
        found.add("the tar header has other fields than the writer's", row, at)


def _header_problem(header: bytes, name: str, size: int | None) -> str:
    """Returns what is wrong with a tar header that is not the expected one. size: None if any size is allowed."""
    try:
        found = tarfile.TarInfo.frombuf(header, "ascii", "backslashreplace")
    except tarfile.TarError as error:
        return f"the tar header of {name} is damaged ({error})"
    if found.name != name or size not in (None, found.size):
        wanted = name if size is None else f"{name} of {size} bytes"
        return f"the tar header says {ascii(found.name)[1:-1]} of {found.size} bytes, index.h5 says {wanted}"
    return "" if size is None else f"the tar header of {name} has other fields than the writer's"


def check_dali_index(path: Path, rows: list[Row] | None, found: Findings) -> None:
    """Compares DALI's index of a shard, line by line, with the rows of the index. rows: as in `check_shard`."""
    if path.exists() and not path.is_file():  # reading a pipe might wait forever
        found.add("is no file")
        return
    try:
        with path.open(encoding="ascii", errors="backslashreplace", newline="\n") as file:
            if rows is None:
                return
            header = layout.index_header(len(rows))
            if (first := file.readline()) != header:
                found.add(f"line 1 says {_shown(first)}, index.h5 gives {_shown(header)}")
            for number, (line, row) in enumerate(zip_longest(file, rows), 2):
                if row is None:
                    found.add(f"line {number} and what follows belong to no sample")
                    return
                if line is None:
                    found.add(f"ends before line {number}: {len(rows) - number + 2:,} samples have no line", row)
                    return
                if line != (expected := _dali_line(row)):
                    found.add(f"line {number} says {_shown(line)}, index.h5 gives {_shown(expected)}", row)
    except FileNotFoundError:
        found.add("is missing")
    except OSError as error:
        found.add(f"cannot be read ({error.strerror})")


def _dali_line(row: Row) -> str:
    if row.encoding >= len(layout.EXTENSIONS):
        return f"no line, as encoding {row.encoding} is unknown"
    line = layout.index_line(row.number, row.encoding, row.length, row.label)
    return line.format(row.offset, layout.label_offset(row.offset, row.length))


def _shown(line: str) -> str:
    return ascii(line.rstrip("\n"))[:120]
