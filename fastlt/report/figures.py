"""All figures of a report, drawn to files. No pyplot: a figure belongs to whoever asked for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fastlt.core.palette import styled
from fastlt.report.draw_accuracy import accuracy_by_group, accuracy_over_tau, shifted_priors
from fastlt.report.draw_calibration import reliability
from fastlt.report.draw_classes import class_counts, sampling_weights, weight_norms
from fastlt.report.draw_regions import decision_regions

DRAWINGS: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "accuracy_by_group": accuracy_by_group,
    "decision_regions": decision_regions,
    "shifted_priors": shifted_priors,
    "reliability": reliability,
    "weight_norms": weight_norms,
    "class_counts": class_counts,
    "sampling_weights": sampling_weights,
}
OVER_TAU = "accuracy_over_tau"


def over_tau(results: dict[str, Any]) -> dict[str, str]:
    """Name of the figure -> classifier, of each classifier with a curve on test."""
    names = [name for name, row in results["classifiers"].items() if "test" in row.get("curves", {})]
    return {OVER_TAU if name == "tau_norm" else f"{OVER_TAU}_{_file_name(name)}": name for name in names}


@styled
def save_figures(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw all figures the results allow into `folder` as PNG and SVG, and return their names.

    The bytes depend on the results and on the version of matplotlib only. A figure of an earlier report that these
    results do not have is removed from `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings = DRAWINGS | {
        figure: lambda results, name=name: accuracy_over_tau(results, name)
        for figure, name in over_tau(results).items()
    }
    drawn = []
    for name, draw in drawings.items():
        figure = draw(results)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None})
            figure.savefig(folder / f"{name}.svg", dpi=160, metadata={"Date": None, "Creator": None})
            drawn.append(name)
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        if path.stem not in drawn and (path.stem in DRAWINGS or path.stem.startswith(OVER_TAU)):
            path.unlink()
    return drawn


def _file_name(name: str) -> str:
    """The classifier's name without what a file name cannot hold; no two of Python's names become one."""
    return re.sub(r"[^\w.]+", "-", name)
