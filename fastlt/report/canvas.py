"""Shared code of the figures of a report: colours and line styles of classifiers, the order of classes, legends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastlt.core.log import printed
from fastlt.core.palette import WIDTH
from fastlt.experiment.results import Results
from fastlt.report.choices import marked

MOST_LINES = 6  # classifiers in a figure that has a line for each
LONGEST = 32  # letters of a name in a figure

# The colours of Okabe and Ito, which can be told apart with every kind of colour vision.
CLASSIFIER_COLOURS = {
    "joint": "#4d4d4d",
    "ncm_l2": "#56b4e9",
    "ncm_cosine": "#0072b2",
    "crt": "#e69f00",
    "tau_norm": "#009e73",
    "lws": "#cc79a7",
}
OTHER_COLOURS = ("#d55e00", "#332288", "#999933", "#882255", "#44aa99", "#661100")
# In bar charts names stand beside the bars, so a colour only needs to say which classifiers are of one kind.
_KINDS = {
    "ncm": CLASSIFIER_COLOURS["ncm_l2"],
    "crt": CLASSIFIER_COLOURS["crt"],
    "tau": CLASSIFIER_COLOURS["tau_norm"],
    "lws": CLASSIFIER_COLOURS["lws"],
    "mlp": "#999933",
    "retrain": "#d55e00",
}
_OTHER_KIND = "#332288"
# Line styles, so that figures can be read without colours.
_LINES = {"joint": "-", "crt": "--", "tau_norm": "-.", "lws": (0, (1, 1))}
_OTHER_LINES = ((0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1)), (0, (2, 1)), (0, (10, 1, 1, 1)), "-")


def bar_colours(names: Iterable[str]) -> dict[str, str]:
    """Returns {classifier: colour}. The paper's classifiers have fixed colours, and their variants share them."""
    return {name: _bar_colour(name) for name in names}


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns {classifier: colour and line style for matplotlib} for at most MOST_LINES classifiers.

    All styles differ, and the paper's classifiers have the same style in every report.
    """
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


def shown_name(results: Results, name: str) -> str:
    """Returns the label of a classifier for a figure, with its dagger. A long package.module:NAME is cut in front."""
    text = printed(marked(results, name))
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Returns a figure of the common width and the given height in inches, with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def class_order(results: Results) -> np.ndarray:
    """Returns the class indices from most to fewest training images; ties keep their order."""
    return np.argsort(-np.asarray(results.class_counts["train"]), kind="stable")


def sorted_counts(results: Results) -> np.ndarray:
    """Returns the numbers of training images per class, in descending order."""
    return np.asarray(results.class_counts["train"])[class_order(results)]


def add_legend(figure: Figure, axes: Axes) -> None:
    """Adds a legend above the axes, in one row if it fits; the figure becomes higher for further rows."""
    lines, names = axes.get_legend_handles_labels()
    widths = [0.08 * len(name) + 0.6 for name in names]  # approximate, in inches
    columns = len(names) if sum(widths) < WIDTH else max(1, int(WIDTH / max(widths)))
    figure.set_figheight(figure.get_figheight() + 0.24 * (-(-len(names) // columns) - 1))
    figure.legend(lines, names, loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=2.2)


def _bar_colour(name: str) -> str:
    kind = name.split("_")[0]
    if kind == "ncm" and name.endswith("cosine"):
        return CLASSIFIER_COLOURS["ncm_cosine"]
    return CLASSIFIER_COLOURS.get(name) or _KINDS.get(kind, _OTHER_KIND)
