"""The results as rows: what the terminal table and the table of report.md share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastlt.groups import GROUPS

LABELS = {
    "joint": "joint",
    "ncm_l2": "NCM (L2)",
    "ncm_cosine": "NCM (cosine)",
    "crt": "cRT",
    "tau_norm": "tau-norm",
    "lws": "LWS",
}
SAMPLERS = {
    "instance": "instance-balanced sampling",
    "class": "class-balanced sampling",
    "sqrt": "square-root sampling",
    "progressive": "progressively-balanced sampling",
}
SPLITS = {"held_out": "held-out train"}  # what people read; the others are words already
CRITERIA = {"mean_class": "mean class accuracy", "all": "accuracy over all images"}
CRITERIA |= {group: f"accuracy on the {group} classes" for group in GROUPS}
DAGGER = "†"
DAGGER_NOTE = (
    "chosen on the test images themselves, so this row is flattering: do not compare it with results whose choices "
    "were made on val"
)
# These say how a choice was made; the rest is the choice.
_CHOICE_FACTS = {"chosen_on", "criterion", "accuracy", "interval", "bootstrap"}


@dataclass(frozen=True)
class Column:
    """One column of numbers, all in percent: its key in results.json, its heading, and which end is the good one."""

    key: str
    heading: str
    lowest_is_best: bool = False


@dataclass(frozen=True)
class Cell:
    """One formatted number and whether it is the best of its column."""

    text: str
    best: bool


def label(name: str) -> str:
    """The classifier's name for people; a name this module does not know stays as it is."""
    return LABELS.get(name, name)


def number(value: Any) -> float | None:
    """`value` as a finite float, or None for null, NaN and infinity (an empty group has no accuracy)."""
    return float(value) if value is not None and math.isfinite(value) else None


def columns(results: dict[str, Any]) -> list[Column]:
    """The columns of the table; mean class accuracy only where it tells something that `all` does not."""
    rows = results["classifiers"].values()
    head = [Column(group, f"{group} ({results['groups'][group]})") for group in GROUPS]
    head.append(Column("all", "all"))
    pairs = [(number(row.get("all")), number(row.get("mean_class"))) for row in rows]
    if any(a is not None and b is not None and abs(a - b) > 0.005 for a, b in pairs):
        head.append(Column("mean_class", "mean class"))
    head.append(Column("top5", "top-5"))
    head.append(Column("ece", "ECE", lowest_is_best=True))
    return head


def cells(results: dict[str, Any], column: Column) -> list[Cell]:
    """One column of the table, a cell for each classifier in the order of results.json.

    Best is decided on the printed digits, so equal numbers are marked alike; where all are equal, none is best.
    """
    values = [number(row.get(column.key)) for row in results["classifiers"].values()]
    texts = ["-" if value is None else f"{value:.1f}" for value in values]
    shown = {float(text) for text in texts if text != "-"}
    best = (min if column.lowest_is_best else max)(shown) if len(shown) > 1 else None
    return [Cell(text, text != "-" and float(text) == best) for text in texts]


def split_name(split: Any) -> str:
    """The split's name for people."""
    return SPLITS.get(split, str(split))


def chosen_on(results: dict[str, Any], name: str) -> str | None:
    """The split on which the classifier's settings were chosen, or None where they were set and not chosen."""
    choices = results["classifiers"][name].get("choices") or {}
    searched = "criterion" in choices or "interval" in choices
    split = choices.get("chosen_on", results.get("choose_on") if searched else None)
    return None if split is None else split_name(split)


def chosen_on_test(results: dict[str, Any], name: str) -> bool:
    """Whether the test images had a say in this row: through the classifier's settings or through the checkpoint."""
    return chosen_on(results, name) == "test" or "on test" in str((results.get("checkpoint") or {}).get("chosen"))


def marked(results: dict[str, Any], name: str) -> str:
    """The classifier's label, with a dagger if it was chosen on test."""
    return f"{label(name)} {DAGGER}" if chosen_on_test(results, name) else label(name)


def settings(choices: dict[str, Any]) -> str:
    """The settings of a classifier in words, e.g. `epochs 10, lr 0.2`; empty where there are none."""
    return ", ".join(f"{key} {_plain(value)}" for key, value in choices.items() if key not in _CHOICE_FACTS)


def how_chosen(choices: dict[str, Any]) -> str:
    """What the search for a setting found, e.g. `equally good from 0.69 to 0.74; by mean class accuracy, 48.1 %`."""
    parts = []
    interval = choices.get("interval")
    if isinstance(interval, list | tuple) and len(interval) == 2:
        low, high = (number(end) for end in interval)
        if low is not None and high is not None:
            parts.append(f"equally good from {_plain(low)} to {_plain(high)}")
        elif low is not None or high is not None:
            parts.append(
                f"equally good from {_plain(low)} up" if high is None else f"equally good up to {_plain(high)}"
            )
    if "criterion" in choices:
        accuracy = number(choices.get("accuracy"))
        reached = "" if accuracy is None else f", {accuracy:.1f} %"
        parts.append(f"by {CRITERIA.get(choices['criterion'], choices['criterion'])}{reached}")
    bootstrap = choices.get("bootstrap")
    if isinstance(bootstrap, dict) and "tau" in bootstrap:
        low, _, high = bootstrap["tau"]
        error = f", that accuracy varies by {bootstrap['accuracy_se']:.1f}" if "accuracy_se" in bootstrap else ""
        parts.append(f"9 of 10 bootstrap samples choose {low:.2f} to {high:.2f}{error}")
    return "; ".join(parts)


def notes(results: dict[str, Any]) -> list[str]:
    """The lines under the terminal table: what was chosen, on which split, and what the dagger means."""
    lines = []
    for name, row in results["classifiers"].items():
        split = chosen_on(results, name)
        if split is not None:
            choices = row["choices"]
            found = how_chosen(choices)
            lines.append(
                f"{label(name)}: {settings(choices)}, chosen on {split}" + (f" ({found})" if found else "") + "."
            )
    if any(chosen_on_test(results, name) for name in results["classifiers"]):
        lines.append(f"{DAGGER} {DAGGER_NOTE}.")
    return lines


def results_table(results: dict[str, Any]) -> str:
    """The results as plain text for a terminal: a headline, the aligned table, and the notes under it.

    `results` is what results.json holds; accuracies are in percent, `*` marks the best of a column and `-` an empty
    group. The text ends without a line break. It holds one character that is not ASCII, the dagger, and only where a
    choice was made on test.
    """
    names = list(results["classifiers"])
    sampling = SAMPLERS.get(results["sampler"], f"{results['sampler']} sampling")
    lines = [f"{results['dataset']}, {results['backbone']}, {sampling}, seed {results['seed']}: accuracy on test in %"]
    table = [_left(["classifier", *(marked(results, name) for name in names)])]
    starred = False
    for column in columns(results):
        body = cells(results, column)
        starred = starred or any(cell.best for cell in body)
        texts = [f"{column.heading} ", *(cell.text + ("*" if cell.best else " ") for cell in body)]
        width = max(map(len, texts))
        table.append([text.rjust(width) for text in texts])
    lines += ["", *("  ".join(row).rstrip() for row in zip(*table, strict=True))]
    below = (["* best of the column"] if starred else []) + notes(results)
    return "\n".join([*lines, "", *below] if below else lines)


def _left(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    width = max(map(len, texts))
    return [text.ljust(width) for text in texts]


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
