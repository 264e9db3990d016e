"""Draws the learning curves of runs that differ in their sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastlt.core.palette import WIDTH, styled
from fastlt.report.canvas import MOST_LINES, OTHER_COLOURS, add_legend

ON_TRAIN, ON_VAL = "train_accuracy", "val_accuracy"


@styled
def learning_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure | None:
    """Draws the loss, and the accuracy on train (solid) and val (dashed), over the epochs.

    curves: {name: lines of its metrics.jsonl}, of which the first MOST_LINES that have two epochs are drawn. None if
        there are none.
    """
    shown = {name: lines for name, lines in curves.items() if len(lines) > 1}
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for (name, lines), colour in zip(list(shown.items())[:MOST_LINES], OTHER_COLOURS, strict=False):
        epochs = [line["epoch"] for line in lines]
        for axes, key, style in ((0, "loss", "-"), (1, ON_TRAIN, "-"), (1, ON_VAL, (0, (4, 2)))):
            values = [line.get(key) for line in lines]
            if any(value is not None for value in values):
                heights = [np.nan if value is None else value for value in values]
                named = name if key == "loss" else None
                panels[axes].plot(epochs, heights, color=colour, linestyle=style, linewidth=1.6, label=named)
    for axes, title in zip(panels, ("loss", "accuracy, %"), strict=True):
        axes.set_title(title)
        axes.set_ylim(0, None)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid()
    add_legend(figure, panels[0])
    return figure
