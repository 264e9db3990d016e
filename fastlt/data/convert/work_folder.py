"""The folder in which a conversion works until it is finished: `out`.partial.

out.partial/lock              held while a process works here
out.partial/conversion.json   input, options and software versions that the conversion was begun with
out.partial/journal/          a page for each complete shard
out.partial/dataset/          the new dataset; after it was exchanged with `out`, the old one
out.partial/finished.json     sizes and SHA-256 of the dataset's files; exists from its completion to the end of cleanup
out.partial/old/              the old dataset, if the system cannot exchange two folders in one step

Files that no conversion wrote are never removed, and files found here are checked before they are used.
"""

import errno
import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import PIL
from PIL import features

from fastlt.core.errors import UserError
from fastlt.core.files import sync
from fastlt.core.lock import Busy, locked
from fastlt.core.log import say
from fastlt.core.words import counted
from fastlt.data.convert.publish import occupied, put_in_place, state
from fastlt.data.shards.durable import Damaged, discard, first_problem, foreign, read_sealed, write_sealed
from fastlt.data.shards.format import DATASET_FILE, INDEX_FILE
from fastlt.data.shards.writer import Files

_NAMED = {"kind": "encode", "sha256": "the images"}  # what a user calls settings that are recorded by another name
_SHOWN = 60  # characters of a setting that an error message shows
_PATIENCE = 0.2  # seconds to wait for the lock; another conversion would take longer anyway
_OWN = ("lock", "conversion.json.tmp", "finished.json.tmp", "conversion.json", "finished.json")
# Increased whenever fastlt writes other bytes for the same input, or another layout of this folder. Unfinished work of
# another format is then not resumed.
_FORMAT = 5
PART_FILE = "dataset.json.part"  # tells a finished part of a conversion from a dataset, see parts.py
_SHARD = re.compile(r"([a-z]+-\d{6,})\.(tar|idx)")
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)


class InUse(UserError):
    """Another process works on the same dataset."""


