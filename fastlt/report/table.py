"""The table of results for the terminal, and its columns and cells, which report.md uses as well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastlt.core.groups import GROUPS
from fastlt.core.log import printed
from fastlt.experiment.results import Results
from fastlt.report.choices import marked, notes
from fastlt.report.names import label, percent, sampling

SPREAD = (*GROUPS, "all")  # columns that show their standard deviation over seeds
LONG = 8  # rows; a longer table has a blank line after every fifth row, so that rows are easier to follow
FIFTH = 5


@dataclass(frozen=True)
class Column:
    """A column of percentages: its key in results.json, its heading, and whether the lowest number is the best."""

    key: str
    heading: str
    lowest_is_best: bool = False


@dataclass(frozen=True)
class Cell:
    """A formatted number, its standard deviation over seeds ("" if none), and whether it is the best of its column."""

    text: str
    spread: str
    best: bool


def columns(results: Results) -> list[Column]:
    """Returns the columns of the table, without groups that have no class. Mean class accuracy is left out where it
    equals `all`."""
    rows = results.classifiers.values()
    head = [Column(group, f"{group} ({results.groups[group]})") for group in GROUPS if results.groups[group]]
    head.append(Column("all", "all"))
    pairs = [(row.all, row.mean_class) for row in rows]
    if any(a is not None and b is not None and abs(a - b) > 0.005 for a, b in pairs):
        head.append(Column("mean_class", "mean class"))
    if any(row.macro_f1 is not None for row in rows):
        head.append(Column("macro_f1", "F1"))
    if len(results.class_counts["train"]) > 5:
        head.append(Column("top5", "top-5"))
    head.append(Column("ece", "ECE", lowest_is_best=True))
    return head


def cells(results: Results, column: Column) -> list[Cell]:
    """Returns the cells of a column, one for each classifier in the order of results.json.

    The best is found by the printed digits, so that equal numbers are marked alike. If all are equal, none is marked.
    """
    rows = list(results.classifiers.values())
    texts = [percent(getattr(row, column.key)) for row in rows]
    spreads = [row.std.get(column.key) if column.key in SPREAD else None for row in rows]
    shown = {float(text) for text in texts if text != "-"}
    best = (min if column.lowest_is_best else max)(shown) if len(shown) > 1 else None
    return [
        Cell(text, "" if spread is None else f"±{spread:.1f}", text != "-" and float(text) == best)
        for text, spread in zip(texts, spreads, strict=True)
    ]


def seeds_note(results: Results) -> str:
    """Returns a note on what ± means and over how many seeds; "" if no classifier has several."""
    seeds = {name: row.seeds for name, row in results.classifiers.items() if row.seeds > 1}
    if not seeds:
        return ""
    if len(set(seeds.values())) == 1:
        over = f"{next(iter(seeds.values()))} seeds"
    else:
        over = "several seeds (" + ", ".join(f"{label(name)}: {count}" for name, count in seeds.items()) + ")"
    rest = "; rows without ± are of one" if len(seeds) < len(results.classifiers) else ""
    return f"mean ± standard deviation over {over} of the classifier{rest}"


def results_table(results: Results) -> str:
    """Returns the results as plain text for a terminal: a headline, the aligned table, and notes.

    Accuracies are in percent; `*` marks the best of a column and `-` an empty group. The text has no line break at its
    end. It is ASCII except for the dagger, which marks choices made on test, and ±, if there are several seeds.

    Example: print(results_table(read_results(Path("runs/mine"))))
    """
    names = [*results.classifiers, *results.failed]
    head = f"{results.dataset}, {results.backbone}, {sampling(results)}, seed {results.seed}"
    shown = [marked(results, name) if name in results.classifiers else label(name) for name in names]
    table = [_aligned(["classifier", *shown], str.ljust)]
    starred = False
    for column in columns(results):
        body = cells(results, column)
        starred = starred or any(cell.best for cell in body)
        wide = max((len(cell.spread) for cell in body), default=0)
        body += [Cell("-", "", best=False)] * len(results.failed)
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
    lines = [f"{head}: accuracy on test in %", "", *rows, *(["", *below] if below else [])]
    return "\n".join(map(printed, lines))


def _aligned(texts: Iterable[str], just: Any) -> list[str]:
    texts = list(texts)
    width = max(map(len, texts))
    return [just(text, width) for text in texts]
