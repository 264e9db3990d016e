"""A source of images inside Parquet files, as the `datasets` library of Hugging Face writes them."""

import bisect
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlt.core.errors import UserError, first_line
from fastlt.data.sources.base import SPLITS, Listing
from fastlt.data.sources.csv_rows import LABEL_NAMES
from fastlt.data.sources.labels import named, numbered
from fastlt.data.sources.listed import escaped
from fastlt.data.sources.packed_files import name_of, state_of
from fastlt.longtail.whole_groups import group_text

if TYPE_CHECKING:
    import pyarrow as pa

ENDS = (".parquet", ".pq")
_ROWS = 16  # that are read at once, which bounds the memory for row groups of any size
_BUFFER = 1 << 20  # bytes read from a file at once
_OPEN = 4  # files that a process keeps open, as near duplicates are compared across files


@dataclass(frozen=True)
class Parquet:
    """Images and labels in the rows of Parquet files. Needs pyarrow.

    files: {split: Parquet files}; `train` is required. All have the same columns.
    image_column: the column of images: a struct with the fields `bytes` and `path`, as `datasets` writes its feature
        Image, or the bytes of image files. By default the only such column.
    label_column: the column of labels: text or whole numbers. By default the only column of the feature ClassLabel,
        else the column with a usual name (`label`, `class`, ...).
    group_by: a column whose values become the groups of a listing; ignored if there is no column of this name.
    name: the name of the dataset.
    top: the folder that keys are relative to; by default the one that contains all files.

    If the schema's metadata (`huggingface`) has the names of the classes, class indices are those of the column, except
    that names without any image are left out. Otherwise classes are sorted by name, or by value if all are numbers.
    Samples keep the order of the rows. A key is `FILE/ROW`, or `FILE/ROW/PATH` if the image has a path; FILE is
    relative to `top`.

    Images are read a few rows at a time, never a whole file. The unit of reading is a page of the file, which bounds
    the memory.

    Raises UserError for a file that is no Parquet file, columns that are missing or not clear, differing columns or
    class names, an empty file of a split, and a label that is missing or unknown. `load` raises OSError for a row
    without bytes of an image, and UserError if the file has changed since it was listed.

    Example: Parquet({"train": [Path("data/train-00000-of-00001.parquet")]}).class_names
    """

    files: Mapping[str, list[Path]]
    image_column: str = ""
    label_column: str = ""
    group_by: str = ""
    name: str = "images"
    top: Path | None = None
    class_names: list[str] = field(init=False, compare=False, repr=False)
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _reader: "_Reader" = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        files = {split: [Path(file) for file in self.files[split]] for split in SPLITS if split in self.files}
        schema = _schema(files["train"][0])
        image = _image_column(files["train"][0], schema, self.image_column)
        label, names = _label_column(files["train"][0], schema, self.label_column)
        group = self.group_by if self.group_by in schema.names else ""
        starts, keys, labels, groups, states = {}, {}, {}, {}, {}
        top = self.top or Path(os.path.commonpath([file.parent for own in files.values() for file in own]))
        for split, own in files.items():
            starts[split], keys[split], labels[split], groups[split], states[split] = [0], [], [], [], []
            for file in own:
                _check_schema(file, _schema(file), schema, (image, label), group, files["train"][0])
                states[split].append(state_of(file))
                rows = _columns(file, name_of(file, top), image, label, group)
                keys[split] += rows[0]
                labels[split] += [rows[1]]
                groups[split] += rows[2]
                starts[split].append(len(keys[split]))
            if not keys[split]:
                raise UserError(f"{own[0]}: there is no row in it; leave the {split} split out")

        def where(split: str, place: int) -> str:
            return _place(files[split], starts[split], place)

        together = {split: _joined(own, names, split, where) for split, own in labels.items()}
        if names:
            class_names, classes = named(together, names, where, str(files["train"][0]))  # type: ignore[arg-type]
        else:
            class_names, classes = numbered(together, where, str(files["train"][0]))  # type: ignore[arg-type]
        splits = {split: Listing(keys[split], classes[split], groups[split] or None) for split in files}
        for attribute, value in (
            ("files", files),
            ("top", top),
            ("image_column", image),
            ("label_column", label),
            ("class_names", class_names),
            ("splits", splits),
            ("_reader", _Reader(files, states, starts, image)),
        ):
            object.__setattr__(self, attribute, value)

    def load(self, split: str, index: int) -> bytes:
        """Returns the unchanged bytes of an image's file. Raises OSError if the row has none, or cannot be read, and
        UserError if the file has changed since it was listed."""
        return self._reader.image(split, index)

    def where(self, split: str, index: int) -> str:
        """Returns file, row and path of a sample."""
        return (
            f"{_place(self._reader.files[split], self._reader.starts[split], index)} ({self.splits[split].keys[index]})"
        )


