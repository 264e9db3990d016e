"""What results.json must hold for a report, checked field by field."""

from __future__ import annotations

import math
from typing import Any

from fastlt.core.errors import UserError
from fastlt.core.groups import GROUPS
from fastlt.stage2.decision_regions import read_regions

SCHEMA = 1
_REQUIRED: dict[str, tuple[type, str]] = {
    "dataset": (str, "a string"),
    "backbone": (str, "a string"),
    "sampler": (str, "a string"),
    "seed": (int, "a whole number"),
    "class_counts": (dict, "an object with a list for each split"),
    "groups": (dict, "an object with the number of classes in each group"),
    "classifiers": (dict, "an object with the accuracies of each classifier"),
}
_SCORES = (*GROUPS, "all", "mean_class", "macro_f1", "top5", "ece")
_BINS = ("count", "confidence", "accuracy")


def check_results(results: Any) -> None:
    """Raise a UserError that names the first field that is missing or wrong."""
    if not isinstance(results, dict):
        raise UserError(f"holds a {type(results).__name__}; allowed is a JSON object")
    if results.get("schema") != SCHEMA:
        raise UserError(f"schema is {results.get('schema')!r}; allowed is {SCHEMA}, the one this fastlt writes")
    for field, (kind, allowed) in _REQUIRED.items():
        if not isinstance(results.get(field), kind):
            raise UserError(f"{field} is {_short(results.get(field))}; allowed is {allowed}")
    counts = results["class_counts"]
    for split in ("train", "test"):
        _check_list(counts.get(split), f"class_counts.{split}")
    classes = len(counts["train"])
    for split, values in counts.items():
        _check_list(values, f"class_counts.{split}", classes)
    for group in GROUPS:
        if not isinstance(results["groups"].get(group), int):
            raise UserError(f"groups.{group} is {_short(results['groups'].get(group))}; allowed is a number of classes")
    names = results.get("class_names")
    if names is not None and (not isinstance(names, list) or len(names) != classes):
        raise UserError(f"class_names is {_short(names)}; allowed is a list of {classes} names")
    if not results["classifiers"]:
        raise UserError("classifiers is empty; allowed is at least one classifier")
    _check_object(results, "departures", "")
    for key, values in (results.get("departures") or {}).items():
        if not isinstance(values, list) or len(values) != 2:
            raise UserError(f"departures.{key} is {_short(values)}; allowed is [the protocol's value, the value used]")
    if "plane" in results:
        _check_plane(results["plane"], classes)
    for name, row in results["classifiers"].items():
        if not isinstance(row, dict):
            raise UserError(f"classifiers.{name} is {_short(row)}; allowed is an object with the accuracies of {name}")
        _check_classifier(f"classifiers.{name}", row, classes)


def _check_classifier(where: str, row: dict[str, Any], classes: int) -> None:
    for key in (*_SCORES, "seconds"):
        _check_number(row, key, where)
    for key in ("weight_norms", "per_class"):
        if key in row:
            _check_list(row[key], f"{where}.{key}", classes, null=key == "per_class")
    for key in ("choices", "std", "shifted", "calibrated", "reliability", "curves"):
        _check_object(row, key, f"{where}.")
    _check_choices(row.get("choices") or {}, f"{where}.choices")
    for key in _SCORES:
        _check_number(row.get("std") or {}, key, f"{where}.std")
    for prior in row.get("shifted") or {}:
        _check_number(row["shifted"], prior, f"{where}.shifted")
    if "seeds" in row and not (_is_count(row["seeds"]) and row["seeds"] > 0):
        raise UserError(f"{where}.seeds is {_short(row['seeds'])}; allowed is a number of seeds")
    if row.get("reliability"):
        _check_bins(row["reliability"], f"{where}.reliability")
    if after := row.get("calibrated"):
        for key in ("temperature", "ece"):
            _check_number(after, key, f"{where}.calibrated")
        _check_object(after, "reliability", f"{where}.calibrated.")
        if after.get("reliability"):
            _check_bins(after["reliability"], f"{where}.calibrated.reliability")
    _check_confusions(row.get("confusions", []), f"{where}.confusions", classes)
    if "regions" in row:
        _check_regions(row["regions"], f"{where}.regions", classes)
    for split, curve in (row.get("curves") or {}).items():
        if not isinstance(curve, dict):
            raise UserError(f"{where}.curves.{split} is {_short(curve)}; allowed is an object with a list of tau")
        _check_list(curve.get("tau"), f"{where}.curves.{split}.tau")
        for key, values in curve.items():
            _check_list(values, f"{where}.curves.{split}.{key}", len(curve["tau"]), null=True)


