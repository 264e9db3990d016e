"""Draws all figures of a report into files, without pyplot and its global state."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from fastlt.core.log import regretted
from fastlt.core.palette import save_figure, styled
from fastlt.experiment.results import Results
from fastlt.report.draw_accuracy import accuracy_by_group, accuracy_over_tau, shifted_priors
from fastlt.report.draw_calibration import reliability
from fastlt.report.draw_classes import class_counts, sampling_weights, weight_norms
from fastlt.report.draw_regions import decision_regions

DRAWINGS: dict[str, Callable[[Results], Figure | None]] = {
    "accuracy_by_group": accuracy_by_group,
    "decision_regions": decision_regions,
    "shifted_priors": shifted_priors,
    "reliability": reliability,
    "weight_norms": weight_norms,
    "class_counts": class_counts,
    "sampling_weights": sampling_weights,
}
OVER_TAU = "accuracy_over_tau"


def over_tau(results: Results) -> dict[str, str]:
    """Returns {name of the figure: classifier} for the classifiers that have a curve over tau on test."""
    names = [name for name, row in results.classifiers.items() if "test" in row.curves]
    return {OVER_TAU if name == "tau_norm" else f"{OVER_TAU}_{_file_name(name)}": name for name in names}


@styled
def save_figures(results: Results, folder: Path) -> list[str]:
    """Draws all figures that the results allow into `folder`, as PNG and SVG; returns their names.

    The bytes depend only on the results and the version of matplotlib. Figures of an earlier report that these results
    do not have are removed from `folder`. A figure that cannot be drawn is left out and reported at the end of the
    command.
    """
    drawings = DRAWINGS | {
        figure: lambda results, name=name: accuracy_over_tau(results, name)
        for figure, name in over_tau(results).items()
    }
    drawn = []
    for name, draw in drawings.items():
        with regretted(f"figure {name}"):
            if (figure := draw(results)) is not None:
                save_figure(figure, folder / name)
                drawn.append(name)
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        if path.stem not in drawn and (path.stem in DRAWINGS or path.stem.startswith(OVER_TAU)):
            path.unlink()
    return drawn


def _file_name(name: str) -> str:
    """Returns a classifier's name with all characters replaced that a file name cannot have.

    The file names of different classifiers differ, because names in Python have none of the replaced characters.
    """
    return re.sub(r"[^\w.]+", "-", name)
