"""What the figures of a report share: colours and lines of classifiers, the order of classes, legends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastlt.core.palette import WIDTH
from fastlt.report.choices import marked

MOST_LINES = 6  # classifiers in a figure with a line each
LONGEST = 32  # letters of a name in a figure

# Okabe and Ito's: colours that stay apart for every kind of colour vision.
CLASSIFIER_COLOURS = {
    "joint": "#4d4d4d",
    "ncm_l2": "#56b4e9",
    "ncm_cosine": "#0072b2",
    "crt": "#e69f00",
    "tau_norm": "#009e73",
    "lws": "#cc79a7",
}
OTHER_COLOURS = ("#d55e00", "#332288", "#999933", "#882255", "#44aa99", "#661100")
# Bars stand beside their names: there a colour only says which classifiers are of one kind.
_KINDS = {
    "ncm": CLASSIFIER_COLOURS["ncm_l2"],
    "crt": CLASSIFIER_COLOURS["crt"],
    "tau": CLASSIFIER_COLOURS["tau_norm"],
    "lws": CLASSIFIER_COLOURS["lws"],
    "mlp": "#999933",
    "retrain": "#d55e00",
}
_OTHER_KIND = "#332288"
# Readable without colour, too.
_LINES = {"joint": "-", "crt": "--", "tau_norm": "-.", "lws": (0, (1, 1))}
_OTHER_LINES = ((0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)), (0, (2, 1)), (0, (10, 1, 1, 1)), "-")


def bar_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: the paper's classifiers have their own, relatives of one of them the same."""
    return {name: _bar_colour(name) for name in names}


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of at most MOST_LINES names, all different: the paper's keep theirs in every report."""
    names = list(names)
    assert len(names) <= MOST_LINES
    others = [name for name in names if name not in CLASSIFIER_COLOURS]
    spare = dict(zip(others, zip(OTHER_COLOURS, _OTHER_LINES, strict=True), strict=False))
    return {
        name: {"color": spare[name][0], "linestyle": spare[name][1]}
        if name in spare
        else {"color": CLASSIFIER_COLOURS[name], "linestyle": _LINES.get(name, "-")}
        for name in names
    }


def shown_name(results: dict[str, Any], name: str) -> str:
    """The label with its dagger, cut at the front where one's own package.module:NAME would leave no room to draw."""
    text = marked(results, name)
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the house's width and so many inches of height, with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def class_order(results: dict[str, Any]) -> np.ndarray:
    """The classes from most to fewest training images, equal ones in their own order."""
    return np.argsort(-np.asarray(results["class_counts"]["train"]), kind="stable")


def sorted_counts(results: dict[str, Any]) -> np.ndarray:
    """Training images per class, from most to fewest."""
    return np.asarray(results["class_counts"]["train"])[class_order(results)]


def add_legend(figure: Figure, axes: Axes) -> None:
    """A legend above the axes, where no data can be, in one row if it fits; the figure grows with its rows."""
    lines, names = axes.get_legend_handles_labels()
    widths = [0.08 * len(name) + 0.6 for name in names]  # inches, about
    columns = len(names) if sum(widths) < WIDTH else max(1, int(WIDTH / max(widths)))
    figure.set_figheight(figure.get_figheight() + 0.24 * (-(-len(names) // columns) - 1))
    figure.legend(lines, names, loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=2.2)


def _bar_colour(name: str) -> str:
    kind = name.split("_")[0]
    if kind == "ncm" and name.endswith("cosine"):
        return CLASSIFIER_COLOURS["ncm_cosine"]
    return CLASSIFIER_COLOURS.get(name) or _KINDS.get(kind, _OTHER_KIND)
