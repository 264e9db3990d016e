"""The table of the most frequent confusions of classes in report.md."""

from __future__ import annotations

from fastlt.experiment.results import ClassifierResult, Results
from fastlt.report.names import escaped

MOST = 10  # pairs


def most_confused(results: Results) -> tuple[str, str]:
    """Returns (the classifier with the highest mean class accuracy, the Markdown table of its confusions).

    Both are "" if the results have no confusions.
    """
    rows = {name: row for name, row in results.classifiers.items() if row.confusions}
    if not rows:
        return "", ""
    best = max(rows, key=lambda name: _score(rows[name]))
    lines = ["| class | taken for | images | of the class |", "|---|---|---:|---:|"]
    for true, predicted, images, share in rows[best].confusions[:MOST]:
        lines.append(f"| {_class(results, true)} | {_class(results, predicted)} | {images:,.0f} | {share:.1f} % |")
    return best, "\n".join(lines)


def _class(results: Results, place: float) -> str:
    return escaped(results.class_names[int(place)])


def _score(row: ClassifierResult) -> float:
    measured = [getattr(row, key) for key in ("mean_class", "all")]
    return next((value for value in measured if value is not None), -1.0)
