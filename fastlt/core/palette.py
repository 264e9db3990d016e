"""Colours and style of all figures, and the axis of classes from most to fewest training images."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from fastlt.core.files import replacing
from fastlt.core.groups import GROUPS, class_groups

# Paul Tol's high-contrast scheme, whose colours can be told apart with any kind of colour vision. The yellow is
# darkened so that a line in it is visible on white.
GROUP_COLOURS = {"many": "#004488", "medium": "#c28a00", "few": "#bb5566", "all": "#000000"}
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
    "text.parse_math": False,  # names of classes and datasets may contain dollar signs
    "svg.hashsalt": "fastlt",  # the ids inside an SVG are random without it
    "svg.fonttype": "path",
}


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator that runs `draw` with matplotlib's default style and STYLE, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def wrapper(*args: Any) -> Any:
        with matplotlib.style.context(["default", STYLE]):
            return draw(*args)

    return wrapper


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PATH.png and PATH.svg; the same figure gives the same bytes. Raises NotWritten."""
    for kind, metadata in {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}.items():
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # class names may have letters that the font lacks
            figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
        figure.set_layout_engine(None)  # the SVG takes the layout of the PNG: to find it takes as long as to draw


def draw_class_counts(axes: Axes, counts: np.ndarray) -> None:
    """Draws the number of training images of every class on a log axis, in the colours of the groups.

    counts: [C], in descending order.
    """
    edges, heights = steps(counts)
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
    mark_groups(axes, counts)
    _log_counts(axes, counts)
    middle = len(counts) / 2
    for rank, text_at in ((0, "left"), (len(counts) - 1, "right")):
        at, aside = (rank, 3) if rank < middle else (rank + 1, -2)
        place = (at, max(counts[rank], 0.5))
        axes.annotate(f"{counts[rank]:,}", place, (aside, 3), textcoords="offset points", ha=text_at)
    axes.set_ylabel("training images of the class")


def steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges equal neighbours of `values` [C] into k runs; returns the edges of the runs [k + 1] and their values [k].

    A figure of the runs looks like one with a step for each class, which for 8142 classes would be an SVG of megabytes.

    >>> edges, heights = steps(np.array([9, 9, 4]))
    >>> edges.tolist(), heights.tolist()
    ([0, 2, 3], [9, 4])
    """
    starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    return np.append(starts, len(values)), values[starts]


def mark_groups(axes: Axes, counts: np.ndarray, names: bool = True) -> None:
    """Tints the regions of many, medium and few along a class axis.

    counts: training images of each class, [C], in descending order. names: write the names of the groups above.
    """
    total = len(counts)
    groups = class_groups(counts)
    for place, group in enumerate(GROUPS):
        inside = np.flatnonzero(groups == place)
        if not len(inside):
            continue
        left, right = inside[0], inside[-1] + 1
        axes.axvspan(left, right, color=GROUP_COLOURS[group], alpha=0.09, linewidth=0, zorder=0)
        # Where a region is too narrow for its name, the name stays in its third of the axis, in the group's colour.
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
    """Sets up a log axis for counts that begins at a power of ten and is labelled with plain numbers."""
    low, high = max(counts.min(), 1), max(counts.max(), 1)
    axes.set_yscale("log")
    axes.set_ylim(10.0 ** np.floor(np.log10(low)) * 0.8, high * 2.2)
    log_ticks(axes, high / low)


def log_ticks(axes: Axes, ratio: float) -> None:
    """Labels a log axis with plain numbers.

    ratio: of the two ends of the axis; up to 100, multiples of 2 and 5 are labelled beside the powers of ten.
    """
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if ratio > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")
