"""Draws reliability diagrams: accuracy over confidence, before and after temperature scaling."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastlt.core.palette import WIDTH, styled
from fastlt.experiment.results import Bins, ClassifierResult, Results
from fastlt.report.calibration import drawn_reliability, fitted_on
from fastlt.report.canvas import shown_name
from fastlt.report.names import percent

BEFORE: dict[str, Any] = {"color": "#d55e00", "marker": "o"}
AFTER: dict[str, Any] = {"color": "#0072b2", "marker": "s"}
SMALLEST, LARGEST = 6.0, 60.0  # areas of the points, in points squared


@styled
def reliability(results: Results) -> Figure | None:
    """Draws a panel for each classifier, with a point for each bin of confidence whose area shows its images.

    None if the results have no reliability diagrams.
    """
    names = drawn_reliability(results)
    if not names:
        return None
    wide = min(3, len(names))
    deep = -(-len(names) // wide)
    titles = [textwrap.wrap(shown_name(results, name), 24) for name in names]
    lines = max(map(len, titles))
    figure = Figure(figsize=(WIDTH, deep * (WIDTH / 3 + 0.16 * lines) + 0.75), layout="constrained")
    grid = figure.subplots(deep, wide, sharex=True, sharey=True, squeeze=False)
    for axes, name, title in zip(grid.flat, names, titles, strict=False):
        _panel(axes, results.classifiers[name])
        axes.set_title("\n".join(title), fontsize=10.5)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("confidence, %", fontsize=12)
    figure.supylabel("accuracy on test, %", fontsize=12)
    kinds = [Line2D([], [], **BEFORE, label="as it is")]
    if any(results.classifiers[name].calibrated for name in names):
        kinds.append(Line2D([], [], **AFTER, label=f"with a temperature{fitted_on(results)}"))
    figure.legend(handles=kinds, loc="outside upper left", ncols=2, columnspacing=1.2, handlelength=1.6)
    return figure


def _panel(axes: Axes, row: ClassifierResult) -> None:
    axes.plot((0, 100), (0, 100), color="#888888", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    assert row.reliability is not None
    _points(axes, row.reliability, BEFORE)
    text = f"ECE {percent(row.ece)}"
    if row.calibrated and row.calibrated.reliability:
        _points(axes, row.calibrated.reliability, AFTER)
        text += f" → {percent(row.calibrated.ece)}"
    axes.annotate(text, (0, 1), (3, -3), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=10)
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 118)  # leaves room for the ECE above all points
    axes.set_xticks((0, 50, 100))
    axes.set_yticks((0, 50, 100))
    axes.tick_params(labelsize=10)
    axes.set_aspect("equal")
    axes.grid()


def _points(axes: Axes, bins: Bins, style: dict[str, Any]) -> None:
    filled = [row for row in zip(bins.confidence, bins.accuracy, bins.count, strict=True) if None not in row]
    if not filled:
        return
    confidence, accuracy, count = (np.asarray(column, dtype=float) for column in zip(*filled, strict=True))
    area = SMALLEST + (LARGEST - SMALLEST) * count / count.max()
    axes.plot(confidence, accuracy, color=style["color"], linewidth=1)
    axes.scatter(confidence, accuracy, s=area, c=style["color"], marker=style["marker"], linewidths=0, alpha=0.85)
