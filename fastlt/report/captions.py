"""Captions and alternative texts of the figures in report.md."""

from __future__ import annotations

from collections.abc import Callable

from fastlt.core.groups import GROUPS
from fastlt.experiment.results import Results
from fastlt.report.calibration import drawn_reliability, fitted_on
from fastlt.report.canvas import MOST_LINES
from fastlt.report.draw_classes import block_size, drawn_norms
from fastlt.report.draw_regions import drawn_regions, few_share, points_within
from fastlt.report.figures import over_tau
from fastlt.report.names import escaped, label, listed, long_name, number
from fastlt.report.shifted import drawn_over_priors


def figure(results: Results, name: str) -> str:
    """Returns a figure as Markdown: the PNG with its alternative text, linked to the SVG, and the caption."""
    alt, caption = _over_tau(results, name) if name in over_tau(results) else _CAPTIONS[name](results)
    alt = " ".join(alt.split()).replace("[", "(").replace("]", ")")
    return f"[![{alt}](figures/{name}.png)](figures/{name}.svg)\n\n*{' '.join(caption.split())}*"


def _accuracy(results: Results) -> tuple[str, str]:
    rows = results.classifiers
    caption = "Accuracy on test of every classifier on every group"
    caption += "; the dashed line is joint" if "joint" in rows else ""
    caption += "; whiskers are ± the standard deviation over seeds" if any(row.std for row in rows.values()) else ""
    names = listed(rows) if len(rows) <= MOST_LINES else f"{len(rows)} classifiers"
    return (
        f"Bars: accuracy on many, medium, few and all classes for {names}; the table holds the numbers.",
        f"{caption}.",
    )


def _regions(results: Results) -> tuple[str, str]:
    assert results.decision_regions is not None
    shown, rows = drawn_regions(results), results.classifiers
    known = [name for name, row in rows.items() if row.regions is not None]
    points, images = points_within(results.decision_regions), sum(results.class_counts["test"])
    caption = (
        "What each classifier predicts where in the plane of the backbone's two features; points are "
        f"{'the' if points == images else f'{points:,} of {images:,}'} test images in the colour and with the marker "
        "of their own class; above each panel accuracies on test in %"
    )
    if results.groups["few"]:
        shares = "; ".join(f"{escaped(label(name))} {few_share(results, name):.0f} %" for name in shown)
        caption += f". Share of the drawn plane that goes to few-shot classes: {shares}"
    if any(rows[name].seeds > 1 for name in shown):
        caption += ". With several seeds, regions are those of the first"
    if len(shown) < len(known):
        caption += f"; drawn are {len(shown)} of {len(known)} classifiers, the paper's first"
    return (
        f"Regions: the class that {listed(shown)} predict over the two features, with test images on top.",
        f"{caption}.",
    )


def _over_tau(results: Results, figure: str) -> tuple[str, str]:
    name = over_tau(results)[figure]
    tau = number(results.classifiers[name].choices.get("tau"))
    at = "" if tau is None else f", with a line at the tau of this run, {tau:.3g}"
    caption = f"Accuracy of {long_name(name)} on test over tau: a larger tau favours rare classes"
    if tau is not None:
        chosen = "interval" in results.classifiers[name].choices
        caption += "; the line is the chosen tau, the grey band holds all equally good ones" if chosen else ""
        caption += "" if chosen else "; the line is the tau of this run, which was set"
    return f"Lines: accuracy on many, medium, few and all classes over tau{at}.", f"{caption}."


def _shifted(results: Results) -> tuple[str, str]:
    shown = drawn_over_priors(results)
    known = [name for name, row in results.classifiers.items() if row.shifted]
    caption = "Accuracy on test sets whose classes are long-tailed themselves, in the order of training or against it"
    if len(shown) < len(known):
        others = len(shown) - ("joint" in shown)
        caption += (
            f"; drawn are {'joint and ' if 'joint' in shown else ''}the {others} classifiers with the highest mean "
        )
        caption += "over all these priors"
    return f"Lines: accuracy of {listed(shown)} over the imbalance of the test classes.", f"{caption}."


def _reliability(results: Results) -> tuple[str, str]:
    shown = drawn_reliability(results)
    known = [name for name, row in results.classifiers.items() if row.reliability]
    caption = (
        "Accuracy over confidence, a point for each fifteenth of confidence, the larger the more images it holds; "
    )
    caption += "below the diagonal a classifier is too sure of itself"
    if len(shown) < len(known):
        caption += f"; drawn are {len(shown)} of {len(known)} classifiers, the paper's first"
    where = fitted_on(results)
    alt = f"Points: accuracy over confidence of {listed(shown)}, before and after a temperature{where}."
    return alt, f"{caption}."


def _norms(results: Results) -> tuple[str, str]:
    shown = drawn_norms(results)
    known = [name for name, row in results.classifiers.items() if row.weight_norms is not None]
    block = block_size(len(results.class_counts["train"]))
    caption = "Norm of each class's weight vector divided by the mean norm of its classifier"
    caption += f", averaged over {block} neighbouring classes" if block > 1 else ""
    if len(shown) < len(known):
        caption += f"; drawn are {len(shown)} of {len(known)} classifiers, the paper's first"
    return f"Lines: relative weight norms of {listed(shown)} over classes sorted by training images.", f"{caption}."


def _counts(results: Results) -> tuple[str, str]:
    train = results.class_counts["train"]
    groups = ", ".join(f"{results.groups[group]} {group}" for group in GROUPS)
    alt = f"Training images of each class, sorted, falling from {max(train):,} to {min(train):,}; {groups} classes."
    return alt, "Training images of each class on a log scale, most frequent class first."


def _sampling(results: Results) -> tuple[str, str]:
    alt = "Lines: probability of each class under instance, class, sqrt and progressive sampling, classes sorted."
    caption = (
        "Probability that a draw is of a given class: the three fixed laws above, and below the progressive law, which "
        f"goes from instance at t/T = 0 to class at t/T = 1; this run used {escaped(results.sampler)}."
    )
    return alt, caption


_CAPTIONS: dict[str, Callable[[Results], tuple[str, str]]] = {
    "accuracy_by_group": _accuracy,
    "decision_regions": _regions,
    "shifted_priors": _shifted,
    "reliability": _reliability,
    "weight_norms": _norms,
    "class_counts": _counts,
    "sampling_weights": _sampling,
}
