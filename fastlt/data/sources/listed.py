"""Shared code of the sources that read a file listing images: text lists, CSV tables, JSON annotations."""

import gzip
import io
import os
import posixpath
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.text import is_one_line
from fastlt.data.sources.base import Listing

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"  # the byte order mark that some editors write at the start of UTF-8 files
_DRIVE = re.compile(r"[A-Za-z]:/")
_FIRST_FILES = 5
_SHOWN = 200


@contextmanager
def opened(path: Path, form: str) -> Iterator[BinaryIO]:
    """Opens a plain or gzip file for reading bytes (context manager). Skips a byte order mark.

    form: what the error message says is expected. Raises UserError if the file cannot be read, also for errors in the
    body of the `with` statement.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            # BufferedReader splits lines in C; GzipFile alone would do so in Python.
            content = io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 18) if packed else file  # pyright: ignore[reportArgumentType]
            if content.peek(len(_BOM)).startswith(_BOM):
                content.read(len(_BOM))
            yield content
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot read this file ({problem}); {form}, plain or gzip") from None


def shown(text: str) -> str:
    """Quotes input for a message: on one line, and of bounded length."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def escaped(name: str) -> str:
    """Returns a name from inside a file as part of a key: with escapes if it is more than one line, or no UTF-8."""
    return name if is_one_line(name) else ascii(name)[1:-1]


class FilesBelowRoot:
    """Base class of sources whose keys are paths of files relative to `root`."""

    root: Path
    splits: dict[str, Listing]

    def load(self, split: str, index: int) -> bytes:
        """Returns the bytes of a sample's file. Raises OSError if it cannot be read."""
        return self.where(split, index).read_bytes()

    def where(self, split: str, index: int) -> Path:
        """Returns the path of a sample's file."""
        return self.root / self.splits[split].keys[index]


class BadPath(Exception):
    """Raised for a path that cannot name an image below the root. Its text says why and what is allowed."""


def normalized(name: str, root: Path) -> str:
    """Returns the key of an image: its normalized path relative to the root (`a/./b.jpg` becomes `a/b.jpg`).

    Backslashes are taken as Windows separators unless a file of exactly this name exists. Raises BadPath for paths that
    leave the root as they are spelled, and for NUL bytes and line breaks.
    """
    if "\0" in name:
        raise BadPath("the path holds a NUL byte; give the path of an image file")
    if "\n" in name or "\r" in name:
        raise BadPath("the path holds a line break; rename the file")
    if "\\" in name and not os.path.lexists(root / name):
        name = name.replace("\\", "/")
    if name.startswith("/") or _DRIVE.match(name):
        raise BadPath("absolute path; allowed are paths relative to the root, so strip the root from the list")
    normal = posixpath.normpath(name)
    if normal in (".", "..") or normal.startswith("../"):
        raise BadPath("this path leaves the root; allowed are paths to files below it")
    return normal


def is_plain(name: str) -> bool:
    """Returns whether a name certainly needs no `normalized`. Fast, and true for nearly all names."""
    return not (
        name[0] in "/." or "/." in name or "//" in name or "\0" in name or "\\" in name or "\n" in name or "\r" in name
    )


def repeated(keys: list[str]) -> tuple[int, int] | None:
    """Returns the positions of the first and second occurrence of a repeated key, or None if no key is repeated.

    It compares hashes first, because a set of the keys would need several times the memory.

    Example:

        >>> repeated(["a", "b", "a"])
        (0, 2)
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
    """Raises UserError if none of the first files of a listing exists, because then the root is wrong.

    Single missing images are no error here; the conversion reports them.
    """
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
    """Raises UserError if the root is no folder."""
    if not root.is_dir():
        raise UserError(f"root={root}: no such folder; give the folder that the paths in the lists are relative to")
