"""The results as rows: what the terminal table and the table of report.md share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastlt.core.groups import GROUPS
from fastlt.report.choices import marked, notes
from fastlt.report.names import label, number, percent, sampling

SPREAD = (*GROUPS, "all")  # columns that show how much they vary from seed to seed
LONG = 8  # rows; above, a blank line after every fifth keeps the eye in its row
FIFTH = 5


@dataclass(frozen=True)
class Column:
    """One column of numbers, all in percent: its key in results.json, its heading, and which end is the good one."""

    key: str
    heading: str
    lowest_is_best: bool = False


@dataclass(frozen=True)
class Cell:
    """One formatted number, its standard deviation over seeds or nothing, and whether it is the best of its column."""

    text: str
    spread: str
    best: bool


def columns(results: dict[str, Any]) -> list[Column]:
    """The columns of the table; mean class accuracy only where it tells something that `all` does not."""
    rows = results["classifiers"].values()
    head = [Column(group, f"{group} ({results['groups'][group]})") for group in GROUPS]
    head.append(Column("all", "all"))
    pairs = [(number(row.get("all")), number(row.get("mean_class"))) for row in rows]
    if any(a is not None and b is not None and abs(a - b) > 0.005 for a, b in pairs):
        head.append(Column("mean_class", "mean class"))
    if any(number(row.get("macro_f1")) is not None for row in rows):
        head.append(Column("macro_f1", "F1"))
    head.append(Column("top5", "top-5"))
    head.append(Column("ece", "ECE", lowest_is_best=True))
    return head


def cells(results: dict[str, Any], column: Column) -> list[Cell]:
    """One column of the table, a cell for each classifier in the order of results.json.

    Best is decided on the printed digits, so equal numbers are marked alike; where all are equal, none is best.
    """
    rows = list(results["classifiers"].values())
    texts = [percent(row.get(column.key)) for row in rows]
    spreads = [number((row.get("std") or {}).get(column.key)) if column.key in SPREAD else None for row in rows]
    shown = {float(text) for text in texts if text != "-"}
    best = (min if column.lowest_is_best else max)(shown) if len(shown) > 1 else None
    return [
        Cell(text, "" if spread is None else f"±{spread:.1f}", text != "-" and float(text) == best)
        for text, spread in zip(texts, spreads, strict=True)
    ]


def seeds_note(results: dict[str, Any]) -> str:
    """What ± means and over how many seeds; empty where no row has several."""
    seeds = {name: row["seeds"] for name, row in results["classifiers"].items() if row.get("seeds", 1) > 1}
    if not seeds:
        return ""
    if len(set(seeds.values())) == 1:
        over = f"{next(iter(seeds.values()))} seeds"
    else:
        over = "several seeds (" + ", ".join(f"{label(name)}: {count}" for name, count in seeds.items()) + ")"
    rest = "; rows without ± are of one" if len(seeds) < len(results["classifiers"]) else ""
    return f"mean ± standard deviation over {over} of the classifier{rest}"


def results_table(results: dict[str, Any]) -> str:
    """The results as plain text for a terminal: a headline, the aligned table, and the notes under it.

    `results` is what results.json holds; accuracies are in percent, `*` marks the best of a column and `-` an empty
    group. The text ends without a line break. It is ASCII but for the dagger, where a choice was made on test, and ±,
    where there are several seeds.
    """
    names = list(results["classifiers"])
    head = f"{results['dataset']}, {results['backbone']}, {sampling(results)}, seed {results['seed']}"
    table = [_aligned(["classifier", *(marked(results, name) for name in names)], str.ljust)]
    starred = False
    for column in columns(results):
        body = cells(results, column)
        starred = starred or any(cell.best for cell in body)
        wide = max(len(cell.spread) for cell in body)
        texts = [cell.text + ("*" if cell.best else " ") + cell.spread.rjust(wide) for cell in body]
        table.append(_aligned([column.heading + ("" if wide else " "), *texts], str.rjust))
    rows = ["  ".join(row).rstrip() for row in zip(*table, strict=True)]
    if long := len(names) > LONG:
        rows = [
            line
            for place, row in enumerate(rows)
            for line in (["", row] if place > 1 and place % FIFTH == 1 else [row])
        ]
    seeds = seeds_note(results)
    below = (
        (["* best of the column"] if starred else []) + ([f"{seeds}."] if seeds else []) + notes(results, short=long)
    )
    return "\n".join([f"{head}: accuracy on test in %", "", *rows, *(["", *below] if below else [])])


def _aligned(texts: Iterable[str], just: Any) -> list[str]:
    texts = list(texts)
    width = max(map(len, texts))
    return [just(text, width) for text in texts]
