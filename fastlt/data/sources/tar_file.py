"""Opens tar archives of strangers: a small file must not take much memory."""

import lzma
import tarfile
import zlib
from pathlib import Path

BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)  # what reading a damaged archive raises
_LARGEST = 1 << 20  # bytes of a header that describes the next member by long names or other attributes
_DESCRIBING = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Member(tarfile.TarInfo):
    """A member whose describing headers, which tarfile reads into memory as a whole, have a limited size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type in _DESCRIBING and member.size > _LARGEST:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes, at most {_LARGEST:,} are read")
        return member


def open_tar(path: Path) -> tarfile.TarFile:
    """Opens an archive of any compression for reading, for a `with` statement.

    Opening it, and going through its members, raises one of BROKEN if it is damaged or no archive.
    """
    return tarfile.open(path, "r:*", tarinfo=_Member)


def open_plain_tar(path: Path) -> tarfile.TarFile:
    """The same for an archive that is not compressed, so that members can be read at their offsets."""
    return tarfile.open(path, "r:", tarinfo=_Member)


def is_tar(path: Path) -> bool:
    """Returns whether a file is a tar archive that can be opened."""
    try:
        with open_tar(path):
            return True
    except BROKEN:
        return False
