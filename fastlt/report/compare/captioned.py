"""Each figure of a report across runs with its title, caption and alternative text; none where the runs lack it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from matplotlib.figure import Figure

from fastlt.report.choices import DAGGER, DAGGER_NOTE, chosen_on_test
from fastlt.report.compare.compare import limits
from fastlt.report.compare.draw_means import drawn, over_backbones, over_samplers
from fastlt.report.compare.draw_tau import CLASSIFIER, over_tau, published_points, with_curves
from fastlt.report.compare.model import Drawing
from fastlt.report.compare.runs import Setting, data_name, measured, name, sampling
from fastlt.report.draw_classes import block_size, drawn_norms, sampling_weights, weight_norms
from fastlt.report.draw_regions import decision_regions, drawn_regions, few_share
from fastlt.report.names import label

Drawn = tuple[Drawing, Figure]


def samplers(alike: Sequence[Setting]) -> Iterator[Drawn]:
    """Classifiers over samplers. alike: settings that differ in their sampler, in the order to draw."""
    if (figure := over_samplers(alike)) is None:
        return
    names = drawn(alike)
    laws = ", ".join(sampling(setting) for setting in alike)
    yield (
        Drawing(
            _slug("samplers", alike[0]),
            f"Samplers and classifiers: {name(alike[0], ('sampler',))}",
            f"Accuracy of the classifiers behind representations trained with {laws} sampling (the paper's Figure 1); "
            f"{_spread(alike)}. Each panel has a scale of its own." + _limits(alike, names),
            f"Points in panels for many, medium, few and all classes: accuracy of {_listed(names)} behind {laws} "
            f"sampling.{_best(alike, names)}",
        ),
        figure,
    )


def norms(setting: Setting) -> Iterator[Drawn]:
    """Norms of the weights of every class, of the first seed."""
    first = setting.runs[0]
    if (figure := weight_norms(first)) is None:
        return
    names = drawn_norms(first)
    block = block_size(len(first["class_counts"]["train"]))
    over = f", averaged over {block} neighbouring classes" if block > 1 else ""
    yield (
        Drawing(
            _slug("weight_norms", setting),
            f"Norms of the weights: {name(setting)}",
            "Norm of each class's weight vector divided by the mean norm of its classifier (the paper's Figure 2, "
            f"left){over}; seed {first['seed']}." + _limits([setting], names),
            f"Lines: relative weight norms of {_listed(names)} over the classes, from most to fewest training images.",
        ),
        figure,
    )


def tau(setting: Setting) -> Iterator[Drawn]:
    """Accuracy over tau of all seeds."""
    if (figure := over_tau(setting)) is None:
        return
    seeds = [str(results["seed"]) for results in with_curves(setting)]
    others = f"; thin lines: seed{'s' if len(seeds) > 2 else ''} {', '.join(seeds[1:])}" if len(seeds) > 1 else ""
    points = published_points(setting)
    rings = f" Circles: published, {points[0].source}." if points else ""
    yield (
        Drawing(
            _slug("accuracy_over_tau", setting),
            f"Accuracy over tau: {name(setting)}",
            "Accuracy of tau-normalization on test at every tau, exact (the paper's Figure 2, right): a larger tau "
            f"favours rare classes. The vertical line is the tau of seed {seeds[0]}{others}.{rings}"
            + _limits([setting], [CLASSIFIER]),
            "Lines: accuracy on many, medium, few and all classes over tau, with a line at the tau of the run.",
        ),
        figure,
    )


def laws(setting: Setting) -> Drawn:
    """The sampling laws for the classes of its data set."""
    # The drawing marks the law of its run; here it stands for all of them.
    figure = sampling_weights({**setting.runs[0], "sampler": None})
    return (
        Drawing(
            _slug("sampling_weights", setting, with_backbone=False),
            f"Sampling weights: {data_name(setting)}",
            "Probability that a draw is of a given class (the paper's Figure 3): above the three fixed laws, below "
            "progressively-balanced sampling, which goes from instance at t/T = 0 to class at t/T = 1.",
            "Lines over the classes, from most to fewest training images: instance falls, sqrt falls less, class is "
            "flat; progressive turns from the first to the last.",
        ),
        figure,
    )


def regions(setting: Setting) -> Iterator[Drawn]:
    """Decision regions of the first seed, if its features are two numbers."""
    first = setting.runs[0]
    if (figure := decision_regions(first)) is None:
        return
    names = drawn_regions(first)
    shares = "; ".join(f"{label(one)} {few_share(first, one):.0f} %" for one in names)
    few = f" Share of the drawn plane that goes to few-shot classes: {shares}." if first["groups"]["few"] else ""
    yield (
        Drawing(
            _slug("decision_regions", setting),
            f"Decision regions: {name(setting)}",
            "What each classifier predicts where in the plane of the backbone's two features, with test images in the "
            f"colours of their classes (the paper's Figure 4); seed {first['seed']}.{few}" + _limits([setting], names),
            f"Regions: the class that {_listed(names)} predict over the two features, with test images on top.",
        ),
        figure,
    )


def backbones(settings: Sequence[Setting]) -> Iterator[Drawn]:
    """Classifiers over backbones. settings: these differ in their backbone, in the order to draw."""
    if (figure := over_backbones(settings)) is None:
        return
    names = drawn(settings)
    backbones = ", ".join(setting.backbone for setting in settings)
    yield (
        Drawing(
            _slug("backbones", settings[0], with_backbone=False),
            f"Backbones: {name(settings[0], ('backbone',))}",
            "Accuracy over all test images of the classifiers on backbones with more and more parameters, in millions "
            f"(the paper's Figure 5); {_spread(settings)}." + _limits(settings, names),
            f"Points: accuracy of {_listed(names)} over the backbones {backbones}.{_best(settings, names, 'backbone')}",
        ),
        figure,
    )


def _spread(settings: Sequence[Setting]) -> str:
    counts = sorted({len(setting.runs) for setting in settings})
    if counts == [1]:
        return "one run each"
    return f"mean ± standard deviation over {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"


def _best(settings: Sequence[Setting], names: Iterable[str], field: str = "sampler") -> str:
    """The highest accuracy over all test images, in words."""
    found = [(each, one, measured(each, one, "all")) for each in settings for one in names]
    setting, one, best = max(found, key=lambda known: known[2].mean if known[2] else 0.0)
    of = sampling(setting) + " sampling" if field == "sampler" else setting.backbone
    return f" The highest over all test images: {label(one)}, {of}, {best.mean:.1f} %." if best else ""


def _limits(settings: Sequence[Setting], names: Iterable[str]) -> str:
    """Sentences for what a reader must not overlook: another training than the published one, choices on test."""
    text = "".join(f" {found}" for found in dict.fromkeys(map(limits, settings)) if found)
    runs = [results for setting in settings for results in setting.runs]
    if any(one in run["classifiers"] and chosen_on_test(run, one) for run in runs for one in names):
        text += f" {DAGGER} {DAGGER_NOTE}."
    return text


def _listed(names: Iterable[str]) -> str:
    return "; ".join(map(label, names))


def _slug(kind: str, setting: Setting, with_backbone: bool = True) -> str:
    """A file name; the parts of a name from outside that it cannot hold become hyphens."""
    imbalance = f"_{setting.imbalance}" if setting.dataset.startswith("cifar") else ""
    text = f"{kind}_{setting.dataset}{imbalance}" + (f"_{setting.backbone}" if with_backbone else "")
    return re.sub(r"[^\w.]+", "-", text)
