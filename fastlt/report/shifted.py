"""Accuracy under shifted priors of the test classes: which classifiers are drawn, and the table of report.md."""

from __future__ import annotations

from typing import Any

from fastlt.report.choices import marked
from fastlt.report.names import escaped, number, percent, prior_name

MOST = 6  # lines of the figure
COLUMNS = ("forward_50", "forward_10", "uniform", "backward_10", "backward_50")


def priors(results: dict[str, Any]) -> list[str]:
    """The names of the priors in order, as in results.json."""
    names = (name for row in results["classifiers"].values() for name in row.get("shifted") or {})
    return list(dict.fromkeys(names))


def drawn_over_priors(results: dict[str, Any]) -> list[str]:
    """joint and those with the highest mean over all priors, at most MOST, in the order of results.json."""
    means = {name: _mean(row["shifted"]) for name, row in results["classifiers"].items() if row.get("shifted")}
    ranked = sorted(means, key=lambda name: (name != "joint", -means[name]))[:MOST]
    return [name for name in means if name in ranked]


def shifted_table(results: dict[str, Any]) -> str:
    """Rows of classifiers, columns of priors; empty where the results hold none."""
    rows = {name: row["shifted"] for name, row in results["classifiers"].items() if row.get("shifted")}
    shown = [prior for prior in COLUMNS if prior in priors(results)]
    if not rows or not shown:
        return ""
    lines = ["| classifier | " + " | ".join(map(prior_name, shown)) + " |", "|---|" + "---:|" * len(shown)]
    best = {prior: max(_printed(row, prior) for row in rows.values()) for prior in shown}
    for name, row in rows.items():
        texts = [percent(row.get(prior)) for prior in shown]
        texts = [
            f"**{text}**" if len(rows) > 1 and _printed(row, prior) == best[prior] >= 0 else text
            for prior, text in zip(shown, texts, strict=True)
        ]
        lines.append(f"| {escaped(marked(results, name))} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _printed(row: dict[str, Any], prior: str) -> float:
    """The number as the table shows it, so that equal ones are marked alike; below 0 for none."""
    text = percent(row.get(prior))
    return -1.0 if text == "-" else float(text)


def _mean(shifted: dict[str, Any]) -> float:
    values = [value for value in map(number, shifted.values()) if value is not None]
    return sum(values) / len(values) if values else 0.0
