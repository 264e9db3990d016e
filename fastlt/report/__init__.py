"""Tables and figures of a finished experiment, from its results.json and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastlt.errors import UserError
from fastlt.groups import GROUPS
from fastlt.report.table import results_table

__all__ = ["read_results", "results_table", "write_report"]

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
_SCORES = (*GROUPS, "all", "mean_class", "top5", "ece")


def read_results(path: Path) -> dict[str, Any]:
    """Read and check one results.json.

    Raises:
        UserError: the file cannot be read, is no JSON, or lacks what a report needs.
    """
    rewrite = "run `python -m fastlt.train` again to write it anew"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); allowed is a readable results.json") from error
    except ValueError as error:
        what = f"{path}: is not valid JSON ({error}); allowed is a results.json of fastlt.train"
        raise UserError(f"{what}; {rewrite}") from error
    try:
        _check(results)
    except UserError as error:
        raise UserError(f"{path}: {error}; {rewrite}") from error
    return results


def write_report(results: dict[str, Any], out: Path) -> Path:
    """Write `out`/report.md and `out`/figures/*.png, *.svg, and return the path of report.md.

    `results` is what results.json holds. The same results give the same bytes. Figures of an earlier report that these
    results do not have are removed, so that figures/ never shows another experiment.

    Raises:
        UserError: `results` lacks what a report needs.
        OSError: `out` cannot be written.
    """
    _check(results)
    # Here and not above: matplotlib takes a second to load, and training only wants the table.
    from fastlt.report.figures import save_figures
    from fastlt.report.page import page

    drawn = save_figures(results, out / "figures")
    report = out / "report.md"
    report.write_text(page(results, drawn), encoding="utf-8", newline="\n")
    return report


def _check(results: Any) -> None:
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
    if not results["classifiers"]:
        raise UserError("classifiers is empty; allowed is at least one classifier")
    for name, row in results["classifiers"].items():
        _check_classifier(name, row, classes)


def _check_classifier(name: str, row: Any, classes: int) -> None:
    where = f"classifiers.{name}"
    if not isinstance(row, dict):
        raise UserError(f"{where} is {_short(row)}; allowed is an object with the accuracies of {name}")
    for key in _SCORES:
        value = row.get(key)
        if value is not None and not _is_number(value):
            raise UserError(f"{where}.{key} is {_short(value)}; allowed is a number or null")
    if "weight_norms" in row:
        _check_list(row["weight_norms"], f"{where}.weight_norms", classes)
    if not isinstance(row.get("choices", {}), dict):
        raise UserError(f"{where}.choices is {_short(row['choices'])}; allowed is an object of settings")
    curves = row.get("curves", {})
    if not isinstance(curves, dict) or not all(isinstance(curve, dict) for curve in curves.values()):
        raise UserError(f"{where}.curves is {_short(curves)}; allowed is an object with one curve for each split")
    for split, curve in curves.items():
        _check_list(curve.get("tau"), f"{where}.curves.{split}.tau")
        for key, values in curve.items():
            _check_list(values, f"{where}.curves.{split}.{key}", len(curve["tau"]), null=True)


def _check_list(values: Any, where: str, length: int | None = None, null: bool = False) -> None:
    fits = isinstance(values, list) and values and length in (None, len(values))
    if not fits or not all(_is_number(value) or (null and value is None) for value in values):
        many = "" if length is None else f"{length} "
        raise UserError(f"{where} is {_short(values)}; allowed is a list of {many}numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
