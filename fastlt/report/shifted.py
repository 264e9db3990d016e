"""The table of accuracies under shifted priors of the test classes in report.md, and which classifiers are drawn."""

from __future__ import annotations

from fastlt.experiment.results import Results
from fastlt.report.choices import marked
from fastlt.report.names import escaped, percent, prior_name

MOST = 6  # lines in the figure
COLUMNS = ("forward_50", "forward_10", "uniform", "backward_10", "backward_50")


def priors(results: Results) -> list[str]:
    """Returns the names of the priors in the order of results.json."""
    names = (name for row in results.classifiers.values() for name in row.shifted)
    return list(dict.fromkeys(names))


def drawn_over_priors(results: Results) -> list[str]:
    """Returns joint and the classifiers with the highest mean over all priors, at most MOST, in the order of
    results.json."""
    means = {name: _mean(row.shifted) for name, row in results.classifiers.items() if row.shifted}
    ranked = sorted(means, key=lambda name: (name != "joint", -means[name]))[:MOST]
    return [name for name in means if name in ranked]


def shifted_table(results: Results) -> str:
    """Returns a Markdown table of accuracies: classifiers x priors; "" if the results have none."""
    rows = {name: row.shifted for name, row in results.classifiers.items() if row.shifted}
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


def _printed(row: dict[str, float | None], prior: str) -> float:
    """Returns the accuracy rounded as in the table, so that equal numbers are marked alike; -1 if there is none."""
    text = percent(row.get(prior))
    return -1.0 if text == "-" else float(text)


def _mean(shifted: dict[str, float | None]) -> float:
    values = [value for value in shifted.values() if value is not None]
    return sum(values) / len(values) if values else 0.0
