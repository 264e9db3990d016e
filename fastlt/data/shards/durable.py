"""Sealed files: written completely or not at all, even if there is a power cut, with a hash that detects damage."""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastlt.core.log import Progress

# Names of the files that a conversion writes: shards and their indices, pages of the journal, index, description.
_OURS = re.compile(r"[a-z]+-\d{6,}\.(tar|idx)(\..+)?|(index\.h5|dataset\.json)(\..+)?")
_LINKED = re.compile(r"[a-z]+-\d{6,}\.tar")  # the names of shards that may be links to tars of the user
_SEAL = hashlib.sha256().digest_size


class Damaged(Exception):
    """Raised for a sealed file whose content differs from what was written, or that was written for another purpose."""


def write_sealed(path: Path, data: bytes, context: bytes) -> None:
    """Writes a SHA-256 followed by `data`, completely or not at all.

    context: says what the file is for, and is hashed too, so that a file of another context counts as damaged.

    After a power cut the previous file may be back, unless the folder is synced as well.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(hashlib.sha256(context + data).digest() + data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_sealed(path: Path, context: bytes) -> bytes | None:
    """Returns the data that `write_sealed` wrote with the same context; None if there is no file. Raises Damaged."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # reading a pipe might wait forever
            raise Damaged(f"{path} is no file")
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(context + content[_SEAL:]).digest() != content[:_SEAL]:
        raise Damaged(f"{path} is damaged or of another conversion")
    return content[_SEAL:]


def first_problem(files: Sequence[tuple[Path, int, str]], label: str) -> tuple[int, str] | None:
    """Finds the first file whose size or content is not as expected; None if all are.

    files: (path, size in bytes, SHA-256) of each; they are read in parallel. label: the label of the progress bar.

    Returns (position in `files`, a line that says what is wrong).
    """
    found = None
    for place, (path, size, _) in enumerate(files):
        if problem := _size_problem(path, size):
            found = place, f"{path} {problem}"
            files = files[:place]  # later files need not be read
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
        found = path.stat()  # a shard may be a link to a tar
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
    """Returns the name of the first entry of a folder that no conversion wrote; "" if there is none.

    files, folders: names of files and folders that are allowed in addition.
    """
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            file = (entry.name in files or _OURS.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
            file = file or (_LINKED.fullmatch(entry.name) and entry.is_symlink() and not entry.is_dir())
            if not file and not (entry.name in folders and entry.is_dir(follow_symlinks=False)):
                return entry.name
    return ""


def discard(folder: Path) -> None:
    """Removes a folder and the files that a conversion wrote there, if it exists. Raises OSError for any other file."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and not path.is_dir():
                path.unlink()
        folder.rmdir()
