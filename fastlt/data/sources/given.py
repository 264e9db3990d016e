"""Images in Python for `fastlt.write_dataset`: pairs, map-style datasets, tables of pandas, polars or pyarrow."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastlt.core.errors import UserError
from fastlt.data.sources.base import SPLITS, split_named
from fastlt.data.sources.csv_rows import Columns, find_columns
from fastlt.longtail.whole_groups import group_text


@dataclass(frozen=True)
class Item:
    """An image of a map-style dataset, which is fetched when it is converted: `dataset[index][0]`."""

    dataset: Any
    index: int

    def fetch(self) -> Any:
        """Returns the image. Raises OSError if the dataset raises anything."""
        try:
            return self.dataset[self.index][0]
        except Exception as error:  # a user's dataset may raise anything, and one bad image is one line
            raise OSError(f"dataset[{self.index}] raises {type(error).__name__}: {error}") from None


class Given(NamedTuple):
    """The examples of every split, in the form of `Examples`, and the names of the classes if the source tells them."""

    examples: dict[str, Iterable[tuple[Any, ...]]]
    class_names: list[str]


def given_examples(splits: dict[str, Any], columns: Columns, root: Path | None) -> Given:
    """Returns the examples in {split: pairs, a map-style dataset or a table}.

    Pairs are (image, label) or (image, label, group).
    A map-style dataset has `len` and gives (image, label) for an index, as those of torchvision do. Its images are
        fetched one by one when they are converted. Labels are its `targets` (after its `target_transform`) if it has
        them and an item of each class agrees, else every item is fetched once more to see its label. A folder dataset
        of torchvision (`samples`) without a transform or loader of the user gives the files themselves. If labels
        are numbers and `classes` is a list of texts, these are the names of the classes. Every dataset numbers them in
        its own way; one without names of its own has the numbers of train.
    A table of pandas, polars or pyarrow has a column of images (paths or anything else that is an image) and one of
        labels, which are found as those of a CSV table are. A column of splits divides a table that is given as train.

    columns: the names of the columns of tables. root: the folder that paths in tables are relative to.
    """
    found: dict[str, Iterable[tuple[Any, ...]]] = {}
    told: dict[str, list[str]] = {}
    for split, one in splits.items():
        if is_table(one):
            for own, rows in _rows_of_table(one, split, columns, root).items():
                if own in found:
                    raise UserError(f"there are two sources of {own}: the table of {split} has rows of it, too")
                found[own] = rows
        elif _is_map_style(one):
            found[split] = list(_items(one))
            if names := _names_of(one, found[split]):
                told[split] = names
        else:
            found[split] = one
    names = told.get("train", [])
    if names:  # numbers become names, so that a class without an image does not shift the others
        found = {split: [_with_name(pair, told.get(split, names)) for pair in pairs] for split, pairs in found.items()}
        used = {pair[1] for pair in found["train"]}
        names = [name for name in names if name in used]
    return Given(found, names)


def _names_of(dataset: Any, pairs: Iterable[tuple[Any, ...]]) -> list[str]:
    """Returns the names that `classes` of a map-style dataset gives to its numbers; [] if it gives none."""
    told = getattr(dataset, "classes", None)
    if not isinstance(told, list | tuple) or not all(isinstance(name, str) for name in told):
        return []
    if getattr(dataset, "target_transform", None) is not None:  # its numbers are other ones than those of `classes`
        return []
    present = {label for _, label in pairs if not isinstance(label, str)}
    return list(told) if present and max(present) < len(told) else []


def _with_name(pair: tuple[Any, ...], names: list[str]) -> tuple[Any, ...]:
    image, label, *group = pair
    return image, label if isinstance(label, str) or not 0 <= int(label) < len(names) else names[int(label)], *group


def _is_map_style(one: Any) -> bool:
    lists = isinstance(one, list | tuple | dict | str | bytes)
    return not lists and hasattr(one, "__getitem__") and hasattr(one, "__len__")


def _items(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yields (image that is fetched later, label) for every item of a map-style dataset."""
    changed = getattr(dataset, "target_transform", None) or (lambda label: label)
    if _gives_files(dataset):
        yield from ((Path(path), _plain(changed(label))) for path, label in dataset.samples)
        return
    targets = getattr(dataset, "targets", None)
    count = len(dataset)
    labels = []
    if targets is not None and hasattr(targets, "__len__") and len(targets) == count:
        labels = [_plain(changed(_plain(label))) for label in targets]
    if not labels or not _agree(dataset, labels):
        labels = [_label_of(dataset, index) for index in range(count)]
    for index, label in enumerate(labels):
        yield Item(dataset, index), label


