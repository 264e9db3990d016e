"""Figures of means and standard deviations over seeds: over the samplers of a representation, and over backbones."""

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
from fastlt.report.compare.runs import Setting, classifiers, measured
from fastlt.report.names import paper_first

_MARKERS = ("o", "s", "^", "D", "v", "P")  # told apart without colour, too
_BESIDE = 0.11  # between the points of one sampler, which are one unit from those of the next
_CLOSE = 0.045  # the same for a backbone: only so much that no point hides another


@styled
def over_samplers(settings: Sequence[Setting]) -> Figure | None:
    """A panel each for many, medium, few and all; in it the classifiers over the samplers (Figure 1 of the paper).

    settings: alike but for the sampler, from the least to the most balanced. None with fewer than two. The panels have
    axes of their own: the differences within a group are small beside those between groups.
    """
    names = drawn(settings)
    if len(settings) < 2 or not names:
        return None
    groups = settings[0].runs[0]["groups"]
    panels = [key for key in (*GROUPS, "all") if any(measured(setting, names[0], key) for setting in settings)]
    figure = Figure(figsize=(WIDTH, 2.7 * -(-len(panels) // 2) + 0.3), layout="constrained")
    grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False)
    for axes, key in zip(grid.flat, panels, strict=False):
        for place, (name, style) in enumerate(_styles(names).items()):
            aside = _BESIDE * (place - (len(names) - 1) / 2)
            found = [measured(setting, name, key) for setting in settings]
            _points(axes, found, aside, label=_shown(settings, name), **style)
        for edge in range(1, len(settings)):
            axes.axvline(edge - 0.5, color="#e4e4e4", linewidth=1, zorder=0)
        size = sum(groups.values()) if key == "all" else groups[key]
        axes.set_title(f"{key} ({size:,})", color=GROUP_COLOURS[key], fontweight="bold")
        axes.set_xticks(range(len(settings)), [setting.sampler for setting in settings])
        axes.set_xlim(-0.5, len(settings) - 0.5)
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
def over_backbones(settings: Sequence[Setting]) -> Figure | None:
    """Accuracy over all test images of the classifiers over the backbones (Figure 5 of the paper).

    settings: alike but for the backbone, from few to many parameters. None with fewer than two.
    """
    names = drawn(settings)
    if len(settings) < 2 or not names:
        return None
    figure, axes = new_figure(3.9)
    for place, (name, style) in enumerate(_styles(names).items()):
        found = [measured(setting, name, "all") for setting in settings]
        _points(axes, found, _CLOSE * (place - (len(names) - 1) / 2), label=_shown(settings, name), **style)
    axes.set_xticks(range(len(settings)), [_with_parameters(setting) for setting in settings])
    axes.set_xlim(-0.4, len(settings) - 0.6)
    axes.tick_params(labelsize=10.5 if len(settings) <= 6 else 9)
    axes.grid(axis="y")
    axes.set_ylabel("accuracy on test (all), %")
    add_legend(figure, axes)
    return figure


def drawn(settings: Sequence[Setting]) -> list[str]:
    """The classifiers of these figures: as many as have colours of their own, the paper's first."""
    names = dict.fromkeys(name for setting in settings for name in classifiers(setting))
    return paper_first([name for name in names if any(measured(each, name, "all") for each in settings)], MOST_LINES)


def parameters(setting: Setting) -> int:
    """Of the model, 0 where old results do not tell."""
    return int(setting.runs[0].get("parameters") or 0)


def _styles(names: list[str]) -> dict[str, dict[str, Any]]:
    styles = line_styles(names).items()
    return {name: {**style, "marker": mark} for (name, style), mark in zip(styles, _MARKERS, strict=False)}


def _points(axes: Axes, found: list[Measured | None], aside: float, label: str, **style: Any) -> None:
    """Points with their ± and a pale line through them, so that the eye finds a classifier again."""
    places = np.arange(len(found)) + aside
    means = np.array([np.nan if each is None else each.mean for each in found])
    spreads = np.array([np.nan if each is None or each.sd is None else each.sd for each in found])
    colour, known = style["color"], ~np.isnan(spreads)
    axes.plot(places, means, color=colour, linestyle=style["linestyle"], linewidth=1, alpha=0.45)
    bars = {"fmt": "none", "ecolor": colour, "elinewidth": 1.4, "capsize": 2.5}
    axes.errorbar(places[known], means[known], yerr=spreads[known], **bars)
    axes.plot(places, means, color=colour, linestyle="none", marker=style["marker"], markersize=6, label=label)


def _shown(settings: Sequence[Setting], name: str) -> str:
    runs = [results for setting in settings for results in setting.runs if name in results["classifiers"]]
    return max((shown_name(results, name) for results in runs), key=len)  # the one with a dagger, if any has


def _with_parameters(setting: Setting) -> str:
    count = parameters(setting)
    return setting.backbone + (f"\n{count / 1e6:.1f} M" if count else "")
