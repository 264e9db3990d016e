"""Checks the labels, splits and class names of features from a file, and converts them to indices."""

from collections.abc import Sequence

import numpy as np

from fastlt.core.errors import UserError

SPLITS = ("train", "val", "test")


def plain(values: np.ndarray, name: str) -> np.ndarray:
    """Returns a column [N] as whole numbers, int64, or as strings. Raises UserError for other values.

    name: of the column, for the error message.
    """
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    if values.dtype.kind in "SO":
        try:
            texts = [one.decode() if isinstance(one, bytes) else one for one in values.tolist()]
        except UnicodeDecodeError:
            raise UserError(f"{name} holds bytes that are not UTF-8: save strings") from None
        _all_fit(np.array([isinstance(text, str) for text in texts], bool), texts, name)
        return np.array(texts, str)
    if values.dtype.kind == "U":
        return values
    if values.dtype.kind == "f" and values.ndim == 1:
        _all_fit(np.isfinite(values) & (values == np.round(values)), values, name)
        return values.astype(np.int64)
    raise UserError(f"{name} holds values of type {values.dtype}: whole numbers or strings are needed")


def _all_fit(fit: np.ndarray, values: Sequence[object] | np.ndarray, name: str) -> None:
    """Raises UserError that names the first value, such as a missing one, for which `fit`, bool [N], is false."""
    if not fit.all():
        row = int(np.argmin(fit))
        raise UserError(f"{name} of row {row} is {values[row]}: whole numbers or strings are needed")


def split_numbers(values: np.ndarray) -> np.ndarray:
    """Returns the index of each row's split in SPLITS, int8 [N]. Raises UserError for another name of a split."""
    found = np.full(len(values), -1, np.int8)
    for number, name in enumerate(SPLITS):
        found[values == name] = number
    if (found < 0).any():
        row = int(np.argmax(found < 0))
        raise UserError(f"split of row {row} is {values[row]}: allowed are {', '.join(SPLITS)}")
    return found


def class_numbers(labels: np.ndarray, splits: np.ndarray, named: np.ndarray | None) -> tuple[list[str], np.ndarray]:
    """Returns the names of the classes [C] and the class index of each row, int64 [N].

    labels: [N], as `plain` returns them. splits: indices in SPLITS, [N].
    named: the names of classes 0 to C - 1, if they are given. Otherwise labels that are numbers are class indices and
        name the classes, and labels that are strings are class names, indexed in sorted order.

    Raises UserError for a label that is not a class, and for a class without training images.
    """
    train = labels[splits == 0]
    if labels.dtype.kind == "U":
        names = np.unique(train) if named is None else named
        order = np.argsort(names, kind="stable")
        place = np.minimum(np.searchsorted(names, labels, sorter=order), len(names) - 1)
        numbers = np.where(names[order[place]] == labels, order[place], -1)
    elif named is None:
        if (labels < 0).any():
            row = int(np.argmax(labels < 0))
            raise UserError(f"the label of row {row} ({SPLITS[splits[row]]}) is {labels[row]}: classes count from 0 on")
        known = np.unique(train)  # and not all numbers up to the largest label, which may be any
        gaps = np.flatnonzero(known != np.arange(len(known)))
        if len(gaps):
            raise UserError(
                f"the training images are of classes {known[0]} to {known[-1]}, but none is of class {gaps[0]}: number "
                "the classes from 0 on without gaps"
            )
        names, numbers = known.astype(str), labels
    else:
        names, numbers = named, labels
    _check(numbers, labels, splits, names.tolist())
    return names.tolist(), numbers.astype(np.int64)


def _check(numbers: np.ndarray, labels: np.ndarray, splits: np.ndarray, names: list[str]) -> None:
    wrong = (numbers < 0) | (numbers >= len(names))
    if wrong.any():
        row = int(np.argmax(wrong))
        allowed = f"{names[0]} to {names[-1]}" if labels.dtype.kind == "U" else f"0 to {len(names) - 1}"
        raise UserError(
            f"the label of row {row} ({SPLITS[splits[row]]}) is {labels[row]}, and the {len(names)} classes of the "
            f"training images are {allowed}"
        )
    counts = np.bincount(numbers[splits == 0], minlength=len(names))
    if not counts.all():
        empty = int(np.argmin(counts))
        raise UserError(f"class {names[empty]} has no training image: number the classes without gaps")


def distinct(names: np.ndarray) -> np.ndarray:
    """Returns class names as strings. Raises UserError if one occurs twice."""
    if len(np.unique(names)) != len(names):
        raise UserError("class_names holds a name twice: each class needs a name of its own")
    return names.astype(str)
