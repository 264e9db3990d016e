"""Moves a finished dataset into its place. A kill or power cut at any moment loses neither it nor the old dataset."""

import contextlib
import ctypes
import errno
import hashlib
import os
from pathlib import Path

from fastlt.core.files import sync

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux
# Errors of a kernel, file system or sandbox that cannot exchange folders. If EPERM is about the permissions of the
# folder instead, the renames that follow raise it again.
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Exchanges the names of two folders in one atomic step; returns False if the system cannot do that.

    Raises OSError for any other error.
    """
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
    """Returns whether there is a file, or a folder that is not empty, at this path."""
    return os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir()))


def put_in_place(finished: Path, place: Path, aside: Path) -> None:
    """Moves the folder `finished` to `place`. A dataset that was there is afterwards in `finished` or in `aside`.

    There is a dataset in `place` at any moment, unless the system cannot exchange two folders: then `place` is missing
    between two renames, and the old dataset is in `aside`. All three paths must be on one file system.
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
    # The new names must be on disk before anything is removed.
    for folder in {place.parent, finished.parent}:
        sync(folder)


def state(folder: Path) -> str | None:
    """Returns a hash of the names, sizes and times of a folder's files, which tells whether it changed since.

    None for a folder that is empty or does not exist.
    """
    rows = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            rows.append(f"{entry.name}\0{found.st_size}\0{found.st_mtime_ns}")
    return hashlib.sha256("\0".join(sorted(rows)).encode("utf-8", "surrogateescape")).hexdigest() if rows else None
