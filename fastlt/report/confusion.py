"""The table of report.md of classes that are most often taken for another."""

from __future__ import annotations

from typing import Any

from fastlt.report.names import escaped, number

MOST = 10  # pairs


def most_confused(results: dict[str, Any]) -> tuple[str, str]:
    """The classifier that is best by mean class accuracy (or over all images) and its table; empty without pairs."""
    rows = {name: row for name, row in results["classifiers"].items() if row.get("confusions")}
    if not rows:
        return "", ""
    best = max(rows, key=lambda name: _score(rows[name]))
    lines = ["| class | taken for | images | of the class |", "|---|---|---:|---:|"]
    for true, predicted, images, share in rows[best]["confusions"][:MOST]:
        lines.append(f"| {_class(results, true)} | {_class(results, predicted)} | {images:,} | {share:.1f} % |")
    return best, "\n".join(lines)


def _class(results: dict[str, Any], place: int) -> str:
    names = results.get("class_names")
    return escaped(names[place] if names else place)


def _score(row: dict[str, Any]) -> float:
    measured = [number(row.get(key)) for key in ("mean_class", "all")]
    return next((value for value in measured if value is not None), -1.0)
