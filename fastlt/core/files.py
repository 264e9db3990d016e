"""Writes files atomically.

A file is written under a temporary name beside its final path, flushed to the disk and renamed, and then its folder is
flushed. A kill, a full disk or a power cut at any moment leaves either the old file or the complete new one.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from fastlt.core.errors import UserError

AGAIN = "give the same command again"
_REMEDIES = {
    errno.ENOSPC: "make room and {again}",
    errno.EDQUOT: "make room within your quota and {again}",
    errno.EISDIR: "move that folder away and {again}",
    errno.ENOTEMPTY: "move that folder away and {again}",
    errno.ENOTDIR: "move the file away that stands where a folder is needed and {again}",
    errno.EEXIST: "move the file away that stands where a folder is needed and {again}",
}
# What a file system may refuse. Other errors, such as a missing file, may be faults of the code.
_REFUSALS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow it, or choose another place"),
    **{number: _REMEDIES[number] for number in (errno.ENOSPC, errno.EDQUOT)},
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead to each other, choose another place",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE), "mend that and {again}"),
}


def refused(error: OSError) -> str:
    """Returns an error of the file system as a line that names the file and what to do.

    Returns "" if it may be a fault of the code, as when a file is missing.
    """
    if error.errno not in _REFUSALS:
        return ""
    place = os.fsdecode(error.filename) if error.filename else "a file"
    return f"{place}: {error.strerror}: {_REFUSALS[error.errno].format(again=AGAIN)}"


class NotWritten(UserError):
    """A file could not be written. The file that was there before is unchanged."""


@contextlib.contextmanager
def writing(path: Path, named: str = "", again: str = AGAIN) -> Iterator[None]:
    """Context manager that turns an OSError inside into NotWritten, whose message says what is wrong and what to do.

    named: the file as the user named it, such as `--out=FILE`; default: the path.
    again: what the user should do once the disk has room, for the message.
    """
    try:
        yield
    except OSError as error:
        place = Path(os.fsdecode(error.filename2 or error.filename or path))
        other = f", {place}" if place != path and os.path.lexists(place) else ""
        remedy = _REMEDIES.get(error.errno or 0, "allow writing there, or choose another place").format(again=again)
        reason = error.strerror or str(error)
        raise NotWritten(f"{named or path} cannot be written ({reason}{other}): {remedy}") from error


@contextlib.contextmanager
def replacing(
    path: Path, named: str = "", again: str = AGAIN, keep: Path | None = None, shared: bool = False
) -> Iterator[Path]:
    """Context manager that yields a temporary path to write, and renames that file to `path` at the end.

    If anything fails, the temporary file is removed and `path` stays as it was. Missing folders are made.

    named, again: as in `writing`.
    keep: where the present file at `path` is moved to; None replaces it.
    shared: other processes may write the same file at the same time, so the temporary name must be unique.

    Raises NotWritten if the file cannot be written, and whatever is raised inside.

    Example:

        with replacing(out / "figure.png") as temporary:
            figure.savefig(temporary, format="png")
    """
    own = f".{socket.gethostname()}-{os.getpid()}" if shared else ""
    temporary = path.with_name(f"{path.name}{own}.tmp")
    try:
        with writing(path, named, again):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            yield temporary
            sync(temporary)
            if keep is not None and path.exists():
                path.replace(keep)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # exists only if something failed before it was renamed


def write_file(path: Path, content: str | bytes, named: str = "", again: str = AGAIN, shared: bool = False) -> None:
    """Writes a file atomically; text is encoded as UTF-8 with its line breaks unchanged.

    named, again, shared: as in `replacing`. Raises NotWritten if the file cannot be written.
    """
    with replacing(path, named, again, shared=shared) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))


def sync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support fsync on folders
            raise
    finally:
        os.close(descriptor)
