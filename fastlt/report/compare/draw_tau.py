"""Draws accuracy over tau for all seeds of a group of runs, with the published points."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastlt.core.groups import GROUPS
from fastlt.core.palette import GROUP_COLOURS, styled
from fastlt.experiment.results import Results
from fastlt.report.compare.compare import same_data
from fastlt.report.compare.published import FIGURE_2, PUBLISHED, PublishedRow
from fastlt.report.compare.runs import RunGroup
from fastlt.report.draw_accuracy import accuracy_over_tau

CLASSIFIER = "tau_norm"
_RING = {"linestyle": "none", "marker": "o", "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 1.6}


@styled
def over_tau(run_group: RunGroup) -> Figure | None:
    """Draws the exact curves over tau (Figure 2, right, of the paper).

    The first seed has thick lines and its chosen tau, every further seed a thin line; published points are circles.
    None if no run has a curve on test.
    """
    runs = with_curves(run_group)
    if not runs:
        return None
    first, *others = runs
    figure = accuracy_over_tau(first, CLASSIFIER)
    axes, points = figure.axes[0], published_points(run_group)
    for key in (*GROUPS, "all"):
        for results in others:
            curve = results.classifiers[CLASSIFIER].curves["test"]
            heights = np.array([np.nan if value is None else value for value in curve.get(key, [])], dtype=float)
            if len(heights):
                thin = {"color": GROUP_COLOURS[key], "linewidth": 0.7, "alpha": 0.7, "zorder": 1.5}
                axes.step(curve["tau"], heights, where="post", **thin)
        for row in points:
            if (value := getattr(row, key)) is not None:
                axes.plot(row.tau, value, markeredgecolor=GROUP_COLOURS[key], clip_on=False, zorder=4, **_RING)
    if points:
        known = Line2D([], [], markeredgecolor="#444444", label=f"published, {points[0].source}", **_RING)
        axes.legend(handles=[known], loc="upper right", fontsize=10)
    low, high = axes.get_xlim()
    axes.relim()
    axes.autoscale(axis="y")
    axes.set(xlim=(low, high), ylim=(0, None))
    return figure


def with_curves(run_group: RunGroup) -> list[Results]:
    """Returns the runs that have a curve of tau-normalization on test, by seed."""
    rows = [(results, results.classifiers.get(CLASSIFIER)) for results in run_group.runs]
    return [results for results, row in rows if row and "test" in row.curves]


def published_points(run_group: RunGroup) -> list[PublishedRow]:
    """Returns points read off the paper's curve, if dataset, backbone and sampler are those of that curve."""
    if not same_data(run_group):
        return []
    wanted = (FIGURE_2, run_group.dataset, run_group.backbone, run_group.sampler)
    return [row for row in PUBLISHED if (row.series, row.dataset, row.backbone, row.sampler) == wanted]
