"""Lists the image files that a command is given: files, folders, and paths on stdin."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from fastlt.core.errors import UserError
from fastlt.core.log import printed
from fastlt.data.sources.walk import LeftOut, identity, images_below

STDIN = "-"


class Paths:
    """The paths of image files, in the order given. It is iterable and a context manager.

    The paths are listed before any work starts and are kept in a temporary file. Their number (`count`) is therefore
    known, and millions of them take no memory.

    given: files; folders, whose images are listed recursively and sorted; or `-` for paths on stdin, one per line.
    stdin: the stream for `-`.

    Files need not exist. In folders, names that begin with a dot are skipped, and a folder that is reached twice
    through links is read once; everything that is left out is counted by kind and reported in one line.

    Raises UserError for a folder that cannot be read or has no image, and if there is no path at all.
    """

    def __init__(self, given: Sequence[str], stdin: BinaryIO):
        self.count, self._digest = 0, hashlib.sha256()
        self.longest = 0  # characters of the longest path as it is printed
        # Stored as JSON, because a name may have line breaks and need not be UTF-8.
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - closed with this object
        try:
            for path in _listed(given, stdin):
                line = json.dumps(path) + "\n"
                self._digest.update(line.encode())
                self._file.write(line)
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

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of all paths in their order."""
        return self._digest.hexdigest()

    def __enter__(self) -> "Paths":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _listed(given: Sequence[str], stdin: BinaryIO) -> Iterator[str]:
    for path in given:
        for one in _lines(stdin) if path == STDIN else (path,):
            yield from _images_below(one) if os.path.isdir(one) else (one,)  # noqa: PTH112 - a Path refuses NUL


def _lines(stdin: Iterable[bytes]) -> Iterator[str]:
    return (os.fsdecode(line.rstrip(b"\r\n")) for line in stdin if line.strip(b"\r\n"))


def _images_below(folder: str) -> Iterator[str]:
    left_out, found = LeftOut(folder), False
    for path in images_below(folder, {identity(folder)}, left_out):
        found = True
        yield os.path.join(folder, path)  # noqa: PTH118 - a Path would drop a leading ./
    if not found:
        more = f" (but {left_out})" if left_out else ""
        raise UserError(f"{printed(folder)}: no image in this folder{more}; give one that has some")
    left_out.say()
