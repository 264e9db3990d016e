"""Puts a finished dataset in its place; a kill or a power cut at any moment loses neither it nor the old one."""

import contextlib
import ctypes
import errno
import hashlib
import os
from pathlib import Path

from fastlt.data.shards.durable import sync

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux
# The kernel, the file system or a sandbox does not know how; EPERM shows again if it is about the folder.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Gives each of two folders the other's name, in one step; False where the system cannot do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _UNABLE:
        return False
    raise OSError(error, os.strerror(error), str(one), None, str(other))


def occupied(folder: Path) -> bool:
    """Whether anything would be lost if the folder were replaced."""
    return os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))


def put_in_place(finished: Path, place: Path, aside: Path) -> None:
    """Moves the folder `finished` to `place`. What was there is afterwards in `finished` or in `aside`.

    There is no moment without a dataset in `place`, but where the system cannot exchange two folders: there the old
    one is in `aside` for the moment between two renames. All three are on one file system.
    """
    if not occupied(place):
        finished.rename(place)
    elif not exchange(finished, place):
        place.rename(aside)
        try:
            finished.rename(place)
        except BaseException:
            aside.rename(place)
            raise
    # Nothing may be removed before the new names are on the disk.
    for folder in {place.parent, finished.parent}:
        sync(folder)


def state(folder: Path) -> str | None:
    """Tells whether a folder is still what it was: a hash of names, sizes and times; None if there is nothing in it."""
    rows = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            rows.append(f"{entry.name}\0{found.st_size}\0{found.st_mtime_ns}")
    return hashlib.sha256("\0".join(sorted(rows)).encode("utf-8", "surrogateescape")).hexdigest() if rows else None
