"""The figures of a report: one function each, from the results to a matplotlib Figure.

A function returns None where the results hold nothing to draw. No pyplot: a figure belongs to whoever asked for it, and
the style is set for the length of a call only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fastlt.groups import GROUPS
from fastlt.palette import GROUP_COLOURS, WIDTH, draw_class_counts, log_ticks, mark_groups, steps, styled
from fastlt.report.table import DAGGER, chosen_on, chosen_on_test, label, marked, number, split_name
from fastlt.sampler import class_probabilities

# Okabe and Ito's: colours that stay apart for every kind of colour vision.
CLASSIFIER_COLOURS = {
    "joint": "#4d4d4d",
    "ncm_l2": "#56b4e9",
    "ncm_cosine": "#0072b2",
    "crt": "#e69f00",
    "tau_norm": "#009e73",
    "lws": "#cc79a7",
}
OTHER_COLOURS = ("#d55e00", "#332288", "#999933", "#882255", "#44aa99")
LAW_COLOURS = {"instance": "#332288", "class": "#d1495b", "sqrt": "#117733"}
LINES = {"joint": "-", "crt": "--", "tau_norm": "-.", "lws": (0, (1, 1))}  # readable without colour, too
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_POINTS = 200  # classes drawn one by one; with more, a line per class would be a grey band


@styled
def class_counts(results: dict[str, Any]) -> Figure:
    """Training images of every class, sorted, on a log axis, in the colours of the groups."""
    counts = _sorted_counts(results)
    figure, axes = _figure(3.6)
    draw_class_counts(axes, counts)
    return figure


@styled
def accuracy_by_group(results: dict[str, Any]) -> Figure | None:
    """One panel each for many, medium, few and all; in it one bar each classifier, with its value."""
    rows = results["classifiers"]
    panels = [key for key in (*GROUPS, "all") if any(number(row.get(key)) is not None for row in rows.values())]
    if not panels:
        return None
    colours = classifier_colours(rows)
    names = list(rows)
    deep = (len(panels) + 1) // 2
    figure = Figure(figsize=(WIDTH, deep * (0.30 * len(names) + 0.55) + 0.3), layout="constrained")
    grid = np.atleast_1d(figure.subplots(deep, 2 if len(panels) > 1 else 1, sharex=True, sharey=True, squeeze=False))
    for axes, key in zip(grid.flat, panels, strict=False):
        values = [number(rows[name].get(key)) for name in names]
        lengths = [0.0 if value is None else value for value in values]
        axes.barh(names, lengths, color=[colours[name] for name in names], height=0.78)
        for name, value, length in zip(names, values, lengths, strict=True):
            text = "none" if value is None else f"{value:.1f}"
            value_at = {"textcoords": "offset points", "va": "center", "fontsize": 11}
            # White below the value, or the line of joint would run through it.
            below = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(text, (length, name), (4, 0), bbox=below, **value_at)
        if "joint" in rows and (joint := number(rows["joint"].get(key))) is not None and len(names) > 1:
            axes.axvline(joint, color=colours["joint"], linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        size = sum(results["groups"].values()) if key == "all" else results["groups"][key]
        axes.set_title(f"{key} ({size:,} classes)", color=GROUP_COLOURS[key], fontweight="bold")
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    first = grid.flat[0]
    first.set_yticks(range(len(names)), [marked(results, name) for name in names])
    first.set_ylim(len(names) - 0.5, -0.5)
    top = max(number(row.get(key)) or 0.0 for row in rows.values() for key in panels)
    first.set_xlim(0, max(top, 1.0) * 1.22)  # room for the value behind the longest bar
    first.set_xticks([])
    figure.supxlabel("accuracy on test, %", fontsize=12)
    return figure


@styled
def weight_norms(results: dict[str, Any]) -> Figure | None:
    """Norm of every class's weights, each classifier's divided by its mean (Figure 2, left, of the paper)."""
    rows = {name: row["weight_norms"] for name, row in results["classifiers"].items() if "weight_norms" in row}
    if not rows:
        return None
    counts, order = _sorted_counts(results), _order(results)
    colours = classifier_colours(results["classifiers"])
    figure, axes = _figure(3.9)
    block = block_size(len(order))
    for name, norms in rows.items():
        values = np.asarray(norms, dtype=float)[order]
        starts = np.arange(0, len(values), block)
        ends = np.minimum(starts + block, len(values))
        means = np.add.reduceat(values / (values.mean() or 1.0), starts) / (ends - starts)
        axes.plot((starts + ends) / 2, means, color=colours[name], linestyle=LINES.get(name, "-"), label=label(name))
    mark_groups(axes, counts)
    axes.grid(axis="y")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_ylabel("‖w‖ of the class / mean ‖w‖\nof the classifier")
    _legend(figure, axes)
    return figure


@styled
def accuracy_over_tau(results: dict[str, Any]) -> Figure | None:
    """Accuracy on test of the groups over tau, with the tau that was chosen (Figure 2, right, of the paper)."""
    row = results["classifiers"].get("tau_norm", {})
    curves, choices = row.get("curves", {}), row.get("choices", {})
    if "test" not in curves:
        return None
    chosen = number(choices.get("tau"))
    low, high = _tau_range(curves["test"]["tau"], chosen)
    figure, axes = _figure(4.1)
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
        dagger = f" {DAGGER}" if chosen_on_test(results, "tau_norm") else ""
        split = chosen_on(results, "tau_norm")
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
    axes.set_xlabel("τ (0: the joint classifier without bias)")
    axes.set_ylabel("accuracy on test, %")
    _legend(figure, axes)
    return figure


@styled
def sampling_weights(results: dict[str, Any]) -> Figure:
    """How often each class is drawn under the paper's four sampling laws (Figure 3 of the paper)."""
    counts = _sorted_counts(results)
    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    fixed, moving = figure.subplots(2, 1, sharex=True, sharey=True)
    own = results["sampler"]
    for law, colour in LAW_COLOURS.items():
        edges, values = steps(100 * class_probabilities(counts, law))
        style = {"instance": "-", "class": "--", "sqrt": "-."}[law]
        text = f"{law} (this run)" if law == own else law
        fixed.step(edges, [*values, values[-1]], where="post", color=colour, linestyle=style, label=text)
    start, end = (np.array(to_rgb(LAW_COLOURS[law])) for law in ("instance", "class"))
    for progress in PROGRESS:
        edges, values = steps(100 * class_probabilities(counts, "progressive", progress))
        colour = tuple(start + progress * (end - start))
        moving.step(edges, [*values, values[-1]], where="post", color=colour, label=f"{progress:g}")
    mark_groups(fixed, counts)
    mark_groups(moving, counts, names=False)
    for axes in (fixed, moving):
        axes.set_yscale("log")
        axes.set_ylabel("draws of the class, %")
    low, high = fixed.get_ylim()
    log_ticks(fixed, high / low)
    log_ticks(moving, high / low)
    above = {"loc": "lower left", "alignment": "left", "borderaxespad": 0, "handlelength": 1.6, "columnspacing": 1.2}
    fixed.legend(ncols=3, bbox_to_anchor=(0, 1.12), **above)
    title = "progressive (this run), at t/T =" if own == "progressive" else "progressive, at t/T ="
    moving.legend(ncols=len(PROGRESS), bbox_to_anchor=(0, 1.01), title=title, **above)
    fixed.set_xlabel("")
    return figure


