"""Reads files of torch.save safely: damage is detected, and no code from a file is ever run.

torch.save writes a zip archive whose records have CRC-32 checksums, but torch.load ignores them, so that a flipped bit
silently becomes another weight. Here all checksums are compared. It is also checked that the tensors are not much
larger than the file, because a small file may claim any number of elements. Files written before torch 1.6 are a
sequence of pickles without checksums; they are read as well.
"""

import errno
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.core.files import AGAIN, replacing

_ZIP = b"PK\x03\x04"
_PIECE = 1 << 20  # bytes that are read at once to compare a checksum
_SIZES = 4  # the tensors may be so many times as large as the file, as several may share memory
_SPARE = 1 << 24  # and larger by so many bytes, which only matters for small files
_LEGACY_PICKLES = 5  # pickles of an old file: magic number, version, machine, saved object, names of storages
_MAKERS = ("builtins bytearray", "__builtin__ bytearray")  # torch.load lets a file call these with any size


class Unreadable(Exception):
    """Raised if a file cannot be read. Its message is one line that continues the path: "PATH is damaged: ..."."""

    def __init__(self, told: str):
        # The message may quote names from a damaged file, with line breaks and terminal control codes.
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in told))


class AsksToRun(Unreadable):
    """Raised if a file names a function that would be called when the file is read."""


def read_torch_file(path: Path, harmless: Sequence[Any] = ()) -> Any:
    """Returns the contents of a file of torch.save: plain values, and tensors on the CPU.

    harmless: further classes and functions that the file may name, as torch.serialization.safe_globals takes them.

    Raises Unreadable if there is no such file, if it is damaged, truncated or of another kind, or if its tensors would
    take far more memory than the size of the file. Raises AsksToRun, an Unreadable, if it names other functions.
    """
    if not path.is_file():
        raise Unreadable("is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist")
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) == _ZIP:
                _check_archive(file)
            else:
                file.seek(0)
                for _ in range(_LEGACY_PICKLES):
                    _check_calls(file)
            file.seek(0)  # the checked file object is read, and not the path, which may name another file by now
            # Torch also warns of what it then refuses with an error.
            with torch.serialization.safe_globals(list(harmless)), warnings.catch_warnings(action="ignore"):
                state = torch.load(file, map_location="cpu", weights_only=True)
            _check_size(state, path.stat().st_size)
            return state
    except Unreadable:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from None
    except zipfile.BadZipFile as error:
        raise Unreadable(f"is damaged: {reason(error)}") from None
    except Exception as error:  # damaged files raise nearly any exception of pickle, zipfile and torch
        if match := re.search(r"\bGLOBAL ([\w.]+)", str(error)):
            raise AsksToRun(f"asks to run {match[1]} when it is read, and was not read") from None
        raise Unreadable(f"is damaged, or no plain file of torch.save: {reason(error)}") from None


def write_torch_file(state: Any, path: Path, named: str = "", again: str = AGAIN, keep: Path | None = None) -> None:
    """Writes a state of tensors and plain values atomically; `read_torch_file` reads it.

    named, again, keep, and the errors raised: as in `fastlt.core.files.replacing`. Raises UserError, too, for a state
    with other objects, which `read_torch_file` would refuse.
    """
    with replacing(path, named, again, keep) as temporary, temporary.open("wb") as file:
        remembering = _Remembering(file)
        try:
            torch.save(state, remembering)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch raises this instead of the OSError of a failed write
            raise remembering.error or OSError(errno.EIO, reason(error), str(path)) from error
        file.flush()
        if refused := torch.serialization.get_unsafe_globals_in_checkpoint(temporary):
            raise UserError(
                f"{path} would hold {refused[0]}, which is not read again: only tensors, numbers, texts, lists and "
                "dicts may be in the state of a network or optimizer"
            )


class _Remembering:
    """A file for torch.save that keeps the OSError of a failed write, which torch.save does not pass on."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def reason(error: BaseException) -> str:
    """Returns the first line of an error's message, shortened, or the type of the error if it has no message."""
    # Torch's messages begin by recommending weights_only=False, which nobody should use on a file that was refused.
    text = re.sub(r"^Weights only load failed.*?(trusted source\.|WeightsUnpickler error:)", "", str(error), flags=re.S)
    text = re.sub(r"^\s*Please file an issue.*?WeightsUnpickler error:", "", text, flags=re.S)
    lines = text.strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__


def _check_archive(file: BinaryIO) -> None:
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = {record.filename for record in records}
        packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Unreadable(f"is no file of torch.save: its record {packed[0]} is compressed, torch.save stores them")
        # torch.save writes neither overlapping records nor two of the same name.
        if len(names) < len(records) or sum(record.file_size for record in records) > size:
            raise Unreadable("is damaged: its records do not fit into it")
        for record in records:
            with archive.open(record) as data:
                while data.read(_PIECE):  # zipfile compares the checksum at the end of the record
                    pass
            if record.filename.endswith(".pkl"):
                with archive.open(record) as data:
                    _check_calls(data)


def _check_calls(pickled: IO[bytes]) -> None:
    """Raises AsksToRun if the pickle at the current position of a file names one of _MAKERS."""
    for operation, named, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL" and named in _MAKERS:
            raise AsksToRun(f"asks to run {str(named).replace(' ', '.')} when it is read, and was not read")


def _check_size(state: Any, size: int) -> None:
    """Raises Unreadable if the tensors are far larger than the file, as one stored element may be expanded to many.

    size: of the file in bytes.
    """
    dense = (tensor for tensor in _tensors(state) if tensor.layout == torch.strided and not tensor.is_meta)
    held = sum(tensor.numel() * tensor.element_size() for tensor in dense)
    if held > _SIZES * size + _SPARE:
        raise Unreadable(f"holds tensors of {held:,} bytes in {size:,}: save them as they are, not expanded")


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yields all tensors in nested dicts, lists and tuples, each object once."""
    waiting, seen = [state], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set):
            waiting.extend(value)
