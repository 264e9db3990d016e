"""Rows of a benchmark: measuring cases, and writing, reading and formatting the results."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say


@dataclass(frozen=True)
class Row:
    """The result of one case: median, 20th and 80th percentile over the rounds of a run."""

    case: str
    median: float
    p20: float
    p80: float
    unit: str


RATIO = "x"  # the unit of a ratio
ROW = [field.name for field in fields(Row)]


def measure(cases: dict[str, Callable[[], float]], rounds: int, unit: str) -> list[Row]:
    """Runs `measure_series` and returns its results as rows."""
    return [row(name, series, unit) for name, series in measure_series(cases, rounds, unit).items()]


def measure_series(cases: dict[str, Callable[[], float]], rounds: int, unit: str) -> dict[str, list[float]]:
    """Runs all cases in turn in every round, after a warm-up round; returns {case: its values, one per round}.

    Cases are interleaved because the speed of a machine drifts: load from other processes then affects all alike.
    """
    values: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            value = case()
            say(f"{'warm-up' if number == 0 else f'round {number} of {rounds}'}: {name} {value:,.4g} {unit}")
            if number:
                values[name].append(value)
    return values


def row(case: str, values: list[float], unit: str) -> Row:
    """Returns the row for the values of a case."""
    p20, median, p80 = np.percentile(values, [20, 50, 80]).tolist()
    return Row(case, median, p20, p80, unit)


def ratio(over: str, under: str, series: dict[str, list[float]]) -> Row:
    """Returns the row of the ratio `over` / `under`, computed within each round, where both had the same noise."""
    values = [a / b for a, b in zip(series[over], series[under], strict=True)]
    return row(f"{over} / {under}", values, RATIO)


def markdown(rows: list[Row]) -> str:
    """Formats rows as a Markdown table."""
    lines = ["| case | median | p20 | p80 | unit |", "|---|---:|---:|---:|---|"]
    lines += [f"| {r.case} | {r.median:,.4g} | {r.p20:,.4g} | {r.p80:,.4g} | {r.unit} |" for r in rows]
    return "\n".join(lines)


def check_rows(path: Path) -> None:
    """Raises UserError, before anything is measured, if rows cannot be appended to this file."""
    wrong = path.is_dir() or any(folder.exists() and not folder.is_dir() for folder in path.parents)
    if wrong:
        what = "is a folder" if path.is_dir() else "is below something that is no folder"
        raise UserError(f"rows={path} {what}: give a file, as in rows=rows.jsonl")


def append(rows: list[Row], about: dict, path: Path) -> None:
    """Appends rows to a JSONL file, each with the fields of `about` (benchmark, settings, device, versions, date)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for entry in rows:
            file.write(json.dumps({**asdict(entry), **about}) + "\n")


def last_run(path: Path) -> list[Row]:
    """Returns the rows of the last run in a JSONL file. All rows of a run have the same date, to the second.

    Raises UserError if the file is missing or is no file of rows.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [Row(**{key: line[key] for key in ROW}) for line in lines if line["date"] == lines[-1]["date"]]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a file that a benchmark wrote with rows=FILE") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no rows of a benchmark: give a file that one wrote with rows=FILE") from None
