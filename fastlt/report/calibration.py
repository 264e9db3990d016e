"""The table of calibration in report.md, before and after temperature scaling, and which classifiers are drawn."""

from __future__ import annotations

from fastlt.experiment.results import Results
from fastlt.report.choices import DAGGER, marked
from fastlt.report.names import escaped, paper_first, percent, split_name

MOST = 6  # panels in the figure


def fitted_on(results: Results) -> str:
    """Returns the split that temperatures were fitted on, as ` fitted on val` (test with a dagger); "" if unknown."""
    split = results.temperature_on
    if split is None:
        return ""
    return f" fitted on {split_name(split)}" + (f" {DAGGER}" if split == "test" else "")


def drawn_reliability(results: Results) -> list[str]:
    """Returns the classifiers whose reliability diagrams are drawn: at most MOST, the paper's first."""
    return paper_first([name for name, row in results.classifiers.items() if row.reliability], MOST)


def calibration_table(results: Results) -> str:
    """Returns a Markdown table of the ECE before and after scaling, and of the temperatures; "" if there are none."""
    names = [name for name, row in results.classifiers.items() if row.calibrated]
    if not names:
        return ""
    dagger = f" {DAGGER}" if results.temperature_on == "test" else ""
    lines = [f"| classifier | ECE | ECE with temperature{dagger} | temperature |", "|---|---:|---:|---:|"]
    for name in names:
        before, after = results.classifiers[name].ece, results.classifiers[name].calibrated
        assert after is not None
        temperature = "-" if after.temperature is None else f"{after.temperature:.3g}"
        texts = [percent(before), percent(after.ece), temperature]
        lines.append(f"| {escaped(marked(results, name))} | " + " | ".join(texts) + " |")
    return "\n".join(lines)
