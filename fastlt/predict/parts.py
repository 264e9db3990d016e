"""Output files that grow piece by piece and can be gone on with after an interruption."""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fastlt.core.errors import UserError
from fastlt.core.files import sync, write_file, writing

SAVE_SECONDS = 10.0  # between two savings of how far the work is
_AGAIN = "give the same command again: it goes on from there"


class Parts:
    """Files that are written piece by piece, of which FILE.part holds what is there of FILE so far.

    Beside the first of them, FILE.progress says how far the work is and what determines it. After an interruption, even
    a kill or a power cut, it goes on from the last `save`; what was written after that is cut off. It is a context
    manager; if nothing was saved inside, it leaves no file behind.

    files: the final paths by option, such as {"--out": path}.
    about: what determines the contents, as plain values by name; those of options, which begin with --, are shown in
        error messages.

    Attributes: done, the images that are done; failed, how many of them have no prediction; resumed, whether there was
    work to go on with.

    Raises UserError, in one line, if a final file is there, if the work was begun with something else in `about`, or if
    its files are damaged. Raises NotWritten if a file cannot be written.
    """

    def __init__(self, files: Mapping[str, Path], about: Mapping[str, Any]):
        self._files, self._about = dict(files), json.loads(json.dumps(about))
        self._progress = _progress(self._files)
        self.done = self.failed = 0
        self._saved = time.monotonic()
        self._sizes = self._known()
        self.resumed = bool(self._sizes)
        self._open: dict[str, BinaryIO] = {}
        try:
            for option, path in self._files.items():
                # A kill may have come after the first of several files got its name.
                if not (self.resumed and path.exists() and not _part(path).exists()):
                    self._open[option] = self._opened(option, path, self._sizes.get(option, 0))
        except BaseException:
            self._close()
            raise

    def part(self, option: str) -> Path:
        """Returns the path of a file that is not complete."""
        return _part(self._files[option])

    def write(self, option: str, data: bytes) -> None:
        """Appends to a file. option: its key in `files`."""
        with self._writing(option):
            self._open[option].write(data)

    def advance(self, images: int, failed: int) -> None:
        """Counts images as done, whose output is all written, and saves every SAVE_SECONDS."""
        self.done, self.failed = self.done + images, self.failed + failed
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Writes down how far the work is, when everything before is on the disk."""
        for option, file in self._open.items():
            with self._writing(option):
                file.flush()
                os.fsync(file.fileno())
            self._sizes[option] = file.tell()
        state = {"about": self._about, "images": self.done, "failed": self.failed, "bytes": self._sizes}
        write_file(self._progress, json.dumps(state) + "\n", again=_AGAIN)
        self._saved = time.monotonic()

    def publish(self, option: str) -> None:
        """Gives a complete file its final name."""
        if option in self._open:
            with self._writing(option):
                self.part(option).replace(self._files[option])
                sync(self._files[option].parent)

    def forget(self) -> None:
        """Removes what only unfinished work needs, when all final files are there."""
        self._close()
        for path in [*map(_part, self._files.values()), self._progress]:
            path.unlink(missing_ok=True)

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if not self.done and not self.resumed:
            self.forget()

    def _close(self) -> None:
        for file in self._open.values():
            with contextlib.suppress(OSError):  # it tries once more to write what a full disk did not take
                file.close()

    def _known(self) -> dict[str, int]:
        """Returns the sizes of the parts at the last `save`, and takes over the counts; none if there was none."""
        check_places(self._files)
        if not self._progress.exists():
            return {}
        begin = f"delete {self._progress} and the .part files beside it to begin anew"
        try:
            state = json.loads(self._progress.read_text(encoding="utf-8"))
            about, sizes = dict(state["about"]), {option: int(size) for option, size in state["bytes"].items()}
            self.done, self.failed = int(state["images"]), int(state["failed"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{self._progress} cannot be read ({type(error).__name__}): {begin}") from None
        for name in sorted(self._about.keys() | about.keys()):
            before, now = about.get(name), self._about.get(name)
            if before != now:
                values = f" ({_shown(before)}, now {_shown(now)})" if name.startswith("--") else ""
                raise UserError(
                    f"{self._progress}: {name} is another than where it was begun{values}: give the first command "
                    f"again, or {begin}"
                )
        return sizes

    def _opened(self, option: str, path: Path, size: int) -> BinaryIO:
        """Opens a part at the size that it had at the last `save`; what was written after that is cut off."""
        part = _part(path)
        if size and path.exists() and part.exists():
            raise UserError(f"{option}={path} exists, and so does {part}: move the first away to go on")
        there = part.stat().st_size if part.exists() else 0
        if there < size and not path.exists():
            raise UserError(
                f"{part} has {there:,} of the {size:,} bytes that {self._progress} tells of: delete both to begin anew"
            )
        with self._writing(option):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("ab")
            file.truncate(size)
            return file

    def _writing(self, option: str) -> Any:
        return writing(self.part(option), f"{option}={self._files[option]}", _AGAIN)


def check_places(files: Mapping[str, Path]) -> None:
    """Raises UserError if there is a folder in the place of one of `files`, or a file that is not of begun work.

    Called before any work is done. files: as in `Parts`.
    """
    for option, path in files.items():
        if path.is_dir():
            raise UserError(f"{option}={path} is a folder: give the name of a file in it")
        if path.exists() and not _progress(files).exists():
            raise UserError(f"{option}={path} exists: choose another name, or move it away")


def _progress(files: Mapping[str, Path]) -> Path:
    first = next(iter(files.values()))
    return first.with_name(first.name + ".progress")


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)
