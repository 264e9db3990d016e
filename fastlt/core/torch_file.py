"""Files of torch.save, read only if they are what was written. Nothing that a file contains is ever run.

torch.save writes a zip archive, each record stored as it is with a CRC-32, and torch.load looks at none of these: a
flipped bit becomes another weight. Here all of them are checked, and a file never takes more memory than its size
allows: a small one may claim any number of elements. Files of before torch 1.6 are a row of pickles without checksums;
they are read, too.
"""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

_ZIP = b"PK\x03\x04"
_PIECE = 1 << 20  # bytes that are checked at once
_SIZES = 4  # tensors that share memory, or a few that repeat themselves, may be so many times as large as the file
_SPARE = 1 << 24  # bytes; in a small file they may be larger yet
_LEGACY_PICKLES = 5  # magic number, version, machine, what was saved, names of the tensors' memory
_MAKERS = ("builtins bytearray", "__builtin__ bytearray")  # torch lets a file call it with any number of bytes


class Unreadable(Exception):
    """Why a file was not read: what follows its name in a message, in one line."""

    def __init__(self, told: str):
        # A damaged file's own names may be in it, with line breaks and codes for a terminal.
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in told))


class AsksToRun(Unreadable):
    """The file names a function that is to be called."""


def read_torch_file(path: Path, harmless: Sequence[Any] = ()) -> Any:
    """What a file of torch.save holds: tensors, on the CPU, and plain values.

    harmless: what else it may name, as torch.serialization.safe_globals takes it. Raises Unreadable, or AsksToRun, if
    there is no such file, if it is damaged, cut off or another kind of file, if it asks for more than tensors and plain
    values, or if these would take far more memory than the size of the file.
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
            file.seek(0)  # what was checked is what is read, whatever takes the path meanwhile
            # Torch warns of what it then refuses.
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
    except Exception as error:  # damage shows as nearly any error of pickle, zipfile or torch
        if match := re.search(r"\bGLOBAL ([\w.]+)", str(error)):
            raise AsksToRun(f"asks to run {match[1]} when it is read, and was not read") from None
        raise Unreadable(f"is damaged, or no plain file of torch.save: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """The first line of an error, in brief; its kind if it says nothing."""
    # Torch's preamble recommends weights_only=False, which nobody should do to a file that was just refused.
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
        # Records that overlap, or one name for two of them, are not what torch.save writes, either.
        if len(names) < len(records) or sum(record.file_size for record in records) > size:
            raise Unreadable("is damaged: its records do not fit into it")
        for record in records:
            with archive.open(record) as data:
                while data.read(_PIECE):  # zipfile compares the checksum when it comes to the end
                    pass
            if record.filename.endswith(".pkl"):
                with archive.open(record) as data:
                    _check_calls(data)


def _check_calls(pickled: IO[bytes]) -> None:
    """Raises AsksToRun if the pickle at this place of a file names one of _MAKERS."""
    for operation, named, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL" and named in _MAKERS:
            raise AsksToRun(f"asks to run {str(named).replace(' ', '.')} when it is read, and was not read")


def _check_size(state: Any, size: int) -> None:
    """Raises Unreadable if the tensors together are far larger than the file: one element may stand for all."""
    dense = (tensor for tensor in _tensors(state) if tensor.layout == torch.strided and not tensor.is_meta)
    held = sum(tensor.numel() * tensor.element_size() for tensor in dense)
    if held > _SIZES * size + _SPARE:
        raise Unreadable(f"holds tensors of {held:,} bytes in {size:,}: save them as they are, not expanded")


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples, each object once."""
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
