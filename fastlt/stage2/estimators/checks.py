"""Checks and converts X and y, which may be NumPy arrays, torch tensors, or whatever NumPy converts to an array."""

import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlt.core.errors import UserError, first_line
from fastlt.core.words import counted
from fastlt.longtail.whole_groups import group_numbers
from fastlt.stage2.features.given.labels import plain

ROWS = 8192  # features that are checked or scored at once
KEPT = (torch.float16, torch.float32, torch.float64)


class NotFitted(UserError, AttributeError):
    """Raised if a classifier is asked to predict before it was fitted."""


class NotNumbers(UserError, TypeError):
    """Raised for features that are no numbers. It is the TypeError that scikit-learn's checks expect, too."""


def known_to_scikit_learn(name: str, otherwise: type) -> Any:
    """Returns scikit-learn's exception or warning class of this name, which its tools expect.

    Returns `otherwise` if scikit-learn has not been imported.
    """
    return getattr(sys.modules.get("sklearn.exceptions"), name, otherwise)


def as_rows(x: Any, name: str = "X") -> Tensor:
    """Returns features as a tensor [N, D] of float16, float32 or float64, without a copy if they are one already.

    name: of the argument, for error messages. Raises UserError for anything else than a two-dimensional array of
    numbers, and for a value that is not finite in float32.
    """
    sparse = isinstance(x, Tensor) and x.layout != torch.strided
    if sparse or hasattr(x, "toarray"):
        dense = "to_dense" if sparse else "toarray"
        raise UserError(f"{name} is sparse, features of a network are dense: pass {name}.{dense}()")
    rows = x.detach() if isinstance(x, Tensor) else _from_numpy(x, name)
    if rows.is_complex():
        raise UserError(f"Complex data not supported: {name} has the type {rows.dtype}, features are real numbers")
    if rows.ndim == 1:
        raise UserError(
            f"Expected 2D array, got 1D array instead: {name} has the shape {tuple(rows.shape)}. Reshape your data, "
            f"with {name}.reshape(1, -1) if it is one image and {name}.reshape(-1, 1) if it is one feature"
        )
    if rows.ndim != 2:
        raise UserError(f"{name} has the shape {tuple(rows.shape)}: features are an array [images, dimensions]")
    for size, what in zip(rows.shape, ("sample", "feature"), strict=True):
        if size == 0:
            raise UserError(
                f"{name}: found array with 0 {what}(s) (shape={tuple(rows.shape)}) while a minimum of 1 is required."
            )
    rows = rows if rows.dtype in KEPT else rows.float()
    _check_finite(rows, name)
    return rows


def _from_numpy(x: Any, name: str) -> Tensor:
    values = np.asarray(x)
    if values.dtype == object:
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            if values.ndim == 1 and len(values) and np.ndim(values[0]) == 1:
                raise NotNumbers(
                    f"{name} is a column with a feature vector in each row: pass an array, np.stack({name})"
                ) from None
            raise NotNumbers(
                f"{name} holds values that are no numbers ({first_line(error)}): features are numbers, and missing "
                "ones are to be filled in"
            ) from None
    if values.dtype.kind not in "fiubc":
        raise UserError(f"{name} holds values of type {values.dtype}: features are numbers")
    if values.dtype.kind in "iub":
        values = values.astype(np.float32)  # as of tensors
    if values.dtype.itemsize > 8 and values.dtype.kind == "f":
        values = values.astype(np.float64)
    if not values.dtype.isnative or any(stride < 0 for stride in values.strides):
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read here
        return torch.from_numpy(values)


def _check_finite(rows: Tensor, name: str) -> None:
    for number, part in enumerate(rows.split(ROWS)):
        unfit = ~part.float().isfinite()
        if unfit.any():
            row, column = (int(place) for place in unfit.nonzero()[0])
            raise UserError(
                f"Input {name} contains NaN, infinity or a value too large for float32: {part[row, column].item()} in "
                f"row {number * ROWS + row}, column {column}. Leave such rows out, or fill them in"
            )


