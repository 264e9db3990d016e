"""The figures of a report across runs with titles, captions and alternative texts.

Each function yields its figure, or nothing if the runs lack what it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from fastlt.core.metrics import METRICS_FILE, read_metrics
from fastlt.report.choices import DAGGER, DAGGER_NOTE, chosen_on_test
from fastlt.report.compare.compare import limits
from fastlt.report.compare.draw_curves import ON_VAL, learning_curves
from fastlt.report.compare.draw_means import drawn, over_backbones, over_samplers
from fastlt.report.compare.draw_tau import CLASSIFIER, over_tau, published_points, with_curves
from fastlt.report.compare.model import Drawing
from fastlt.report.compare.runs import RunGroup, data_name, measured, name, sampling
from fastlt.report.draw_classes import block_size, drawn_norms, sampling_weights, weight_norms
from fastlt.report.draw_regions import decision_regions, drawn_regions, few_share
from fastlt.report.names import label

Drawn = tuple[Drawing, Figure]


def samplers(alike: Sequence[RunGroup]) -> Iterator[Drawn]:
    """Classifiers over samplers. alike: groups of runs that differ only in their sampler, in the order to draw."""
    if (figure := over_samplers(alike)) is None:
        return
    names = drawn(alike)
    laws = ", ".join(sampling(run_group) for run_group in alike)
    yield (
        Drawing(
            _slug("samplers", alike[0]),
            f"Samplers and classifiers: {name(alike[0], ('sampler',))}",
            f"Accuracy of the classifiers on representations trained with {laws} sampling (the paper's Figure 1); "
            f"{_spread(alike)}. Each panel has a scale of its own." + _limits(alike, names),
            f"Points in panels for many, medium, few and all classes: accuracy of {_listed(names)} after {laws} "
            f"sampling.{_best(alike, names)}",
        ),
        figure,
    )


def norms(run_group: RunGroup) -> Iterator[Drawn]:
    """Norms of the weights of every class, for the first seed."""
    first = run_group.runs[0]
    if (figure := weight_norms(first)) is None:
        return
    names = drawn_norms(first)
    block = block_size(len(first.class_counts["train"]))
    over = f", averaged over {block} neighbouring classes" if block > 1 else ""
    yield (
        Drawing(
            _slug("weight_norms", run_group),
            f"Norms of the weights: {name(run_group)}",
            "Norm of each class's weight vector divided by the mean norm of its classifier (the paper's Figure 2, "
            f"left){over}; seed {first.seed}." + _limits([run_group], names),
            f"Lines: relative weight norms of {_listed(names)} over the classes, from most to fewest training images.",
        ),
        figure,
    )


def tau(run_group: RunGroup) -> Iterator[Drawn]:
    """Accuracy over tau, for all seeds."""
    if (figure := over_tau(run_group)) is None:
        return
    seeds = [str(results.seed) for results in with_curves(run_group)]
    others = f"; thin lines: seed{'s' if len(seeds) > 2 else ''} {', '.join(seeds[1:])}" if len(seeds) > 1 else ""
    points = published_points(run_group)
    rings = f" Circles: published, {points[0].source}." if points else ""
    yield (
        Drawing(
            _slug("accuracy_over_tau", run_group),
            f"Accuracy over tau: {name(run_group)}",
            "Accuracy of tau-normalization on test at every tau, exact (the paper's Figure 2, right): a larger tau "
            f"favours rare classes. The vertical line is the tau of seed {seeds[0]}{others}.{rings}"
            + _limits([run_group], [CLASSIFIER]),
            "Lines: accuracy on many, medium, few and all classes over tau, with a line at the tau of the run.",
        ),
        figure,
    )


def curves(alike: Sequence[RunGroup], base: Path) -> Iterator[Drawn]:
    """Learning curves, for the first seed of each sampler. alike, as in `samplers`; base: what their folders lie in."""
    lines = {one.sampler: read_metrics(base / one.folders[0] / METRICS_FILE) for one in alike}
    if (figure := learning_curves(lines)) is None:
        return
    val = ", dashed: on val" if any(line.get(ON_VAL) is not None for each in lines.values() for line in each) else ""
    seeds = ", ".join(dict.fromkeys(str(one.runs[0].seed) for one in alike))
    yield (
        Drawing(
            _slug("learning_curves", alike[0]),
            f"Learning curves: {name(alike[0], ('sampler',))}",
            f"Loss and accuracy on the training images as they were sampled and augmented{val}; seed {seeds}."
            + _limits(alike, []),
            f"Lines over the epochs: loss and accuracy with {', '.join(map(sampling, alike))} sampling.",
        ),
        figure,
    )


def laws(run_group: RunGroup) -> Drawn:
    """The sampling probabilities of the classes of the dataset."""
    # With a run's sampler the figure would mark it as `this run`, but this figure is for all samplers.
    figure = sampling_weights(replace(run_group.runs[0], sampler=""))
    return (
        Drawing(
            _slug("sampling_weights", run_group, with_backbone=False),
            f"Sampling weights: {data_name(run_group)}",
            "Probability that a draw is of a given class (the paper's Figure 3): above the three fixed laws, below "
            "progressively-balanced sampling, which goes from instance at t/T = 0 to class at t/T = 1.",
            "Lines over the classes, from most to fewest training images: instance falls, sqrt falls less, class is "
            "flat; progressive turns from the first to the last.",
        ),
        figure,
    )


def regions(run_group: RunGroup) -> Iterator[Drawn]:
    """Decision regions for the first seed, if its features are two-dimensional."""
    first = run_group.runs[0]
    if (figure := decision_regions(first)) is None:
        return
    names = drawn_regions(first)
    shares = "; ".join(f"{label(one)} {few_share(first, one):.0f} %" for one in names)
    few = f" Share of the drawn plane that goes to few-shot classes: {shares}." if first.groups["few"] else ""
    yield (
        Drawing(
            _slug("decision_regions", run_group),
            f"Decision regions: {name(run_group)}",
            "What each classifier predicts where in the plane of the backbone's two features, with test images in the "
            f"colours of their classes (the paper's Figure 4); seed {first.seed}.{few}" + _limits([run_group], names),
            f"Regions: the class that {_listed(names)} predict over the two features, with test images on top.",
        ),
        figure,
    )


def backbones(run_groups: Sequence[RunGroup]) -> Iterator[Drawn]:
    """Classifiers over backbones. run_groups: groups that differ only in their backbone, in the order to draw."""
    if (figure := over_backbones(run_groups)) is None:
        return
    names = drawn(run_groups)
    backbones = ", ".join(run_group.backbone for run_group in run_groups)
    yield (
        Drawing(
            _slug("backbones", run_groups[0], with_backbone=False),
            f"Backbones: {name(run_groups[0], ('backbone',))}",
            "Accuracy over all test images of the classifiers on backbones with more and more parameters, in millions "
            f"(the paper's Figure 5); {_spread(run_groups)}." + _limits(run_groups, names),
            f"Points: accuracy of {_listed(names)} over the backbones {backbones}."
            + _best(run_groups, names, "backbone"),
        ),
        figure,
    )


def _spread(run_groups: Sequence[RunGroup]) -> str:
    counts = sorted({len(run_group.runs) for run_group in run_groups})
    if counts == [1]:
        return "one run each"
    return f"mean ± standard deviation over {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def _best(run_groups: Sequence[RunGroup], names: Iterable[str], field: str = "sampler") -> str:
    """Returns a sentence with the highest accuracy over all test images."""
    found = [(each, one, measured(each, one, "all")) for each in run_groups for one in names]
    run_group, one, best = max(found, key=lambda known: known[2].mean if known[2] else 0.0)
    of = sampling(run_group) + " sampling" if field == "sampler" else run_group.backbone
    return f" The highest over all test images: {label(one)}, {of}, {best.mean:.1f} %." if best else ""


def _limits(run_groups: Sequence[RunGroup], names: Iterable[str]) -> str:
    """Returns sentences on what limits a comparison: training that differs from the published one, choices on test."""
    text = "".join(f" {found}" for found in dict.fromkeys(map(limits, run_groups)) if found)
    runs = [results for run_group in run_groups for results in run_group.runs]
    if any(one in run.classifiers and chosen_on_test(run, one) for run in runs for one in names):
        text += f" {DAGGER} {DAGGER_NOTE}."
    return text


def _listed(names: Iterable[str]) -> str:
    return "; ".join(map(label, names))


def _slug(kind: str, run_group: RunGroup, with_backbone: bool = True) -> str:
    """Returns a file name without its extension; characters that a file name cannot have become hyphens."""
    imbalance = f"_{run_group.imbalance}" if run_group.dataset.startswith("cifar") else ""
    text = f"{kind}_{run_group.dataset}{imbalance}" + (f"_{run_group.backbone}" if with_backbone else "")
    return re.sub(r"[^\w.]+", "-", text)