class _Reader:
    """Reads images by row. Every process opens files of its own.

    files: {split: its files}. states: {split: the `state_of` each file when it was listed}. starts: for each split the
    first row of every file, and the number of rows. column: of the images.
    """

    def __init__(
        self,
        files: dict[str, list[Path]],
        states: dict[str, list[tuple[int, int]]],
        starts: dict[str, list[int]],
        column: str,
    ):
        self.files, self._states, self.starts, self._column = files, states, starts, column
        self._process = os.getpid()
        self._cursors: dict[tuple[str, int], _Cursor] = {}  # by split and number of the file, the last used one last

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reader, (self.files, self._states, self.starts, self._column)

    def image(self, split: str, index: int) -> bytes:
        """Returns the bytes of an image. Raises OSError if the row has none, or if the file cannot be read.

        Raises UserError if the file has changed: another image may be in this row now.
        """
        if self._process != os.getpid():
            self._process, self._cursors = os.getpid(), {}
        number = bisect.bisect_right(self.starts[split], index) - 1
        path = self.files[split][number]
        if state_of(path) != self._states[split][number]:
            raise UserError(f"{path} has changed since it was listed: leave it alone, and give the command again")
        cursor = self._cursors.pop((split, number), None)
        try:
            cursor = cursor or _Cursor(path, self._column)
            value = cursor.value(index - self.starts[split][number])
        except (*_broken(), StopIteration, IndexError) as error:
            raise OSError(f"the file cannot be read ({first_line(error)})") from None
        self._cursors[split, number] = cursor
        if len(self._cursors) > _OPEN:
            del self._cursors[next(iter(self._cursors))]
        return _bytes_of(value)


class _Cursor:
    """A place in a file. Rows are cheap to read in ascending order; to go back, a row group is read from its start."""

    def __init__(self, path: Path, column: str):
        self._file, self._column = _opened(path), column
        sizes = [self._file.metadata.row_group(k).num_rows for k in range(self._file.num_row_groups)]
        self._groups = [0, *itertools.accumulate(sizes)]  # the first row of each row group, and the number of rows
        self._group = -1
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None
        self._first = self._end = 0  # the rows of the file that the batch holds

    def value(self, row: int) -> Any:
        """Returns the value of a row in the column."""
        group = bisect.bisect_right(self._groups, row) - 1
        if group != self._group or row < self._first:
            self._batches = self._file.iter_batches(
                _ROWS, row_groups=[group], columns=[self._column], use_threads=False
            )
            self._group, self._first, self._end = group, self._groups[group], self._groups[group]
        while row >= self._end:
            self._batch = next(self._batches).column(0)
            self._first, self._end = self._end, self._end + len(self._batch)
        return self._batch[row - self._first].as_py()


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path"):
            raise OSError(f"the row has only a path, {str(value['path'])[:200]}, but no bytes of the image")
        value = value.get("bytes")
    if value is None:
        raise OSError("the row has no image")
    return value


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"dataset=parquet needs the package pyarrow ({first_line(error)}): pip install 'fastlt[hf]'"
        ) from None
    return pyarrow


def _broken() -> tuple[type[Exception], ...]:
    return OSError, _pyarrow().ArrowException, ValueError  # what reading a damaged file raises


