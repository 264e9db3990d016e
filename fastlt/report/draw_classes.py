"""Figures over the classes, from most to fewest training images: counts, weight norms and sampling probabilities."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fastlt.core.palette import WIDTH, draw_class_counts, log_ticks, mark_groups, steps, styled
from fastlt.experiment.results import Results
from fastlt.longtail.sampler import class_probabilities
from fastlt.report.canvas import MOST_LINES, add_legend, class_order, line_styles, new_figure, shown_name, sorted_counts
from fastlt.report.names import paper_first

LAW_COLOURS = {"instance": "#332288", "class": "#d1495b", "sqrt": "#117733"}
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_POINTS = 200  # points of a line; with more classes neighbours are averaged, as the line would look like a band


@styled
def class_counts(results: Results) -> Figure:
    """Draws the sorted numbers of training images of all classes, on a log axis, in the colours of the groups."""
    figure, axes = new_figure(3.6)
    draw_class_counts(axes, sorted_counts(results))
    return figure


@styled
def weight_norms(results: Results) -> Figure | None:
    """Draws the norm of every class's weights divided by the mean norm of its classifier (Figure 2, left, of the
    paper). None if no classifier has weight norms."""
    names = drawn_norms(results)
    if not names:
        return None
    counts, order = sorted_counts(results), class_order(results)
    figure, axes = new_figure(3.9)
    block = block_size(len(order))
    starts = np.arange(0, len(order), block)
    ends = np.minimum(starts + block, len(order))
    for name, style in line_styles(names).items():
        values = np.asarray(results.classifiers[name].weight_norms, dtype=float)[order]
        means = np.add.reduceat(values / (values.mean() or 1.0), starts) / (ends - starts)
        axes.plot((starts + ends) / 2, means, label=shown_name(results, name), **style)
    mark_groups(axes, counts)
    axes.grid(axis="y")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_ylabel("‖w‖ of the class / mean ‖w‖\nof the classifier")
    add_legend(figure, axes)
    return figure


@styled
def sampling_weights(results: Results) -> Figure:
    """Draws how often each class is sampled by the paper's four samplers (Figure 3 of the paper)."""
    counts = sorted_counts(results)
    figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
    fixed, moving = figure.subplots(2, 1, sharex=True, sharey=True)
    own = results.sampler
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


def drawn_norms(results: Results) -> list[str]:
    """Returns the classifiers whose weight norms are drawn."""
    known = [name for name, row in results.classifiers.items() if row.weight_norms is not None]
    return paper_first(known, MOST_LINES)


def block_size(classes: int) -> int:
    """Returns how many neighbouring classes `weight_norms` averages into one point."""
    return -(-classes // MOST_POINTS)