def _check_choices(choices: dict[str, Any], where: str) -> None:
    grid = choices.get("grid", [])
    if not isinstance(grid, list) or not all(isinstance(entry, dict) for entry in grid):
        raise UserError(f"{where}.grid is {_short(grid)}; allowed is a list of objects with settings and accuracy")
    _check_object(choices, "bootstrap", f"{where}.")
    bootstrap = choices.get("bootstrap") or {}
    for key in ("same_choice", "accuracy_se"):
        if key in bootstrap and not _is_number(bootstrap[key]):
            raise UserError(f"{where}.bootstrap.{key} is {_short(bootstrap[key])}; allowed is a number")
    if "tau" in bootstrap:
        _check_list(bootstrap["tau"], f"{where}.bootstrap.tau", 3)


def _check_confusions(rows: Any, where: str, classes: int) -> None:
    def fits(row: Any) -> bool:
        if not isinstance(row, list) or len(row) != 4 or not all(map(_is_number, row)):
            return False
        return all(_is_count(place) and place < classes for place in row[:2])

    wrong = [rows] if not isinstance(rows, list) else [row for row in rows if not fits(row)]
    if wrong:
        what = "a list of [true class, predicted class, images, percent]"
        raise UserError(f"{where} holds {_short(wrong[0])}; allowed is {what}")


def _check_plane(plane: Any, classes: int) -> None:
    if not isinstance(plane, dict):
        raise UserError(f"plane is {_short(plane)}; allowed is an object with x, labels, low and high")
    for end in ("low", "high"):
        _check_list(plane.get(end), f"plane.{end}", 2)
    if not all(-math.inf < low < high < math.inf for low, high in zip(plane["low"], plane["high"], strict=True)):
        raise UserError(f"plane.low is {plane['low']}; allowed is a pair of numbers below plane.high")
    labels = plane.get("labels")
    if not isinstance(labels, list) or not labels or not all(_is_count(label) and label < classes for label in labels):
        raise UserError(f"plane.labels is {_short(labels)}; allowed is a list of class numbers below {classes}")
    if not isinstance(plane.get("x"), list) or len(plane["x"]) != len(labels):
        raise UserError(f"plane.x is {_short(plane.get('x'))}; allowed is a list of {len(labels)} points")
    for point in plane["x"]:
        _check_list(point, "a point of plane.x", 2)


def _check_regions(rows: Any, where: str, classes: int) -> None:
    try:
        highest = read_regions(rows).max()
    except ValueError as error:
        raise UserError(f"{where}: {error}; allowed is a list with the rows of a square") from None
    if highest >= classes:
        raise UserError(f"{where} holds class {highest}; allowed is a number below {classes}")


def _check_bins(bins: dict[str, Any], where: str) -> None:
    for key in _BINS:
        _check_list(bins.get(key), f"{where}.{key}", len(bins["count"]) if key != "count" else None, null=True)


def _check_object(place: dict[str, Any], key: str, where: str) -> None:
    if not isinstance(place.get(key, {}), dict):
        raise UserError(f"{where}{key} is {_short(place[key])}; allowed is an object")


def _check_number(place: dict[str, Any], key: str, where: str) -> None:
    value = place.get(key)
    if value is not None and not _is_number(value):
        raise UserError(f"{where}.{key} is {_short(value)}; allowed is a number or null")


def _check_list(values: Any, where: str, length: int | None = None, null: bool = False) -> None:
    fits = isinstance(values, list) and values and length in (None, len(values))
    if not fits or not all(_is_number(value) or (null and value is None) for value in values):
        many = "" if length is None else f"{length} "
        raise UserError(f"{where} is {_short(values)}; allowed is a list of {many}numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