class WorkFolder:
    """The work folder of a conversion to `out`. It is a context manager that holds the lock.

    about: the input and options of the conversion. Unfinished work is resumed only if it was begun with equal ones.
        None if the dataset in `out` is to grow or shrink; `concerns` sets them then.
    overwrite: whether a dataset in `out` may be replaced.
    anew: whether the shards of an unfinished conversion with other input or options may be removed.

    Raises UserError if `out` cannot be a dataset's folder. Entering it raises UserError if `out` exists and may not be
    replaced, or if another process converts to the same folder.
    """

    def __init__(self, out: Path, about: dict[str, Any] | None, overwrite: bool, anew: bool = False):
        self.out, self.overwrite, self._anew, self._changes = out, overwrite, anew, about is None
        # If `out` is a link, the work is done beside its target: renames stay on one file system, and the link remains.
        self.place = Path(os.path.realpath(out)) if out.is_symlink() or out.name in ("", "..") else out
        if Path(os.path.realpath(out)) in (Path.cwd(), *Path.cwd().parents):
            raise UserError(f"out={out} is the current folder, or one above it: name a folder in it")
        if self.place.is_symlink() or os.path.ismount(self.place):
            raise UserError(f"out={out} is a mount point or a loop of links: name a folder in it, or another one")
        self.root = self.place.with_name(self.place.name + ".partial")
        self.dataset, self.journal, self._old = (self.root / name for name in ("dataset", "journal", "old"))
        self._record, self._finished = self.root / "conversion.json", self.root / "finished.json"
        self.concerns(about)

    def concerns(self, about: dict[str, Any] | None) -> None:
        """Sets the input and options of the conversion."""
        software = {"format": _FORMAT, "pillow": PIL.__version__}
        software |= {name: features.version(name) for name in ("jpg", "zlib")}
        self._text = json.dumps({"software": software, "about": about}, sort_keys=True).encode()

    @property
    def seal(self) -> bytes:
        """Bytes that identify the input, options and software of the conversion; journal pages are sealed with them."""
        return self._text

    def __enter__(self) -> "WorkFolder":
        if not self.root.exists():
            self.check_free()
        if self.root.is_symlink() or (self.root.exists() and not self.root.is_dir()):
            raise UserError(f"{self.root} is no folder, a conversion works there: move it away")
        self._refuse_foreign(self.root)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.root / "lock", str(self.out), _PATIENCE))
            except Busy:
                raise InUse(
                    f"another process is converting to {self.out}: wait for it, or choose another out=DIR"
                ) from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check_free(self) -> None:
        """Raises UserError if `out` holds anything that may not be replaced."""
        if not occupied(self.place):
            return
        if not self.place.is_dir():
            raise UserError(f"out={self.out} is no folder: choose another one")
        if not self.overwrite:
            kind = "a finished dataset" if (self.place / DATASET_FILE).exists() else "not empty"
            raise UserError(f"out={self.out} is {kind}: choose another folder or add overwrite=true")
        if name := foreign(self.place) or _not_of_dataset(self.place):
            raise UserError(
                f"out={self.out} holds {name}, which no conversion wrote and overwrite=true would remove: "
                "move it away, or choose another folder"
            )

    def recover(self) -> bool:
        """Completes a conversion that was killed while its dataset was moved into place.

        Returns True if it was the same conversion as this one, so that nothing is left to do. The user had allowed that
        conversion to replace `out`, so overwrite=true is not needed again, unless `out` has changed since.
        """
        note = self._note()
        if note is not None and first_problem(_paths(self.place, note["files"]), f"checking {self.out}"):
            if problem := first_problem(_paths(self.dataset, note["files"]), f"checking {self.dataset}"):
                say(f"{problem[1]}: it is not put in the place of {self.out}")
                note = None
            else:
                if state(self.place) != note["replaces"]:
                    self._check_same()
                    self.check_free()
                self._put_in_place()
        if note is None:
            if self._old.is_dir() and not occupied(self.place):
                self._old.rename(self.place)
                sync(self.place.parent)
                say(f"{self.out} is the dataset again that was to be replaced")
            self._finished.unlink(missing_ok=True)
            return False
        say(f"{self.out} was cut off when it was complete already, and is in its place now")
        self.remove()
        return note["conversion"] == self._text.decode()

    def _check_same(self) -> None:
        """Raises UserError if another dataset is in `out` than the one whose successor is finished."""
        if self._changes and occupied(self.place):
            raise UserError(
                f"{self.root} holds what another dataset in {self.out} was to become: move {self.out} away to have "
                f"that, or remove {self.root} to keep {self.out}, and give the same command again"
            )

    def _note(self) -> dict[str, Any] | None:
        try:
            text = read_sealed(self._finished, b"finished")
        except Damaged as problem:
            say(f"{problem}: what it is about is checked anew")
            return None
        return None if text is None else json.loads(text)

    def prepare(self) -> None:
        """Creates the folders, or resumes an unfinished conversion with the same input and options.

        Raises UserError if the unfinished conversion had other input or options and has complete shards, which a
        mistyped command must not cost, unless they may be removed.
        """
        self._refuse_foreign(self.dataset, self.journal, self._old)
        why, difference = self._why_anew()
        if why:
            shards = sum(1 for _ in self.journal.glob("*.page"))
            if difference and shards and not self._anew:
                raise UserError(
                    f"{self.root} holds {counted(shards, 'shard')} of an unfinished conversion with other input or "
                    f"options ({difference}): give its command again to go on, or remove {self.root} to begin anew"
                )
            say(f"{self.root} {why}: starting again")
            self._record.unlink(missing_ok=True)
            discard(self.dataset)
            discard(self.journal)
        elif self._record.exists():
            say(f"resuming the conversion in {self.root}")
        write_sealed(self._record, self._text, b"conversion")
        self.dataset.mkdir(exist_ok=True)
        self.journal.mkdir(exist_ok=True)

    def _refuse_foreign(self, *folders: Path) -> None:
        for folder in folders:
            names = (_OWN, [own.name for own in (self.dataset, self.journal, self._old)]) if folder == self.root else ()
            if name := foreign(folder, *names):
                raise UserError(
                    f"{folder / name} is nothing that a conversion wrote: move it away and give the same command again"
                )

    def _why_anew(self) -> tuple[str, str]:
        """Returns why unfinished work is not resumed, "" if it is or if there is none, and the first of its settings
        that differs, "" if that is not why."""
        try:
            text = read_sealed(self._record, b"conversion")
        except Damaged:
            return f"has a damaged {self._record.name}", ""
        if text is None:
            return (f"has no {self._record.name}" if self.dataset.exists() or self.journal.exists() else ""), ""
        if text == self._text:
            return "", ""
        before, now = json.loads(text), json.loads(self._text)
        if before.get("software") != now["software"]:
            return "was begun by another version of fastlt or Pillow", ""
        return "was begun with other input or options", _difference(before, now)

    def take(self, files: Files, source: Path) -> None:
        """Puts files of the dataset in `source` into the new dataset, unchanged. They are not copied but linked, if the
        file system can do that, and so take no room."""
        for name in files:
            target = self.dataset / name
            target.unlink(missing_ok=True)
            if (source / name).is_symlink():  # a link to the link would lead elsewhere from here
                target.symlink_to(os.path.realpath(source / name))
                continue
            try:
                target.hardlink_to(source / name)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(source / name, target)
                sync(target)

    def publish(self, files: Files) -> None:
        """Moves the finished dataset into its place and cleans up.

        files: {name: (size, SHA-256)} of all files of the dataset, which must be on disk already. Raises UserError if
        `out` may not be replaced, or if a file changed during the conversion.
        """
        self.check_free()
        self._refuse_foreign(self.dataset)
        for path, size, _ in _paths(self.dataset, files):
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(f"{path} was changed during the conversion: give the same command again")
        for path in self.dataset.iterdir():
            if path.name not in files:  # belongs to a shard that is no part of the dataset any more
                path.unlink()
        sync(self.dataset)
        note = {"conversion": self._text.decode(), "files": files, "replaces": state(self.place)}
        write_sealed(self._finished, json.dumps(note).encode(), b"finished")
        sync(self.root)
        self._put_in_place()
        self.remove()

    def _put_in_place(self) -> None:
        if occupied(self.place):
            discard(self._old)
        put_in_place(self.dataset, self.place, self._old)

    def remove(self) -> None:
        """Removes the work folder's content. finished.json is removed last, so that a kill meanwhile does no harm."""
        try:
            for folder in (self.journal, self.dataset, self._old):
                discard(folder)
            for name in _OWN[1:]:
                (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            say(f"{self.root} could not be removed ({error.strerror}: {error.filename}): it is not needed any more")


def _difference(before: Any, now: Any) -> str:
    """Returns the first setting in which two records of JSON, which are not equal, differ, and its two values."""
    name = ""
    while isinstance(before, dict) and isinstance(now, dict):
        name = next(key for key in [*now, *before] if before.get(key) != now.get(key))
        before, now = before.get(name), now.get(name)
    name = _NAMED.get(name, name)
    told = f"{name} {before}, now {now}"
    return told if len(told) <= _SHOWN else name


def _not_of_dataset(folder: Path) -> str:
    """Returns the name of the first file of a folder that only is named like one of a dataset; "" if there is none.

    The tars of any WebDataset have the names of shards, and often an .idx beside them. They are shards if dataset.json
    lists them or, where that is missing or damaged, if there is an index.h5.
    """
    if (folder / PART_FILE).exists():
        return ""
    try:
        listed = {shard["name"] for shard in json.loads((folder / DATASET_FILE).read_text("utf-8"))["shards"]}
    except (OSError, ValueError, TypeError, KeyError):
        listed = None
    ours = listed is not None or (folder / INDEX_FILE).is_file()
    for name in sorted(path.name for path in folder.iterdir()):
        shard = _SHARD.fullmatch(name)
        known = name in (DATASET_FILE, INDEX_FILE) or (shard and (listed is None or f"{shard[1]}.tar" in listed))
        if not (ours and known):
            return name
    return ""


def _paths(folder: Path, files: Files) -> list[tuple[Path, int, str]]:
    return [(folder / name, size, sha256) for name, (size, sha256) in files.items()]
