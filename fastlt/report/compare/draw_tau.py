"""Accuracy over tau of one run, with further seeds and the published points around it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastlt.core.groups import GROUPS
from fastlt.core.palette import GROUP_COLOURS, styled
from fastlt.report.compare.compare import same_data
from fastlt.report.compare.published import FIGURE_2, PUBLISHED, PublishedRow
from fastlt.report.compare.runs import Setting
from fastlt.report.draw_accuracy import accuracy_over_tau

CLASSIFIER = "tau_norm"
_RING = {"linestyle": "none", "marker": "o", "markersize": 7, "markerfacecolor": "white", "markeredgewidth": 1.6}


@styled
def over_tau(setting: Setting) -> Figure | None:
    """The exact curves of the first seed with its chosen tau, a thin line for every further seed, and published points
    as open circles (Figure 2, right, of the paper). None where the first seed has no curve on test."""
    runs = with_curves(setting)
    if not runs:
        return None
    first, *others = runs
    figure = accuracy_over_tau(first, CLASSIFIER)
    axes, points = figure.axes[0], published_points(setting)
    for key in (*GROUPS, "all"):
        for results in others:
            curve = results["classifiers"][CLASSIFIER]["curves"]["test"]
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


def with_curves(setting: Setting) -> list[dict]:
    """The runs with a curve of tau-normalization on test, by seed."""
    rows = [(results, results["classifiers"].get(CLASSIFIER) or {}) for results in setting.runs]
    return [results for results, row in rows if "test" in (row.get("curves") or {})]


def published_points(setting: Setting) -> list[PublishedRow]:
    """What was read off the paper's curve over tau, if the setting is that of the paper's curve."""
    if not same_data(setting):
        return []
    wanted = (FIGURE_2, setting.dataset, setting.backbone, setting.sampler)
    return [row for row in PUBLISHED if (row.series, row.dataset, row.backbone, row.sampler) == wanted]