def _gives_files(dataset: Any) -> bool:
    """Returns whether the images of a dataset are its `samples`, files that torchvision and nothing else opens."""
    if not isinstance(getattr(dataset, "samples", None), list) or getattr(dataset, "transform", None) is not None:
        return False
    opened_by = type(dataset).__getitem__, getattr(dataset, "loader", None)
    return all(getattr(one, "__module__", None) == "torchvision.datasets.folder" for one in opened_by)


def _agree(dataset: Any, labels: list[Any]) -> bool:
    """Returns whether a dataset gives these labels with its items, by the first item of every label."""
    if hasattr(dataset, "target_transform"):  # torchvision's way to give other labels than `targets`, known by now
        return True
    for index in {repr(label): index for index, label in reversed(list(enumerate(labels)))}.values():
        try:
            own = _plain(dataset[index][1])
        except Exception:  # a user's dataset may raise anything; this image is a bad one then
            continue
        if isinstance(own, str | int | float) and own != labels[index]:
            return False
    return True


def _plain(label: Any) -> Any:
    """Returns a number of NumPy or torch as one of Python, and anything else as it is."""
    return label.item() if hasattr(label, "item") else label


def _label_of(dataset: Any, index: int) -> Any:
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(f"item {index} of the dataset is a {type(item).__name__}: (image, label) is needed")
    return _plain(item[1])


def is_table(one: Any) -> bool:
    """Returns whether an object is a table of pandas, polars or pyarrow."""
    kind = type(one)
    return kind.__module__.split(".")[0] in ("pandas", "polars", "pyarrow") and hasattr(one, "columns")


def _column(table: Any, name: Any) -> list[Any]:
    if hasattr(table, "to_pylist"):  # of pyarrow
        return table.column(name).to_pylist()
    return table[name].to_list() if hasattr(table[name], "to_list") else list(table[name])


def _rows_of_table(table: Any, split: str, columns: Columns, root: Path | None) -> dict[str, Iterable[tuple[Any, ...]]]:
    """Returns {split: (image, label) or (image, label, group) of every row}."""
    names = list(table.column_names if hasattr(table, "column_names") else table.columns)
    place = Path(f"the table of {split}")
    found = find_columns(place, 1, [str(name) for name in names], columns, tell=True)
    images = [_image(value, root) for value in _column(table, names[found.path])]
    parts = [images, _column(table, names[found.label])]
    if found.group is not None:
        parts.append([group_text(value) for value in _column(table, names[found.group])])
    rows = list(zip(*parts, strict=True))
    for number, row in enumerate(rows):
        if row[1] is None or type(row[1]).__name__ == "NAType" or row[1] != row[1]:  # NaN differs from itself
            raise UserError(f"{place}, row {number}: no label; give it one, or take the row out")
    if found.split is None:
        return {split: rows}
    own: dict[str, Iterable[tuple[Any, ...]]] = {}
    for number, (text, row) in enumerate(zip(_column(table, names[found.split]), rows, strict=True)):
        named = split_named(str(text).strip()) or ""
        if named not in SPLITS:
            raise UserError(f"{place}, row {number}: unknown split {text!r}; allowed: {', '.join(SPLITS)}")
        own.setdefault(named, []).append(row)  # type: ignore[union-attr]
    return own


def _image(value: Any, root: Path | None) -> Any:
    """Returns an image of a table: a path below the root, the bytes in a struct of `datasets`, or the value itself."""
    if isinstance(value, dict) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    return root / value if isinstance(value, str | Path) and root is not None else value
