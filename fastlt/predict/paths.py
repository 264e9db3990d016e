"""The image files that a command names: files, folders, and lists on stdin."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from fastlt.core.errors import UserError
from fastlt.data.sources.image_folder import EXTENSIONS

STDIN = "-"


class Paths:
    """Paths of image files in the order given. They are listed before any work begins and kept in a temporary file:
    their number is known, and millions of them take no memory.

    given: files as they are; folders, whose images are listed below them, sorted; `-` for paths on stdin, one a line.
    A file need not be there. Names that begin with a dot are passed over in folders, and a folder that is reached twice
    through links is read once. Raises UserError for a folder that cannot be read or holds no image, and where there is
    no path at all.
    """

    def __init__(self, given: Sequence[str], stdin: BinaryIO):
        self.count = 0
        self.longest = 0  # characters of the longest one as `printed`
        # JSON: a name may hold a line break, and need not be UTF-8.
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - closed with this object
        try:
            for path in _listed(given, stdin):
                self._file.write(json.dumps(path) + "\n")
                self.count += 1
                self.longest = max(self.longest, len(printed(path)))
            if not self.count:
                raise UserError("no path on stdin: give one image file or folder a line")
        except BaseException:
            self._file.close()
            raise

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        return map(json.loads, self._file)

    def __enter__(self) -> "Paths":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def printed(text: str) -> str:
    """A name on one line of a terminal: what is not printable in it is written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _listed(given: Sequence[str], stdin: BinaryIO) -> Iterator[str]:
    for path in given:
        for one in _lines(stdin) if path == STDIN else (path,):
            yield from _images_below(one) if os.path.isdir(one) else (one,)  # noqa: PTH112 - a Path refuses NUL


def _lines(stdin: Iterable[bytes]) -> Iterator[str]:
    return (os.fsdecode(line.rstrip(b"\r\n")) for line in stdin if line.strip(b"\r\n"))


def _images_below(folder: str) -> Iterator[str]:
    found = False
    for path in _walk(folder, {_identity(folder)}):
        found = True
        yield path
    if not found:
        raise UserError(f"{printed(folder)}: no image in this folder ({', '.join(EXTENSIONS)}); give one that has some")


def _walk(folder: str, visited: set[tuple[int, int]]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"{printed(folder)}: cannot read this folder ({error.strerror}); allow it or move it away"
        ) from None
    for entry in found:
        if _is_folder(entry):
            identity = _identity(entry.path)
            if identity not in visited:
                visited.add(identity)
                yield from _walk(entry.path, visited)
        # A link that leads nowhere is listed, and fails when it is read. A pipe is passed over.
        elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_symlink() or entry.is_file()):
            yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - of as many folders as there are
    return status.st_dev, status.st_ino