def _opened(file: Path) -> Any:
    # Without threads and read-ahead, so that forked processes may read, and that memory is bounded.
    return _pyarrow().parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turns errors of reading a file into a UserError that names it (context manager)."""
    try:
        yield
    except UserError:
        raise
    except _broken() as error:
        raise UserError(f"{file}: no Parquet file, or a damaged one ({first_line(error)})") from None


def _schema(file: Path) -> "pa.Schema":
    with _named(file), _opened(file) as opened:
        return opened.schema_arrow


def column_names(file: Path) -> list[str]:
    """Returns the names of the columns of a Parquet file. Raises UserError if it is none."""
    return _schema(file).names


def _features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """Returns {column: its feature} from the metadata that `datasets` writes; {} without such metadata."""
    try:
        text = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return {name: one for name, one in text["info"]["features"].items() if isinstance(one, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _is_binary(kind: "pa.DataType") -> bool:
    types = _pyarrow().types
    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_image(kind: "pa.DataType") -> bool:
    if _pyarrow().types.is_struct(kind):
        return any(part.name == "bytes" and _is_binary(part.type) for part in kind)
    return _is_binary(kind)


def _image_column(file: Path, schema: "pa.Schema", asked: str) -> str:
    found = [part.name for part in schema if _is_image(part.type)]
    if asked:
        if asked not in schema.names:
            raise UserError(f"{file}: image_column={asked} is no column: there are {', '.join(schema.names)}")
        if asked not in found:
            raise UserError(
                f"{file}: image_column={asked} holds {schema.field(asked).type}, not images (a struct with bytes, or "
                f"bytes); columns of images are {', '.join(found) or 'none'}"
            )
        return asked
    features = _features(schema)
    told = [name for name in found if features.get(name, {}).get("_type") == "Image"]
    found = told or found
    if not found:
        raise UserError(
            f"{file}: no column holds images (a struct with bytes, or bytes): there are {', '.join(schema.names)}"
        )
    if len(found) > 1:
        raise UserError(f"{file}: more than one column holds images, {', '.join(found)}: say image_column=NAME")
    return found[0]


def _label_column(file: Path, schema: "pa.Schema", asked: str) -> tuple[str, list[str]]:
    """Returns (the column of labels, the names of its classes; [] if the file does not say)."""
    features = _features(schema)
    told = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if asked:
        found = [name for name in schema.names if name == asked]
        if not found:
            raise UserError(f"{file}: label_column={asked} is no column: there are {', '.join(schema.names)}")
    else:
        plain = [name.lower().replace(" ", "_").replace("-", "_") for name in schema.names]
        usual = [name for name, text in zip(schema.names, plain, strict=True) if text == LABEL_NAMES[0]]
        usual = usual or [name for name, text in zip(schema.names, plain, strict=True) if text in LABEL_NAMES]
        found = told or usual
    if not found:
        raise UserError(
            f"{file}: no column is named as labels usually are: say label_column=NAME, one of {', '.join(schema.names)}"
        )
    if len(found) > 1:
        raise UserError(f"{file}: more than one column may hold the labels, {', '.join(found)}: say label_column=NAME")
    types, kind = _pyarrow().types, schema.field(found[0]).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not any(is_it(value) for is_it in (types.is_integer, types.is_floating, types.is_boolean, _is_text)):
        raise UserError(f"{file}: column {found[0]} holds {kind}; a label is one text or whole number in each row")
    names = features.get(found[0], {}).get("names")
    if found[0] in told and types.is_integer(value) and isinstance(names, list):
        return found[0], [str(name) for name in names]
    return found[0], []


def _is_text(kind: "pa.DataType") -> bool:
    types = _pyarrow().types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _check_schema(
    file: Path, schema: "pa.Schema", first: "pa.Schema", columns: tuple[str, str], group: str, first_file: Path
) -> None:
    if group and group not in schema.names:
        raise UserError(
            f"{file}: group_by={group} is no column of it, but one of {first_file}: give files of one dataset"
        )
    for column in columns:
        if column not in schema.names or schema.field(column).type != first.field(column).type:
            found = schema.field(column).type if column in schema.names else "none"
            raise UserError(
                f"{file}: column {column} is {found}, in {first_file} it is {first.field(column).type}: give files of "
                "one dataset"
            )
    names = [_features(one).get(columns[1], {}).get("names") for one in (schema, first)]
    if names[0] != names[1]:
        raise UserError(f"{file}: its classes have other names than those of {first_file}: give files of one dataset")


def _columns(
    file: Path, name: str, image: str, label: str, group: str
) -> tuple[list[str], "pa.ChunkedArray", list[str]]:
    """Returns (keys, labels, groups) of the rows of a file, without reading the images. name: of the file in keys."""
    with _named(file), _opened(file) as opened:
        kind = opened.schema_arrow.field(image).type
        path = hasattr(kind, "names") and "path" in kind.names
        wanted = [*([f"{image}.path"] if path else []), label, *([group] if group else [])]
        table = opened.read(columns=wanted, use_threads=False)
        keys = [f"{name}/{row}" for row in range(table.num_rows)]
        if path:
            paths = (row and row["path"] for row in table.column(image).to_pylist())
            keys = [f"{key}/{escaped(name)}" if name else key for key, name in zip(keys, paths, strict=True)]
        groups = [group_text(value) for value in table.column(group).to_pylist()] if group else []
        return keys, table.column(label), groups


def _joined(columns: "list[pa.ChunkedArray]", names: list[str], split: str, where: Any) -> np.ndarray | list[str]:
    """Returns the labels of a split: int64 [N] if they have names, else text."""
    found: list[Any] = []
    for column in columns:
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise UserError(f"{where(split, len(found) + row)}: no label; give each row one, or take the row out")
        found += column.to_pylist()
    if names:
        return np.array(found, np.int64)
    return [value if isinstance(value, str) else str(value) for value in found]


def _place(files: list[Path], starts: list[int], index: int) -> str:
    number = bisect.bisect_right(starts, index) - 1
    return f"{files[number]}: row {index - starts[number]}"
