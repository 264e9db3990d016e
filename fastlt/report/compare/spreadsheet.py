"""Writes CSV files: each table in long form, and all numbers of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastlt.core.spreadsheet import write_csv
from fastlt.report.compare.model import Table
from fastlt.report.compare.runs import SCORES, RunGroup

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
    """Writes a table in long form: a CSV row for each of its rows and columns.

    Numbers are in percent with all digits, empty if missing. The file is comma-separated UTF-8, quoted as in RFC 4180.
    """
    rows = []
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            ours, published = cell.ours, cell.published
            numbers = [ours and ours.mean, ours and ours.sd, ours and ours.runs]
            beside = [published and published.value, published and published.source, cell.difference]
            rows.append([*row.labels, column, *numbers, *beside, row.note, " ".join(table.warnings)])
    write_csv(path, [[*table.heads, *_CELL], *rows])


def write_results(run_groups: Sequence[RunGroup], path: Path) -> None:
    """Writes a CSV row for each run, classifier and score, in percent with all digits; none for a missing score."""
    rows = []
    for run_group in run_groups:
        known = [
            *(getattr(run_group, field) for field in _SETTING),
            " ".join(one.given for one in run_group.departures),
        ]
        for folder, results in zip(run_group.folders, run_group.runs, strict=True):
            for classifier, row in results.classifiers.items():
                values = {score: getattr(row, score) for score in SCORES}
                told = [(score, value) for score, value in values.items() if value is not None]
                rows += [[folder, *known, results.seed, classifier, score, value] for score, value in told]
    write_csv(path, [["run", *_SETTING, "departures", "seed", "classifier", "score", "value"], *rows])
