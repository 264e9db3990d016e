"""Decision regions of the classifiers in the plane of two-dimensional features (Figure 4 of the paper)."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.palette import WIDTH, styled
from fastlt.report.canvas import MOST_LINES, class_order, shown_name
from fastlt.report.names import paper_first, percent
from fastlt.stage2.decision_regions import read_regions

# Okabe and Ito's without black, then Tol's: apart for every kind of colour vision. With more classes they come round
# again, with other markers.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"),
    *("#332288", "#999933", "#882255", "#44aa99"),
)
MARKERS = "os^Dvph"
LIGHT = 0.68  # share of white in a region
MOST_EDGED = 40  # classes in a panel with lines between them
MOST_VECTORS = 500  # points in a panel; with more it is pixels in the SVG, too, which would grow to megabytes
MOST_NAMES = 12  # classes in the legend
LONGEST = 24  # letters of a class in the legend

Style = tuple[str, str]  # colour and marker of a class


@styled
def decision_regions(results: dict[str, Any]) -> Figure | None:
    """A panel for each classifier: what it predicts where, and the test images in the colours of their classes."""
    names = drawn_regions(results)
    if not names:
        return None
    order = class_order(results)
    styles = {
        int(label): (COLOURS[rank % len(COLOURS)], MARKERS[rank % len(MARKERS)]) for rank, label in enumerate(order)
    }
    wide = min(3, len(names))
    deep = -(-len(names) // wide)
    titles = [textwrap.wrap(shown_name(results, name), 24) for name in names]
    lines = max(map(len, titles)) + 1
    figure = Figure(figsize=(WIDTH, deep * (WIDTH / 3 + 0.17 * lines) + 0.3), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.09)  # type: ignore[union-attr]
    grid = figure.subplots(deep, wide, sharex=True, sharey=True, squeeze=False)
    for axes, name, title in zip(grid.flat, names, titles, strict=False):
        row = results["classifiers"][name]
        _panel(axes, results["plane"], read_regions(row["regions"]), styles)
        scores = [f"{key} {percent(row.get(key))}" for key in ("all", "few") if key == "all" or results["groups"][key]]
        axes.set_title("\n".join([*title, ", ".join(scores)]), fontsize=10.5)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("first feature", fontsize=12)
    figure.supylabel("second feature", fontsize=12)
    _legend(figure, results, order, styles)
    return figure


def drawn_regions(results: dict[str, Any]) -> list[str]:
    """The classifiers whose regions are drawn."""
    known = [name for name, row in results["classifiers"].items() if "regions" in row]
    return paper_first(known, MOST_LINES) if "plane" in results else []


def points_within(plane: dict[str, Any]) -> int:
    """How many of the test images are drawn: some outermost ones lie beyond the axes."""
    x = np.asarray(plane["x"])
    return int(((x >= plane["low"]) & (x <= plane["high"])).all(1).sum())


def few_share(results: dict[str, Any], name: str) -> float:
    """Share of the drawn part of the plane, in percent, in which the classifier predicts a few-shot class."""
    few = class_groups(np.asarray(results["class_counts"]["train"])) == GROUPS.index("few")
    return 100.0 * float(few[read_regions(results["classifiers"][name]["regions"])].mean())


def _panel(axes: Axes, plane: dict[str, Any], regions: np.ndarray, styles: dict[int, Style]) -> None:
    (left, bottom), (right, top) = plane["low"], plane["high"]
    found = np.unique(regions)
    fills = np.zeros((*regions.shape, 3))
    for label in found:
        fills[regions == label] = _lightened(styles[int(label)][0])
    extent = (left, right, bottom, top)
    axes.imshow(fills, extent=extent, origin="lower", aspect="auto", interpolation="nearest")
    if 1 < len(found) <= MOST_EDGED:
        for label in found:
            axes.contour(_smoothed(regions == label), [0.5], extent=extent, colors="white", linewidths=1.3)
    shown: dict[Style, list[list[float]]] = {}
    for point, label in zip(plane["x"], plane["labels"], strict=True):
        shown.setdefault(styles[label], []).append(point)
    size = float(np.clip(2500 / len(plane["x"]), 3, 14))
    for style in (style for style in dict.fromkeys(styles.values()) if style in shown):  # rare classes on top
        look = {"c": style[0], "marker": style[1], "edgecolors": "white", "linewidths": 0.3, "zorder": 2.2}
        axes.scatter(*np.array(shown[style]).T, s=size, **look)
    if len(plane["x"]) > MOST_VECTORS:
        axes.set_rasterization_zorder(2.4)  # spines are above
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_box_aspect(1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def _smoothed(mask: np.ndarray) -> np.ndarray:
    """Sum over 5 x 5 cells in 25ths: its contour at a half runs straight where that of the cells is a staircase."""
    around = np.pad(mask.astype(float), 2, mode="edge")
    rows = sum(around[shift : shift + len(mask)] for shift in range(5))
    return sum(rows[:, shift : shift + len(mask)] for shift in range(5)) / 25  # type: ignore[index, return-value]


def _lightened(colour: str) -> np.ndarray:
    return LIGHT + (1 - LIGHT) * np.array(to_rgb(colour))


def _legend(figure: Figure, results: dict[str, Any], order: np.ndarray, styles: dict[int, Style]) -> None:
    counts = results["class_counts"]["train"]
    names = results.get("class_names") or [f"class {label}" for label in range(len(counts))]
    groups = class_groups(np.asarray(counts))
    handles = []
    for label in order[:MOST_NAMES].tolist():
        colour, marker = styles[label]
        name = textwrap.shorten(str(names[label]), LONGEST, placeholder="…")
        text = f"{name}: {counts[label]:,} ({GROUPS[groups[label]]})"
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=text))
    if len(order) > MOST_NAMES:
        text = f"and {len(order) - MOST_NAMES:,} with fewer"
        handles.append(Line2D([], [], linestyle="", label=text))
    widest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(3, int(WIDTH / (0.08 * widest + 0.45))))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.22 * rows + 0.3)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.2,
        handletextpad=0.3,
        handlelength=1.2,
        title="class: training images (group)",
        alignment="left",
    )
