"""Files that a kill or a power cut leaves whole or not at all, and that tell when they were damaged afterwards."""

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastlt.core.log import Progress

# What a conversion writes: shards with what lies beside them, the journal's pages, index and description.
_OURS = re.compile(r"[a-z]+-\d{6,}\.(tar|idx)(\..+)?|(index\.h5|dataset\.json)(\..+)?")
_SEAL = hashlib.sha256().digest_size


class Damaged(Exception):
    """A sealed file does not hold what was written, or was written for something else."""


def sync(path: Path) -> None:
    """Until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing for folders
            raise
    finally:
        os.close(descriptor)


def write_sealed(path: Path, data: bytes, context: bytes) -> None:
    """Writes `data` behind its SHA-256: whole or not at all. context: what it is for, part of what is hashed.

    After a power cut the file may be the one before, unless its folder is synced, too.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(context + data).digest() + data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_sealed(path: Path, context: bytes) -> bytes | None:
    """What `write_sealed` wrote with the same context; None if there is no file. Raises Damaged."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # anything else might keep its reader waiting
            raise Damaged(f"{path} is no file")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(context + content[_SEAL:]).digest() != content[:_SEAL]:
        raise Damaged(f"{path} is damaged or of another conversion")
    return content[_SEAL:]


def first_problem(files: Sequence[tuple[Path, int, str]], label: str) -> tuple[int, str] | None:
    """The first of `files` that has not the size in bytes and the SHA-256 beside it: its place, and a line about it.

    Files are read side by side. label: of the progress shown.
    """
    found = None
    for place, (path, size, _) in enumerate(files):
        if problem := _size_problem(path, size):
            found = place, f"{path} {problem}"
            files = files[:place]  # what lies behind needs no reading
            break
    threads = min(8, len(os.sched_getaffinity(0)))
    total = sum(size for _, size, _ in files)
    with Progress(label, -(-total // 1_000_000), "MB") as progress, ThreadPoolExecutor(threads) as pool:
        done = 0
        for place, problem in enumerate(pool.map(_content_problem, files)):
            if problem:
                pool.shutdown(cancel_futures=True)
                return place, f"{files[place][0]} {problem}"
            done += files[place][1]
            progress.advance(done // 1_000_000 - progress.done)
    return found


def _size_problem(path: Path, size: int) -> str:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    return f"has {found.st_size:,} bytes, {size:,} were written" if found.st_size != size else ""


def _content_problem(file: tuple[Path, int, str]) -> str:
    path, _, sha256 = file
    try:
        with path.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if found == sha256 else "is damaged (other bytes than were written)"


def foreign(folder: Path, files: Sequence[str] = (), folders: Sequence[str] = ()) -> str:
    """The name of something in a folder that is no file of a conversion, nor of these names; empty if there is none."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            file = (entry.name in files or _OURS.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
            if not file and not (entry.name in folders and entry.is_dir(follow_symlinks=False)):
                return entry.name
    return ""


def discard(folder: Path) -> None:
    """Removes a folder with what a conversion wrote there, if it exists; raises OSError if it holds anything else."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and not path.is_dir():
                path.unlink()
        folder.rmdir()
