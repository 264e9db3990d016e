"""Figures of accuracy: by group, over tau, and over shifted priors of the test classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastlt.core.groups import GROUPS
from fastlt.core.palette import GROUP_COLOURS, WIDTH, styled
from fastlt.experiment.results import Results
from fastlt.report.canvas import add_legend, bar_colours, line_styles, new_figure, shown_name
from fastlt.report.choices import DAGGER, chosen_on, chosen_on_test
from fastlt.report.names import number, split_name
from fastlt.report.shifted import drawn_over_priors, priors

# The classifier that tau = 0 gives.
_TAU_ZERO = {
    **dict.fromkeys(("tau_norm", "logit_adjust_mult"), "the joint classifier without bias"),
    "logit_adjust": "the joint classifier",
}


@styled
def accuracy_by_group(results: Results) -> Figure | None:
    """Draws panels for many, medium, few and all, with a bar for each classifier, its value and its ± over seeds."""
    rows = results.classifiers
    panels = [key for key in (*GROUPS, "all") if any(getattr(row, key) is not None for row in rows.values())]
    if not panels:
        return None
    colours = bar_colours(rows)
    places = range(len(rows))
    deep = (len(panels) + 1) // 2
    row_height = 0.30 if len(rows) <= 8 else 0.24
    figure = Figure(figsize=(WIDTH, deep * (row_height * len(rows) + 0.55) + 0.3), layout="constrained")
    grid = np.atleast_1d(figure.subplots(deep, 2 if len(panels) > 1 else 1, sharex=True, sharey=True, squeeze=False))
    for axes, key in zip(grid.flat, panels, strict=False):
        values = [getattr(row, key) for row in rows.values()]
        spreads = [row.std.get(key) or 0.0 for row in rows.values()]
        lengths = [0.0 if value is None else value for value in values]
        axes.barh(places, lengths, color=list(colours.values()), height=0.78)
        for place, value, length, spread in zip(places, values, lengths, spreads, strict=True):
            if spread:
                axes.errorbar(length, place, xerr=spread, color="black", linewidth=1.2, capsize=2)
            text = "none" if value is None else f"{value:.1f}"
            value_at = {"textcoords": "offset points", "va": "center", "fontsize": 11}
            # The value has a white background, because the line of joint would run through it.
            below = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(text, (length + spread, place), (4, 0), bbox=below, **value_at)
        if "joint" in rows and (joint := getattr(rows["joint"], key)) is not None and len(rows) > 1:
            axes.axvline(joint, color=colours["joint"], linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        size = sum(results.groups.values()) if key == "all" else results.groups[key]
        axes.set_title(f"{key} ({size:,})", color=GROUP_COLOURS[key], fontweight="bold")
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    first = grid.flat[0]
    first.set_yticks(places, [shown_name(results, name) for name in rows])
    first.set_ylim(len(rows) - 0.5, -0.5)
    top = max((getattr(row, key) or 0.0) + (row.std.get(key) or 0.0) for row in rows.values() for key in panels)
    first.set_xlim(0, max(top, 1.0) * 1.25)  # leaves room for the value after the longest bar
    first.set_xticks([])
    figure.supxlabel("accuracy on test, % (in brackets: classes)", fontsize=12)
    return figure


@styled
def accuracy_over_tau(results: Results, name: str) -> Figure:
    """Draws the accuracies on test over tau, and the chosen tau (Figure 2, right, of the paper)."""
    row = results.classifiers[name]
    curves, choices = row.curves, row.choices
    chosen = number(choices.get("tau"))
    low, high = _tau_range([tau for tau in curves["test"]["tau"] if tau is not None], chosen)
    figure, axes = new_figure(4.1)
    for key in (*GROUPS, "all"):
        if any(value is not None for value in curves["test"].get(key, [])):
            axes.step(*_curve(curves["test"], key), where="post", color=GROUP_COLOURS[key], label=key)
    for split in [split for split in curves if split != "test" and "mean_class" in curves[split]]:
        style = {"color": "#666666", "linewidth": 1.2, "linestyle": (0, (4, 2))}
        text = f"mean class, on {split_name(split)}"
        axes.step(*_curve(curves[split], "mean_class"), where="post", label=text, **style)
    if chosen is not None:
        # An end that is null stands for infinity.
        ends = [number(end) for end in choices.get("interval") or (chosen, chosen)]
        left, right = (limit if end is None else end for end, limit in zip(ends, (low, high), strict=True))
        axes.axvspan(left, right, color="#000000", alpha=0.13, linewidth=0)
        axes.axvline(chosen, color="#000000", linewidth=1)
        dagger = f" {DAGGER}" if chosen_on_test(results, name) else ""
        split = chosen_on(results, name)
        text = f"τ = {chosen:.3g}" + (f", chosen on {split}{dagger}" if split else "")
        share = (chosen - low) / (high - low)
        side = "left" if share < 0.25 else "right" if share > 0.75 else "center"
        place = axes.get_xaxis_transform()
        axes.annotate(
            text, (chosen, 1), (0, 4), xycoords=place, textcoords="offset points", ha=side, annotation_clip=False
        )
    axes.set_xlim(low, high)
    axes.set_ylim(0, None)
    axes.grid()
    axes.set_xlabel(f"τ (0: {_TAU_ZERO[name]})" if name in _TAU_ZERO else "τ")
    axes.set_ylabel("accuracy on test, %")
    add_legend(figure, axes)
    return figure


@styled
def shifted_priors(results: Results) -> Figure | None:
    """Draws accuracy over the prior of the test classes, from long-tailed as in training to long-tailed the other way.

    None if the results have no shifted priors.
    """
    names = drawn_over_priors(results)
    if not names:
        return None
    shown = priors(results)
    figure, axes = new_figure(4.1)
    for name, style in line_styles(names).items():
        values = [results.classifiers[name].shifted.get(prior) for prior in shown]
        heights = [np.nan if value is None else value for value in values]
        axes.plot(range(len(shown)), heights, marker="o", markersize=4, label=shown_name(results, name), **style)
    axes.set_xticks(range(len(shown)), ["1" if prior == "uniform" else prior.rsplit("_", 1)[-1] for prior in shown])
    axes.grid()
    axes.set_xlabel("imbalance of the test classes\n← forward, as in training      backward, rare ones frequent →")
    axes.set_ylabel("accuracy on test, %")
    add_legend(figure, axes)
    return figure


def _curve(curve: dict[str, list[Any]], key: str) -> tuple[list[Any], np.ndarray]:
    """Returns (tau, accuracies) of one criterion of a curve; null becomes NaN, which leaves a gap."""
    return curve["tau"], np.array([np.nan if value is None else value for value in curve[key]], dtype=float)


def _tau_range(tau: list[float], chosen: float | None) -> tuple[float, float]:
    """Returns the range of tau to show: 0 to 2 as in the paper, limited to the curve, extended to the chosen tau.

    Where the chosen tau would lie at the right border, a tenth of the range is left beside it.
    """
    low, high = max(min(tau), 0.0), min(max(tau), 2.0)
    if chosen is not None:
        low, high = min(low, chosen), max(high, chosen + 0.1 * (max(high, chosen) - low))
    return (low, high) if high > low else (low - 0.5, low + 0.5)
