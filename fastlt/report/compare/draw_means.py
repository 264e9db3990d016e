"""Draws means and standard deviations over seeds: classifiers over samplers, and classifiers over backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastlt.core.groups import GROUPS
from fastlt.core.palette import GROUP_COLOURS, WIDTH, styled
from fastlt.report.canvas import MOST_LINES, add_legend, line_styles, new_figure, shown_name
from fastlt.report.compare.model import Measured
from fastlt.report.compare.runs import RunGroup, classifiers, measured
from fastlt.report.names import paper_first

_MARKERS = ("o", "s", "^", "D", "v", "P")  # for readers who cannot tell the colours apart
_BESIDE = 0.11  # distance between the points of one sampler; samplers are one unit apart
_CLOSE = 0.045  # the same for backbones: just enough that no point hides another


@styled
def over_samplers(run_groups: Sequence[RunGroup]) -> Figure | None:
    """Draws panels for many, medium, few and all, with the classifiers over the samplers (Figure 1 of the paper).

    run_groups: groups that differ only in the sampler, from the least to the most balanced.

    Each panel has its own scale, because differences within a group of classes are small compared with those between
    groups. None if there are fewer than two samplers.
    """
    names = drawn(run_groups)
    if len(run_groups) < 2 or not names:
        return None
    groups = run_groups[0].runs[0].groups
    panels = [key for key in (*GROUPS, "all") if any(measured(run_group, names[0], key) for run_group in run_groups)]
    figure = Figure(figsize=(WIDTH, 2.7 * -(-len(panels) // 2) + 0.3), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
    for axes, key in zip(grid.flat, panels, strict=False):
        for place, (name, style) in enumerate(_styles(names).items()):
            aside = _BESIDE * (place - (len(names) - 1) / 2)
            found = [measured(run_group, name, key) for run_group in run_groups]
            _points(axes, found, aside, label=_shown(run_groups, name), **style)
        for edge in range(1, len(run_groups)):
            axes.axvline(edge - 0.5, color="#e4e4e4", linewidth=1, zorder=0)
        size = sum(groups.values()) if key == "all" else groups[key]
        axes.set_title(f"{key} ({size:,})", color=GROUP_COLOURS[key], fontweight="bold")
        axes.set_xticks(range(len(run_groups)), [run_group.sampler for run_group in run_groups])
        axes.set_xlim(-0.5, len(run_groups) - 0.5)
        axes.tick_params(labelsize=10.5)
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.supylabel("accuracy on test, % (in brackets: classes)", fontsize=12)
    figure.supxlabel("sampling of the representation", fontsize=12)
    add_legend(figure, grid.flat[0])
    return figure


@styled
def over_backbones(run_groups: Sequence[RunGroup]) -> Figure | None:
    """Draws the accuracy of classifiers over all test images, over the backbones (Figure 5 of the paper).

    run_groups: groups that differ only in the backbone, from few to many parameters. None if there are fewer than two.
    """
    names = drawn(run_groups)
    if len(run_groups) < 2 or not names:
        return None
    figure, axes = new_figure(3.9)
    for place, (name, style) in enumerate(_styles(names).items()):
        found = [measured(run_group, name, "all") for run_group in run_groups]
        _points(axes, found, _CLOSE * (place - (len(names) - 1) / 2), label=_shown(run_groups, name), **style)
    axes.set_xticks(range(len(run_groups)), [_with_parameters(run_group) for run_group in run_groups])
    axes.set_xlim(-0.4, len(run_groups) - 0.6)
    axes.tick_params(labelsize=10.5 if len(run_groups) <= 6 else 9)
    axes.grid(axis="y")
    axes.set_ylabel("accuracy on test (all), %")
    add_legend(figure, axes)
    return figure


def drawn(run_groups: Sequence[RunGroup]) -> list[str]:
    """Returns the classifiers that are drawn: at most MOST_LINES, the paper's first."""
    names = dict.fromkeys(name for run_group in run_groups for name in classifiers(run_group))
    return paper_first([name for name in names if any(measured(each, name, "all") for each in run_groups)], MOST_LINES)


def parameters(run_group: RunGroup) -> int:
    """Returns the number of parameters of the model; 0 if (old) results do not record it."""
    return int(run_group.runs[0].parameters or 0)


def _styles(names: list[str]) -> dict[str, dict[str, Any]]:
    styles = line_styles(names).items()
    return {name: {**style, "marker": mark} for (name, style), mark in zip(styles, _MARKERS, strict=False)}


def _points(axes: Axes, found: list[Measured | None], aside: float, label: str, **style: Any) -> None:
    """Draws the points of a classifier with their ±, connected by a pale line so that they are found easily."""
    places = np.arange(len(found)) + aside
    means = np.array([np.nan if each is None else each.mean for each in found])
    spreads = np.array([np.nan if each is None or each.sd is None else each.sd for each in found])
    colour, known = style["color"], ~np.isnan(spreads)
    axes.plot(places, means, color=colour, linestyle=style["linestyle"], linewidth=1, alpha=0.45)
    bars = {"fmt": "none", "ecolor": colour, "elinewidth": 1.4, "capsize": 2.5}
    axes.errorbar(places[known], means[known], yerr=spreads[known], **bars)
    axes.plot(places, means, color=colour, linestyle="none", marker=style["marker"], markersize=6, label=label)


def _shown(run_groups: Sequence[RunGroup], name: str) -> str:
    runs = [results for run_group in run_groups for results in run_group.runs if name in results.classifiers]
    return max((shown_name(results, name) for results in runs), key=len)  # the longest has the dagger, if any has


def _with_parameters(run_group: RunGroup) -> str:
    count = parameters(run_group)
    return run_group.backbone + (f"\n{count / 1e6:.1f} M" if count else "")
