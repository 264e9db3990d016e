"""Calibration before and after temperature scaling: the table of report.md, and which classifiers are drawn."""

from __future__ import annotations

from typing import Any

from fastlt.report.choices import DAGGER, marked
from fastlt.report.names import escaped, number, paper_first, percent, split_name

MOST = 6  # panels of the figure


def calibrated(results: dict[str, Any], name: str) -> dict[str, Any]:
    """Temperature, ece and reliability of a classifier with its temperature; empty where it has none."""
    return results["classifiers"][name].get("calibrated") or {}


def fitted_on(results: dict[str, Any]) -> str:
    """On which split the temperatures were fitted, ` on val`; with a dagger for test; empty if it is not known."""
    split = results.get("temperature_on")
    if split is None:
        return ""
    return f" fitted on {split_name(split)}" + (f" {DAGGER}" if split == "test" else "")


def drawn_reliability(results: dict[str, Any]) -> list[str]:
    """The classifiers with a reliability diagram: at most MOST, the paper's first."""
    return paper_first([name for name, row in results["classifiers"].items() if row.get("reliability")], MOST)


def calibration_table(results: dict[str, Any]) -> str:
    """ECE before and after, and the temperature, of every classifier; empty where none has a temperature."""
    names = [name for name in results["classifiers"] if calibrated(results, name)]
    if not names:
        return ""
    dagger = f" {DAGGER}" if results.get("temperature_on") == "test" else ""
    lines = [f"| classifier | ECE | ECE with temperature{dagger} | temperature |", "|---|---:|---:|---:|"]
    for name in names:
        before, after = results["classifiers"][name].get("ece"), calibrated(results, name)
        temperature = number(after.get("temperature"))
        texts = [percent(before), percent(after.get("ece")), "-" if temperature is None else f"{temperature:.3g}"]
        lines.append(f"| {escaped(marked(results, name))} | " + " | ".join(texts) + " |")
    return "\n".join(lines)
