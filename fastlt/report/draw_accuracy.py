"""Figures of accuracy: by group, over tau, and over shifted priors of the test classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fastlt.core.groups import GROUPS
from fastlt.core.palette import GROUP_COLOURS, WIDTH, styled
from fastlt.report.canvas import add_legend, bar_colours, line_styles, new_figure, shown_name
from fastlt.report.choices import DAGGER, chosen_on, chosen_on_test
from fastlt.report.names import number, split_name
from fastlt.report.shifted import drawn_over_priors, priors

# What a tau of 0 gives.
_TAU_ZERO = {"tau_norm": "the joint classifier without bias", "logit_adjust": "the joint classifier"}


@styled
def accuracy_by_group(results: dict[str, Any]) -> Figure | None:
    """One panel each for many, medium, few and all; in it one bar each classifier, with its value and its ± if any."""
    rows = results["classifiers"]
    panels = [key for key in (*GROUPS, "all") if any(number(row.get(key)) is not None for row in rows.values())]
    if not panels:
        return None
    colours = bar_colours(rows)
    places = range(len(rows))
    deep = (len(panels) + 1) // 2
    row_height = 0.30 if len(rows) <= 8 else 0.24
    figure = Figure(figsize=(WIDTH, deep * (row_height * len(rows) + 0.55) + 0.3), layout="constrained")
    grid = np.atleast_1d(figure.subplots(deep, 2 if len(panels) > 1 else 1, sharex=True, sharey=True, squeeze=False))
    for axes, key in zip(grid.flat, panels, strict=False):
        values = [number(row.get(key)) for row in rows.values()]
        spreads = [number((row.get("std") or {}).get(key)) or 0.0 for row in rows.values()]
        lengths = [0.0 if value is None else value for value in values]
        axes.barh(places, lengths, color=list(colours.values()), height=0.78)
        for place, value, length, spread in zip(places, values, lengths, spreads, strict=True):
            if spread:
                axes.errorbar(length, place, xerr=spread, color="black", linewidth=1.2, capsize=2)
            text = "none" if value is None else f"{value:.1f}"
            value_at = {"textcoords": "offset points", "va": "center", "fontsize": 11}
            # White below the value, or the line of joint would run through it.
            below = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(text, (length + spread, place), (4, 0), bbox=below, **value_at)
        if "joint" in rows and (joint := number(rows["joint"].get(key))) is not None and len(rows) > 1:
            axes.axvline(joint, color=colours["joint"], linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        size = sum(results["groups"].values()) if key == "all" else results["groups"][key]
        axes.set_title(f"{key} ({size:,})", color=GROUP_COLOURS[key], fontweight="bold")
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    first = grid.flat[0]
    first.set_yticks(places, [shown_name(results, name) for name in rows])
    first.set_ylim(len(rows) - 0.5, -0.5)
    top = max(
        (number(row.get(key)) or 0.0) + (number((row.get("std") or {}).get(key)) or 0.0)
        for row in rows.values()
        for key in panels
    )
    first.set_xlim(0, max(top, 1.0) * 1.25)  # room for the value behind the longest bar
    first.set_xticks([])
    figure.supxlabel("accuracy on test, % (in brackets: classes)", fontsize=12)
    return figure


@styled
def accuracy_over_tau(results: dict[str, Any], name: str) -> Figure:
    """Accuracy on test of the groups over tau, with the tau that was chosen (Figure 2, right, of the paper)."""
    row = results["classifiers"][name]
    curves, choices = row["curves"], row.get("choices") or {}
    chosen = number(choices.get("tau"))
    low, high = _tau_range(curves["test"]["tau"], chosen)
    figure, axes = new_figure(4.1)
    for key in (*GROUPS, "all"):
        if any(number(value) is not None for value in curves["test"].get(key, [])):
            axes.step(*_curve(curves["test"], key), where="post", color=GROUP_COLOURS[key], label=key)
    for split in [split for split in curves if split != "test" and "mean_class" in curves[split]]:
        style = {"color": "#666666", "linewidth": 1.2, "linestyle": (0, (4, 2))}
        text = f"mean class, on {split_name(split)}"
        axes.step(*_curve(curves[split], "mean_class"), where="post", label=text, **style)
    if chosen is not None:
        # An end of the interval that is null means that it reaches to infinity.
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
def shifted_priors(results: dict[str, Any]) -> Figure | None:
    """Accuracy over the prior of the test classes, from as long-tailed as in training to that turned round."""
    names = drawn_over_priors(results)
    if not names:
        return None
    shown = priors(results)
    figure, axes = new_figure(4.1)
    for name, style in line_styles(names).items():
        values = [number(results["classifiers"][name]["shifted"].get(prior)) for prior in shown]
        heights = [np.nan if value is None else value for value in values]
        axes.plot(range(len(shown)), heights, marker="o", markersize=4, label=shown_name(results, name), **style)
    axes.set_xticks(range(len(shown)), ["1" if prior == "uniform" else prior.rsplit("_", 1)[-1] for prior in shown])
    axes.grid()
    axes.set_xlabel("imbalance of the test classes\n← forward, as in training      backward, rare ones frequent →")
    axes.set_ylabel("accuracy on test, %")
    add_legend(figure, axes)
    return figure


def _curve(curve: dict[str, list[Any]], key: str) -> tuple[list[Any], np.ndarray]:
    """Tau and one accuracy over it, with gaps for null."""
    return curve["tau"], np.array([np.nan if value is None else value for value in curve[key]], dtype=float)


def _tau_range(tau: list[float], chosen: float | None) -> tuple[float, float]:
    """The part of the tau axis to show: 0 to 2 as in the paper, cut to the curve, widened to hold the chosen tau."""
    low, high = max(min(tau), 0.0), min(max(tau), 2.0)
    if chosen is not None:
        low, high = min(low, chosen), max(high, chosen)
    return (low, high) if high > low else (low - 0.5, low + 0.5)
