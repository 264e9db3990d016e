"""A source of images in LMDB databases, in the two layouts that image datasets have."""

import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError, first_line
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.labels import numbered
from fastlt.data.sources.listed import escaped, shown
from fastlt.data.sources.packed_files import name_of

_FILE = "data.mdb"
ENDS = (_FILE, ".lmdb")  # a database is a folder with data.mdb in it, or a file
_PICKLE = b"\x80"  # the first byte of a pickle of protocol 2 or later; no image file begins with it
_SHOWN = 60  # characters of a key that messages show


@dataclass(frozen=True)
class Lmdb:
    """Images and labels in LMDB databases. Needs the package lmdb.

    files: {split: database files}; `train` is required.
    name: the name of the dataset.
    top: the folder that keys are relative to; by default the one that contains all databases.

    Two layouts are read. Either a value is an image file and its key is `CLASS/...`; or a value is a pickle of
    (image file, label), label a number or a text, as scripts for ImageNet write it. Keys that begin with `__`, such as
    `__len__`, are skipped. Classes are sorted by name, or by value if all are numbers. Samples keep the order of the
    database, which is that of the keys' bytes. The key of a listing is `DATABASE/KEY`; DATABASE is relative to `top`,
    and KEY has escapes if it is no line of UTF-8.

    A pickle can name code to run. Nothing that is named is run here: a value that names anything is refused.

    Raises UserError for a file that is no LMDB database or is cut short, for a value of neither layout, and for a label
    that is neither a number nor a text. `load` raises OSError for a value that is gone.

    Example: Lmdb({"train": [Path("train.lmdb/data.mdb")]}).class_names
    """

    files: Mapping[str, list[Path]]
    name: str = "images"
    top: Path | None = None
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _reader: "_Reader" = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        files = {split: [Path(file) for file in self.files[split]] for split in SPLITS if split in self.files}
        databases = {file: file.parent if file.name == _FILE else file for own in files.values() for file in own}
        top = self.top or Path(os.path.commonpath([database.parent for database in databases.values()]))
        reader, keys, labels, places = _Reader(), {}, {}, {}
        for split, own in files.items():
            keys[split], labels[split], places[split] = [], [], []
            for file in own:
                name = name_of(databases[file], top)
                name = databases[file].resolve().name if name == "." else name  # `top` is the folder of a database
                for key, label in reader.samples(file):
                    keys[split].append(f"{name}/{escaped(key.decode('utf-8', 'surrogateescape'))}")
                    labels[split].append(label)
                    places[split].append((file, key))
            if not keys[split]:
                raise UserError(f"{own[0]}: there is no image in it; leave the {split} split out")

        def where(split: str, index: int) -> str:
            return _place(*places[split][index])

        class_names, classes = numbered(labels, where, str(files["train"][0]))
        reader.places = places
        splits = {split: Listing(keys[split], classes[split]) for split in files}
        for attribute, value in (
            ("files", files), ("top", top), ("class_names", class_names), ("splits", splits), ("_reader", reader),
        ):  # fmt: skip
            object.__setattr__(self, attribute, value)

    def load(self, split: str, index: int) -> bytes:
        """Returns the unchanged bytes of an image's file. Raises OSError if they cannot be read."""
        return self._reader.image(split, index)

    def where(self, split: str, index: int) -> str:
        """Returns database and key of a sample."""
        return _place(*self._reader.places[split][index])


class _Reader:
    """Reads databases, which every process opens for itself. places: {split: (file, key) of every sample}."""

    def __init__(self, places: dict[str, list[tuple[Path, bytes]]] | None = None):
        self.places = places or {}
        self._process, self._open = os.getpid(), {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reader, (self.places,)

    def samples(self, file: Path) -> list[tuple[bytes, str]]:
        """Returns (key, label as text) of every sample in a database."""
        found = []
        try:
            with self._database(file).begin() as transaction:
                for key, value in transaction.cursor():
                    if not key.startswith(b"__"):
                        found.append((key, _label(file, key, value)))
        except _errors() as error:
            raise UserError(f"{file} is damaged ({first_line(error)}): write it anew") from None
        return found

    def image(self, split: str, index: int) -> bytes:
        """Returns the bytes of an image. Raises OSError if they cannot be read."""
        file, key = self.places[split][index]
        try:
            with self._database(file).begin() as transaction:
                value = transaction.get(key)
        except (UserError, *_errors()) as error:
            raise OSError(f"the database cannot be read ({first_line(error)})") from None
        if value is None:
            raise OSError("the database has no such key any more")
        return value if not value.startswith(_PICKLE) else _unpickled(file, key, value)[0]

    def _database(self, file: Path) -> Any:
        if self._process != os.getpid():
            self._process, self._open = os.getpid(), {}
        if file not in self._open:
            self._open[file] = _opened(file)
        return self._open[file]


def _opened(file: Path) -> Any:
    """Returns a database, opened to be read. Raises UserError for a file that is none, or is cut short."""
    lmdb = _library()
    try:
        database = lmdb.open(str(file), subdir=False, readonly=True, lock=False, readahead=False, create=False)
        needed = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    except lmdb.Error as error:
        raise UserError(f"{file} is no LMDB database ({first_line(error)})") from None
    # LMDB maps the file: reading beyond its end would end the process.
    if (size := file.stat().st_size) < needed:
        raise UserError(f"{file} is truncated: {size:,} bytes, its header tells of {needed:,}; copy it again")
    return database


def _library() -> Any:
    try:
        import lmdb
    except ImportError:
        raise UserError("dataset=lmdb needs the package lmdb: pip install 'fastlt[lmdb]'") from None
    return lmdb


def _errors() -> tuple[type[Exception], ...]:
    return (_library().Error, OSError)


def _label(file: Path, key: bytes, value: bytes) -> str:
    if value.startswith(_PICKLE):
        label = _unpickled(file, key, value)[1]
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise UserError(
                f"{_place(file, key)}: its label is a {type(label).__name__}, allowed are numbers and texts"
            )
        return str(label)
    name, slash, _ = key.decode("utf-8", "surrogateescape").partition("/")
    if not slash:
        raise UserError(
            f"{_place(file, key)}: this sample has no label; allowed are keys CLASS/NAME with images as values, and "
            "values that are pickles of (image, label)"
        )
    return name


class _Refused(Exception):
    """Raised for a pickle that names anything."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise _Refused(f"{module_name}.{global_name}")


def _unpickled(file: Path, key: bytes, value: bytes) -> tuple[bytes, Any]:
    """Returns (image file, label) of a pickled value."""
    try:
        content = _PlainUnpickler(io.BytesIO(value)).load()
    except _Refused as refused:
        raise UserError(
            f"{_place(file, key)}: refused to load {shown(str(refused))} from this pickle, nothing of it was run; only "
            "bytes, numbers and texts are read"
        ) from None
    except Exception as error:  # damaged bytes can raise anything
        raise UserError(f"{_place(file, key)}: its pickle cannot be read ({first_line(error)})") from None
    fits = isinstance(content, tuple | list) and len(content) == 2 and isinstance(content[0], bytes)
    if not fits:
        raise UserError(f"{_place(file, key)}: its pickle holds no pair of image file and label")
    return content[0], content[1]


def _place(file: Path, key: bytes) -> str:
    return f"{file}, key {shown(key.decode('utf-8', 'surrogateescape')[:_SHOWN])}"