DRAWINGS: dict[str, Callable[[dict[str, Any]], Figure | None]] = {
    "accuracy_by_group": accuracy_by_group,
    "accuracy_over_tau": accuracy_over_tau,
    "weight_norms": weight_norms,
    "class_counts": class_counts,
    "sampling_weights": sampling_weights,
}


@styled
def save_figures(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw all figures the results allow into `folder` as PNG and SVG, and return their names in order.

    The bytes depend on the results and on the version of matplotlib only. A figure of DRAWINGS that these results do
    not have is removed from `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in DRAWINGS.items():
        figure = draw(results)
        png, svg = folder / f"{name}.png", folder / f"{name}.svg"
        if figure is None:
            png.unlink(missing_ok=True)
            svg.unlink(missing_ok=True)
            continue
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        drawn.append(name)
    return drawn


def classifier_colours(names: Any) -> dict[str, str]:
    """One colour for each name: the known ones keep theirs in every report, the others share the rest in order."""
    others = [name for name in names if name not in CLASSIFIER_COLOURS]
    extra = {name: OTHER_COLOURS[place % len(OTHER_COLOURS)] for place, name in enumerate(others)}
    return {name: CLASSIFIER_COLOURS.get(name) or extra[name] for name in names}


def block_size(classes: int) -> int:
    """How many neighbouring classes weight_norms averages into one point."""
    return -(-classes // MOST_POINTS)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _order(results: dict[str, Any]) -> np.ndarray:
    """The classes from most to fewest training images, equal ones in their own order."""
    return np.argsort(-np.asarray(results["class_counts"]["train"]), kind="stable")


def _sorted_counts(results: dict[str, Any]) -> np.ndarray:
    return np.asarray(results["class_counts"]["train"])[_order(results)]


def _curve(curve: dict[str, list[Any]], key: str) -> tuple[list[Any], np.ndarray]:
    """Tau and one accuracy over it, with gaps for null."""
    return curve["tau"], np.array([np.nan if value is None else value for value in curve[key]], dtype=float)


def _tau_range(tau: list[float], chosen: float | None) -> tuple[float, float]:
    """The part of the tau axis to show: 0 to 2 as in the paper, cut to the curve, widened to hold the chosen tau."""
    low, high = max(min(tau), 0.0), min(max(tau), 2.0)
    if chosen is not None:
        low, high = min(low, chosen), max(high, chosen)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend above the axes, where no data can be, in one row if it fits; the figure grows with its rows."""
    lines, names = axes.get_legend_handles_labels()
    widths = [0.08 * len(name) + 0.6 for name in names]  # inches, about
    columns = len(names) if sum(widths) < WIDTH else max(1, int(WIDTH / max(widths)))
    figure.set_figheight(figure.get_figheight() + 0.24 * (-(-len(names) // columns) - 1))
    figure.legend(lines, names, loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=1.8)
