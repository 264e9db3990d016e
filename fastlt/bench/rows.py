"""Rows: what a benchmark measured, one a case."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.log import say


@dataclass(frozen=True)
class Row:
    """One case over the rounds of a run: median, 20th and 80th percentile."""

    case: str
    median: float
    p20: float
    p80: float
    unit: str


RATIO = "x"  # unit of a ratio
ROW = [field.name for field in fields(Row)]


def measure(cases: dict[str, Callable[[], float]], rounds: int, unit: str) -> list[Row]:
    """The rows of `measure_series`."""
    return [row(name, series, unit) for name, series in measure_series(cases, rounds, unit).items()]


def measure_series(cases: dict[str, Callable[[], float]], rounds: int, unit: str) -> dict[str, list[float]]:
    """Runs every case once per round, in turn, after a round that does not count.

    Interleaved, because the machine's speed drifts: a neighbour's load then falls on all cases alike.
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
    """The row of a case's values."""
    p20, median, p80 = np.percentile(values, [20, 50, 80]).tolist()
    return Row(case, median, p20, p80, unit)


def ratio(over: str, under: str, series: dict[str, list[float]]) -> Row:
    """How many times the second case's value the first one's is, within each round: the same noise fell on both."""
    values = [a / b for a, b in zip(series[over], series[under], strict=True)]
    return row(f"{over} / {under}", values, RATIO)


def markdown(rows: list[Row]) -> str:
    """A table of rows."""
    lines = ["| case | median | p20 | p80 | unit |", "|---|---:|---:|---:|---|"]
    lines += [f"| {r.case} | {r.median:,.4g} | {r.p20:,.4g} | {r.p80:,.4g} | {r.unit} |" for r in rows]
    return "\n".join(lines)


def append(rows: list[Row], about: dict, path: Path) -> None:
    """Adds rows to a JSONL file, each with what the run was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for entry in rows:
            file.write(json.dumps({**asdict(entry), **about}) + "\n")


def last_run(path: Path) -> list[Row]:
    """The rows of the newest run in a JSONL file; a run's rows have one date, down to the second.

    Raises UserError if there is no such file, or if it holds something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [Row(**{key: line[key] for key in ROW}) for line in lines if line["date"] == lines[-1]["date"]]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a file that a benchmark wrote with rows=FILE") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no rows of a benchmark: give a file that one wrote with rows=FILE") from None
