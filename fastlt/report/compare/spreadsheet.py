"""CSV: each table in long form, and every number of every run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from fastlt.report.compare.model import Table
from fastlt.report.compare.runs import SCORES, Setting
from fastlt.report.names import number

_CELL = ("column", "ours_mean", "ours_sd", "runs", "published", "source", "difference", "note", "warnings")
_SETTING = (
    "dataset",
    "digest",
    "imbalance",
    "backbone",
    "sampler",
    "drawing",
    "protocol",
    "epochs",
    "image_size",
    "precision",
)


def write_table(table: Table, path: Path) -> None:
    """A row for each row and column of the table, in percent with all digits; nothing where a number is missing.

    Comma separated, quoted as RFC 4180 says, UTF-8.
    """
    rows = []
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            ours, published = cell.ours, cell.published
            numbers = [ours and ours.mean, ours and ours.sd, ours and ours.runs]
            beside = [published and published.value, published and published.source, cell.difference]
            rows.append([*row.labels, column, *numbers, *beside, row.note, " ".join(table.warnings)])
    _write(path, [*table.heads, *_CELL], rows)


def write_results(settings: Sequence[Setting], path: Path) -> None:
    """A row for each run, classifier and score, in percent with all digits; no row where a score is missing."""
    rows = []
    for setting in settings:
        known = [*(getattr(setting, field) for field in _SETTING), " ".join(one.given for one in setting.departures)]
        for folder, results in zip(setting.folders, setting.runs, strict=True):
            for classifier, row in results["classifiers"].items():
                values = {score: number(row.get(score)) for score in SCORES}
                told = [(score, value) for score, value in values.items() if value is not None]
                rows += [[folder, *known, results["seed"], classifier, score, value] for score, value in told]
    _write(path, ["run", *_SETTING, "departures", "seed", "classifier", "score", "value"], rows)


def _write(path: Path, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows(rows)
