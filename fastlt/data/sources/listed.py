"""What the sources that read a file naming images have in common: text lists, CSV tables, JSON annotations."""

import gzip
import io
import posixpath
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.sources.base import Listing

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"  # the mark some editors put in front of UTF-8
_FIRST_FILES = 5
_SHOWN = 200


@contextmanager
def opened(path: Path, form: str) -> Iterator[BinaryIO]:
    """A file, plain or gzip, which is known by its first bytes, behind the mark of UTF-8 if it has one.

    Raises UserError, with `form` as what is expected, where it cannot be read: here and in the body of the `with`.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            # The buffer splits lines in C, GzipFile alone does not.
            content = io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 18) if packed else file  # pyright: ignore[reportArgumentType]
            if content.peek(len(_BOM)).startswith(_BOM):
                content.read(len(_BOM))
            yield content
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot read this file ({problem}); {form}, plain or gzip") from None


def shown(text: str) -> str:
    """Input as a message quotes it: one line of bounded length."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


class FilesBelowRoot:
    """Loading of a source whose keys are paths below a folder."""

    root: Path
    splits: dict[str, Listing]

    def load(self, split: str, index: int) -> bytes:
        """The file's bytes; OSError if it is missing or unreadable."""
        return self.where(split, index).read_bytes()

    def where(self, split: str, index: int) -> Path:
        """The image file."""
        return self.root / self.splits[split].keys[index]


class BadPath(Exception):
    """A path that cannot name an image below the root; the text says why and what is allowed."""


def normalized(name: str) -> str:
    """The key of an image: its path relative to the root in one spelling (`a/./b.jpg` is `a/b.jpg`).

    Raises BadPath for paths that leave the root as they are spelled and for names that no file can have or no message
    can show.
    """
    if "\0" in name:
        raise BadPath("the path holds a NUL byte; give the path of an image file")
    if "\n" in name or "\r" in name:
        raise BadPath("the path holds a line break; rename the file")
    if name.startswith("/"):
        raise BadPath("absolute path; allowed are paths relative to the root, so strip the root from the list")
    normal = posixpath.normpath(name)
    if normal in (".", "..") or normal.startswith("../"):
        raise BadPath("this path leaves the root; allowed are paths to files below it")
    return normal


def is_plain(name: str) -> bool:
    """Whether `normalized` would return the name as it is: true for nearly all, and quick to say."""
    return not (name[0] in "/." or "/." in name or "//" in name or "\0" in name or "\n" in name or "\r" in name)


def repeated(keys: list[str]) -> tuple[int, int] | None:
    """Places of the first key that comes a second time, and of its first coming.

    Compares hashes first: a set of the keys would take several times the memory.
    """
    hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    first: dict[str, int] = {}
    for place in np.unique(order[np.concatenate([same, same + 1])]).tolist():
        if first.setdefault(keys[place], place) != place:
            return first[keys[place]], place
    return None


def check_first_files(root: Path, path: Path, listing: Listing) -> None:
    """A wrong root fails at once. One image that is missing is no reason: the conversion reports those."""
    for key in listing.keys[:_FIRST_FILES]:
        try:
            (root / key).stat()
            return
        except OSError:
            pass
    raise UserError(
        f"root={root}: none of the first images in {path} is there, tried {root / listing.keys[0]}; "
        "give the folder that the paths in the list are relative to"
    )


def check_root(root: Path) -> None:
    """Raises UserError where the root is no folder."""
    if not root.is_dir():
        raise UserError(f"root={root}: no such folder; give the folder that the paths in the lists are relative to")
