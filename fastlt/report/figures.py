"""The figures of a report: one function each, from the results to a matplotlib Figure.

A function returns None where the results hold nothing to draw. No pyplot: a figure belongs to whoever asked for it, and
the style is set for the length of a call only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fastlt.groups import GROUPS, class_groups
from fastlt.report.table import DAGGER, chosen_on, chosen_on_test, label, marked, number, split_name
from fastlt.sampler import class_probabilities

# Colours that stay apart for every kind of colour vision: Okabe and Ito's for classifiers, Tol's high contrast for
# groups (its yellow darkened, to be readable as a line on white).
CLASSIFIER_COLOURS = {
    "joint": "#4d4d4d",
    "ncm_l2": "#56b4e9",
    "ncm_cosine": "#0072b2",
    "crt": "#e69f00",
    "tau_norm": "#009e73",
    "lws": "#cc79a7",
}
OTHER_COLOURS = ("#d55e00", "#332288", "#999933", "#882255", "#44aa99")
GROUP_COLOURS = {"many": "#004488", "medium": "#c28a00", "few": "#bb5566", "all": "#000000"}
LAW_COLOURS = {"instance": "#332288", "class": "#d1495b", "sqrt": "#117733"}
LINES = {"joint": "-", "crt": "--", "tau_norm": "-.", "lws": (0, (1, 1))}  # readable without colour, too
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_POINTS = 200  # classes drawn one by one; with more, a line per class would be a grey band
CLASSES = "classes, from most to fewest training images"

WIDTH = 6.4  # inches; with 12 pt letters a figure stays readable at the width of a phone
STYLE = {
    "figure.facecolor": "white",
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2.0,
    "text.parse_math": False,  # a class or data set may be named with dollar signs
    "svg.hashsalt": "fastlt",  # the ids inside an SVG are random without it
    "svg.fonttype": "path",
}


def _styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Run `draw` in the report's style over matplotlib's defaults: a user's matplotlibrc must not change a byte."""

    @functools.wraps(draw)
    def wrapper(*args: Any) -> Any:
        with matplotlib.style.context(["default", STYLE]):
            return draw(*args)

    return wrapper


@_styled
def class_counts(results: dict[str, Any]) -> Figure:
    """Training images of every class, sorted, on a log axis, in the colours of the groups."""
    counts = _sorted_counts(results)
    figure, axes = _figure(3.6)
    edges, heights = _steps(counts)
    groups = class_groups(heights)
    for place, group in enumerate(GROUPS):
        inside = groups == place
        if inside.any():
            first, last = np.flatnonzero(inside)[[0, -1]]
            axes.stairs(
                np.maximum(heights[first : last + 1], 0.5),
                edges[first : last + 2],
                baseline=1e-3,
                fill=True,
                color=GROUP_COLOURS[group],
                alpha=0.85,
            )
    _mark_groups(axes, counts)
    _log_counts(axes, counts)
    middle = len(counts) / 2
    for rank, text_at in ((0, "left"), (len(counts) - 1, "right")):
        at, aside = (rank, 3) if rank < middle else (rank + 1, -2)
        place = (at, max(counts[rank], 0.5))
        axes.annotate(f"{counts[rank]:,}", place, (aside, 3), textcoords="offset points", ha=text_at)
    axes.set_ylabel("training images of the class")
    return figure


@_styled
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


@_styled
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
    _mark_groups(axes, counts)
    axes.grid(axis="y")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_ylabel("‖w‖ of the class / mean ‖w‖\nof the classifier")
    _legend(figure, axes)
    return figure


@_styled
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


@_styled
def sampling_weights(results: dict[str, Any]) -> Figure:
    """How often each class is drawn under the paper's four sampling laws (Figure 3 of the paper)."""
    counts = _sorted_counts(results)
    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    fixed, moving = figure.subplots(2, 1, sharex=True, sharey=True)
    own = results["sampler"]
    for law, colour in LAW_COLOURS.items():
        edges, values = _steps(100 * class_probabilities(counts, law))
        style = {"instance": "-", "class": "--", "sqrt": "-."}[law]
        text = f"{law} (this run)" if law == own else law
        fixed.step(edges, [*values, values[-1]], where="post", color=colour, linestyle=style, label=text)
    start, end = (np.array(to_rgb(LAW_COLOURS[law])) for law in ("instance", "class"))
    for progress in PROGRESS:
        edges, values = _steps(100 * class_probabilities(counts, "progressive", progress))
        colour = tuple(start + progress * (end - start))
        moving.step(edges, [*values, values[-1]], where="post", color=colour, label=f"{progress:g}")
    _mark_groups(fixed, counts)
    _mark_groups(moving, counts, names=False)
    for axes in (fixed, moving):
        axes.set_yscale("log")
        axes.set_ylabel("draws of the class, %")
    low, high = fixed.get_ylim()
    _log_ticks(fixed, high / low)
    _log_ticks(moving, high / low)
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


@_styled
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


def _steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted values as steps: edges of the runs of equal ones [k + 1] and their values [k].

    The same picture as one step for each class, but 8142 classes would make an SVG of megabytes.
    """
    starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    return np.append(starts, len(values)), values[starts]


def _mark_groups(axes: Axes, counts: np.ndarray, names: bool = True) -> None:
    """Tint the regions of many, medium and few along a class axis and name them above it."""
    total = len(counts)
    groups = class_groups(counts)
    for place, group in enumerate(GROUPS):
        inside = np.flatnonzero(groups == place)
        if not len(inside):
            continue
        left, right = inside[0], inside[-1] + 1
        axes.axvspan(left, right, color=GROUP_COLOURS[group], alpha=0.09, linewidth=0, zorder=0)
        # Names keep to their third where a region is too narrow to hold its own; the colour tells whose they are.
        middle = (left + right) / 2 / total
        ends = {"many": (0.0, "left"), "medium": (min(max(middle, 0.4), 0.6), "center"), "few": (1.0, "right")}
        at, side = ends[group]
        if names:
            text = f"{group} ({len(inside):,})"
            axes.text(at, 1.03, text, transform=axes.transAxes, color=GROUP_COLOURS[group], ha=side, fontweight="bold")
    axes.set_xlim(0, total)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel(CLASSES)


def _log_counts(axes: Axes, counts: np.ndarray) -> None:
    """A log axis for counts, with whole decades below and plain numbers."""
    low, high = max(counts.min(), 1), max(counts.max(), 1)
    axes.set_yscale("log")
    axes.set_ylim(10.0 ** np.floor(np.log10(low)) * 0.8, high * 2.2)
    _log_ticks(axes, high / low)


def _log_ticks(axes: Axes, ratio: float) -> None:
    """Plain numbers on a log axis; where its ends have a small ratio, 2 and 5 beside the powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if ratio > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")


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
