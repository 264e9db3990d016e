"""Draws the decision regions of classifiers of two-dimensional features (Figure 4 of the paper)."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.log import printed
from fastlt.core.palette import WIDTH, styled
from fastlt.experiment.results import RegionFrame, Results
from fastlt.report.canvas import MOST_LINES, class_order, shown_name
from fastlt.report.names import paper_first, percent
from fastlt.stage2.decision_regions import read_regions

# The colours of Okabe and Ito without black, then of Tol, which can be told apart with every kind of colour vision.
# With more classes they are used again with other markers.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"),
    *("#332288", "#999933", "#882255", "#44aa99"),
)
MARKERS = "os^Dvph"
LIGHT = 0.68  # share of white in the colour of a region
MOST_EDGED = 40  # classes; with more in a panel, no lines are drawn between regions
MOST_VECTORS = 500  # points; a panel with more is rasterized in the SVG, which would otherwise grow to megabytes
MOST_NAMES = 12  # classes in the legend
LONGEST = 24  # letters of a class name in the legend

Style = tuple[str, str]  # colour and marker of a class


@styled
def decision_regions(results: Results) -> Figure | None:
    """Draws a panel for each classifier: the class it predicts at each point, and the test images in the colours of
    their classes. None if the results have no decision regions."""
    names = drawn_regions(results)
    if not names or results.decision_regions is None:
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
        row = results.classifiers[name]
        _panel(axes, results.decision_regions, read_regions(row.regions), styles)
        keys = ("all", "few") if results.groups["few"] else ("all",)
        scores = [f"{key} {percent(getattr(row, key))}" for key in keys]
        axes.set_title("\n".join([*title, ", ".join(scores)]), fontsize=10.5)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("first feature", fontsize=12)
    figure.supylabel("second feature", fontsize=12)
    _legend(figure, results, order, styles)
    return figure


def drawn_regions(results: Results) -> list[str]:
    """Returns the classifiers whose regions are drawn."""
    known = [name for name, row in results.classifiers.items() if row.regions is not None]
    return paper_first(known, MOST_LINES) if results.decision_regions is not None else []


def points_within(frame: RegionFrame) -> int:
    """Returns how many test images are within the drawn frame; some outliers are beyond it."""
    x = np.asarray(frame.x)
    return int(((x >= frame.low) & (x <= frame.high)).all(1).sum())


def few_share(results: Results, name: str) -> float:
    """Returns the share of the drawn frame, in percent, in which a classifier predicts a few-shot class."""
    few = class_groups(np.asarray(results.class_counts["train"])) == GROUPS.index("few")
    return 100.0 * float(few[read_regions(results.classifiers[name].regions)].mean())


def _panel(axes: Axes, frame: RegionFrame, regions: np.ndarray, styles: dict[int, Style]) -> None:
    (left, bottom), (right, top) = frame.low, frame.high
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
    for point, label in zip(frame.x, frame.labels, strict=True):
        shown.setdefault(styles[label], []).append(point)
    size = float(np.clip(2500 / len(frame.x), 3, 14))
    for style in (style for style in dict.fromkeys(styles.values()) if style in shown):  # rare classes on top
        look = {"c": style[0], "marker": style[1], "edgecolors": "white", "linewidths": 0.3, "zorder": 2.2}
        axes.scatter(*np.array(shown[style]).T, s=size, **look)
    if len(frame.x) > MOST_VECTORS:
        axes.set_rasterization_zorder(2.4)  # below the spines, which remain vectors
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_box_aspect(1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def _smoothed(mask: np.ndarray) -> np.ndarray:
    """Returns the mean of a mask over 5 x 5 cells. Its contour at one half is smooth, that of the cells has steps."""
    around = np.pad(mask.astype(float), 2, mode="edge")
    rows = sum(around[shift : shift + len(mask)] for shift in range(5))
    return sum(rows[:, shift : shift + len(mask)] for shift in range(5)) / 25  # type: ignore[index, return-value]


def _lightened(colour: str) -> np.ndarray:
    return LIGHT + (1 - LIGHT) * np.array(to_rgb(colour))


def _legend(figure: Figure, results: Results, order: np.ndarray, styles: dict[int, Style]) -> None:
    counts = results.class_counts["train"]
    names = results.class_names
    groups = class_groups(np.asarray(counts))
    handles = []
    for label in order[:MOST_NAMES].tolist():
        colour, marker = styles[label]
        name = textwrap.shorten(printed(names[label]), LONGEST, placeholder="…")
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