def column_names(x: Any) -> np.ndarray | None:
    """Returns the names of the columns of X, object [D]; None if it is no DataFrame, or not all names are strings."""
    found = getattr(x, "column_names", None)  # a table of pyarrow, whose `columns` are their values
    names = found if isinstance(found, list) else list(getattr(x, "columns", ()))
    return np.array(names, object) if names and all(isinstance(name, str) for name in names) else None


def check_columns(x: Any, expected: np.ndarray | None, name: str) -> None:
    """Raises UserError if both X and what was fitted have names of columns, and these differ, or their order."""
    found = column_names(x)
    if found is None or expected is None or len(found) != len(expected) or (found == expected).all():
        return
    place = int(np.argmin(found == expected))
    raise UserError(
        f"The feature names should match those that were passed during fit, in the same order: column {place} of "
        f"{name} is {found[place]}, and was {expected[place]}"
    )


def as_groups(groups: Any, rows: int) -> np.ndarray:
    """Returns groups as numbers from 0 to G - 1, int64 [rows]. Raises UserError if they are not one for each row."""
    names = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if names.shape != (rows,):
        raise UserError(f"groups have the shape {names.shape}, features {counted(rows, 'row')}: give one for each row")
    return group_numbers(plain(names, "groups"))


def as_labels(y: Any, rows: int, name: str = "y") -> np.ndarray:
    """Returns labels as an array [rows] of any type. Raises UserError if they are not one valid label for each row."""
    if y is None:
        raise UserError(f"This classifier requires y to be passed, but the target {name} is None")
    labels = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if isinstance(y, list | tuple) and labels.dtype.kind == "U" and not all(isinstance(label, str) for label in y):
        labels = np.array(y, object)  # NumPy makes texts of all labels, also of numbers and of NaN
    if labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(
            f"A column-vector y was passed when a 1d array was expected. Pass {name}.ravel()",
            known_to_scikit_learn("DataConversionWarning", UserWarning),
            stacklevel=4,
        )
        labels = labels.ravel()
    if labels.ndim != 1 or len(labels) != rows:
        raise UserError(
            f"{name} has the shape {labels.shape}, features {counted(rows, 'row')}: one label for each row is needed"
        )
    if labels.dtype == object:
        for number, label in enumerate(labels.tolist()):
            if _missing(label):
                raise UserError(
                    f"Unknown label type: {name}[{number}] is {label}, a missing value: leave such rows out"
                )
    if labels.dtype.kind in "fc":
        unfit = ~np.isfinite(labels) | (labels != np.round(labels))
        if unfit.any():
            first = int(np.argmax(unfit))
            what = "continuous" if np.isfinite(labels[first]) else "Input contains NaN or infinity"
            raise UserError(
                f"Unknown label type: {what}: {name}[{first}] is {labels[first]}, and classes are whole numbers "
                "or strings"
            )
    return labels


def _missing(label: Any) -> bool:
    """Returns whether a label is None, or NaN, NaT or pandas' NA, none of which equals itself."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # NA is neither true nor false
        return True
    except ValueError:  # an array is no label at all, which is told where labels are sorted
        return False


def find_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted classes [C] and the class index of each label, int64 [N].

    Raises UserError if there are fewer than two classes, or the labels cannot be sorted.
    """
    try:
        classes, numbers = np.unique(labels, return_inverse=True)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise UserError(
            f"y mixes labels of the types {', '.join(kinds)}, which have no order: choose one type"
        ) from None
    if len(classes) < 2:
        raise UserError(f"y holds one class, {classes[0]}: a classifier needs at least two")
    return classes, numbers.astype(np.int64)


def numbers_of(labels: np.ndarray, classes: np.ndarray, name: str = "y") -> np.ndarray:
    """Returns the class index of each label, int64 [N]. Raises UserError for a label that is not in `classes`."""
    place = {label: number for number, label in enumerate(classes.tolist())}
    try:
        return np.array([place[label] for label in labels.tolist()], np.int64)
    except KeyError as error:
        raise UserError(
            f"{name} holds the label {error.args[0]!r}, which no training image has: classes are {_some(classes)}"
        ) from None


def _some(classes: np.ndarray) -> str:
    shown = ", ".join(map(str, classes[:5].tolist()))
    return shown if len(classes) <= 5 else f"{shown} and {counted(len(classes) - 5, 'other')}"
