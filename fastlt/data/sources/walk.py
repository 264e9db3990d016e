"""Finds the image files below a folder, and counts the files that are no images."""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from fastlt.core.errors import UserError
from fastlt.core.log import printed, say
from fastlt.core.words import counted
from fastlt.data.plugins import register_plugins

# Pillow registers these formats, but decodes them only with another program or a plugin, or not at all.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
_JPEG_TOO = (".jif", ".jfi")
_BY_PLUGIN = (".heic", ".heif", ".hif", ".jxl")


@functools.cache
def image_extensions() -> frozenset[str]:
    """Returns the extensions, such as `.jpg`, of all formats that the installed Pillow decodes, in lower case."""
    register_plugins()
    named = Image.registered_extensions().items()
    return frozenset([*_JPEG_TOO, *(end for end, kind in named if kind in Image.OPEN and kind not in _NOT_DECODED)])


def is_image(name: str) -> bool:
    """Returns whether a file name has the extension of an image."""
    return os.path.splitext(name)[1].lower() in image_extensions()  # noqa: PTH122 - called for millions of names


@dataclass
class LeftOut:
    """Counts the files and folders below `root` that are not used, by kind, to report them in one line."""

    root: Path | str
    # {kind: (number, the first of them)}
    _kinds: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, path: str, noun: str, rest: str = "") -> None:
        """Adds one of a kind, such as `folder` with the rest ` without an image`. path: relative to the root."""
        count, first = self._kinds.get((noun, rest), (0, path))
        self._kinds[noun, rest] = count + 1, first

    def add_file(self, path: str) -> None:
        """Adds a file that is no image, judged by its extension."""
        end = os.path.splitext(path)[1].lower()  # noqa: PTH122
        plugin = " to be read with pip install 'fastlt[formats]'" if end in _BY_PLUGIN and not is_image(path) else ""
        self.add(path, f"{end} file".strip(), plugin if end else " without an extension")

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __str__(self) -> str:
        return ", ".join(
            f"{counted(count, noun)}{rest} ({printed(first)})"
            for (noun, rest), (count, first) in sorted(self._kinds.items())
        )

    def say(self) -> None:
        """Prints one line that names everything, unless there is nothing."""
        if self:
            say(f"note: left out of {printed(str(self.root))}: {self}")


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder, sorted by name. Raises UserError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror
        raise UserError(
            f"{printed(str(folder))}: cannot read this folder ({reason}); allow it or move it away"
        ) from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or through a folder without permission
        return False


def identity(folder: Path | str) -> tuple[int, int]:
    """Returns (device, inode), which identify a folder whichever path or link leads to it."""
    status = os.stat(folder)  # noqa: PTH116 - walks millions of entries, where Path objects cost more than the work
    return status.st_dev, status.st_ino


def subfolders(folder: Path | str) -> list[str]:
    """Returns the sorted names of the folders in a folder, without those that begin with a dot."""
    return [entry.name for entry in entries(folder) if is_folder(entry) and not entry.name.startswith(".")]


def images_below(top: Path | str, visited: set[tuple[int, int]], left_out: LeftOut, prefix: str = "") -> Iterator[str]:
    """Yields the paths of the images below `top`, relative to it, sorted by name within each folder.

    visited: the `identity` of folders that are not read again; folders that are read are added.
    left_out: counts everything that is not yielded.
    prefix: the path of `top` relative to left_out.root, ending with a slash.

    Links are followed. Names that begin with a dot are skipped. A broken link is yielded, so that it is reported as an
    unreadable image instead of being ignored.
    """
    waiting = [("", iter(entries(top)))]
    while waiting:
        below, rest = waiting[-1]
        entry = next(rest, None)
        if entry is None:
            waiting.pop()
            continue
        path = below + entry.name
        if entry.name.startswith("."):
            left_out.add(prefix + path, "name", " with a leading dot")
        elif is_folder(entry):
            if (found := identity(entry.path)) in visited:
                left_out.add(prefix + path, "link", " to a folder that is read elsewhere")
            else:
                visited.add(found)
                waiting.append((f"{path}/", iter(entries(entry.path))))
        elif not is_image(entry.name):
            left_out.add_file(prefix + path)
        elif entry.is_symlink() or entry.is_file():
            yield path
        else:
            left_out.add(prefix + path, "pipe or device")
