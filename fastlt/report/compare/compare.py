"""Finds the published number for a group of runs, and the reasons why the two must not be compared."""

from __future__ import annotations

from dataclasses import dataclass

from fastlt.core.words import counted
from fastlt.experiment.results import Results
from fastlt.report.compare.model import Cell, Published
from fastlt.report.compare.published import MAIN, OTHERS, PUBLISHED, PublishedRow
from fastlt.report.compare.runs import RunGroup, measured
from fastlt.report.departures import Departure

# Departures that still allow a comparison: how things are computed, the number of seeds, and the split for choices
# (choices made on test are marked in their row). Image size and epochs are reported separately.
_HARMLESS = ("accumulate", "feature_dtype", "choose_on", "stage2.seeds")
# Our classifiers that are compared with published ones of another name: in these protocols stage 2 trains on images.
_PUBLISHED_AS = {"crt_images": "crt", "lws_images": "lws"}


@dataclass(frozen=True)
class _Known:
    """The data that published numbers were measured on: image size in pixels, {imbalance: training images}."""

    image_size: int
    images: dict[int | None, int]


_KNOWN = {
    "imagenet_lt": _Known(224, {None: 115_846}),
    "places_lt": _Known(224, {None: 62_500}),
    "inaturalist2018": _Known(224, {None: 437_513}),
    "cifar100_lt": _Known(32, {100: 10_847, 50: 12_608}),
    "cifar10_lt": _Known(32, {100: 12_406, 50: 13_996}),
}


def published_row(run_group: RunGroup, classifier: str, series: str = MAIN) -> PublishedRow | None:
    """Returns the published row for the dataset, protocol, backbone and sampler of a group of runs and a classifier.

    If numbers are published for several numbers of epochs, that of the runs is taken, else the smallest.
    """
    rows = [row for row in _of_data(run_group, series) if run_group.protocol in row.protocols and row.tau is None]
    trained = {row.epochs for row in rows}
    epochs = next((known for known in trained if run_group.epochs in known), min(trained, default=()))
    wanted = (run_group.backbone, run_group.sampler, _PUBLISHED_AS.get(classifier, classifier), epochs)
    return next((row for row in rows if (row.backbone, row.sampler, row.classifier, row.epochs) == wanted), None)


def other_rows(run_group: RunGroup) -> list[PublishedRow]:
    """Returns the rows that are published for the dataset with protocols that fastlt does not have."""
    return _of_data(run_group, OTHERS)


def cell(run_group: RunGroup, classifier: str, scope: str, row: PublishedRow | None) -> Cell:
    """Returns the table cell with our result and the published number, each if it exists.

    scope: many, medium, few, all or mean_class. row: the published row or None; none has mean class accuracies.
    """
    value = None if row is None else getattr(row, scope, None)
    published = None if row is None or value is None else Published(value, row.source)
    same = row is not None and run_group.protocol in row.protocols and not kept_apart(run_group)
    return Cell(measured(run_group, classifier, scope), published, comparable=same)


def _of_data(run_group: RunGroup, series: str) -> list[PublishedRow]:
    rows = [row for row in PUBLISHED if (row.dataset, row.series) == (run_group.dataset, series)]
    return [row for row in rows if row.imbalance in (None, run_group.imbalance)] if same_data(run_group) else []


def has_published(run_group: RunGroup) -> bool:
    """Returns whether numbers are published for a dataset of this name."""
    return run_group.dataset in _KNOWN


def same_data(run_group: RunGroup) -> bool:
    """Returns whether the number of training images is the published one, except for up to 1 % that do not decode."""
    known = _KNOWN.get(run_group.dataset)
    images = known and (known.images.get(None) or known.images.get(run_group.imbalance))
    return bool(images) and all(abs(_images(results) - images) <= 0.01 * images for results in run_group.runs)


def kept_apart(run_group: RunGroup) -> tuple[str, ...]:
    """Returns the reasons, in words, why a group of runs must not be compared with the published numbers."""
    known = _KNOWN.get(run_group.dataset)
    if known is None:
        return ()
    protocols = _protocols(run_group)
    if run_group.protocol not in protocols:
        other = f"protocol {run_group.protocol} is not that of the published numbers ({' or '.join(protocols)})"
        return (other, *_shortened(run_group))
    found = [_epochs(run_group)] if _epochs(run_group) else []
    if run_group.image_size not in (None, known.image_size):
        found.append(f"images of {run_group.image_size} px in place of {known.image_size}")
    return (*found, *(one.words for one in run_group.departures if one.key not in (*_HARMLESS, "epochs")))


def limits(run_group: RunGroup, end: str = "") -> str:
    """Returns a sentence on why runs must not be compared with published numbers, or that training was shortened.

    The latter is for data without published numbers. end: is added to the first sentence. "" if neither applies.
    """
    if found := kept_apart(run_group):
        return f"{'; '.join(found)}; not comparable with published numbers{end}."
    return f"{'; '.join(found)}." if (found := _shortened(run_group)) else ""


def _shortened(run_group: RunGroup) -> tuple[str, ...]:
    """Returns the departure of a run with fewer epochs than its protocol, if no published numbers exist for it."""
    unknown = run_group.dataset not in _KNOWN or run_group.protocol not in _protocols(run_group)
    return tuple(one.words for one in run_group.departures if one.shortens and unknown)


def _protocols(run_group: RunGroup) -> list[str]:
    """Returns the protocols for which numbers of the dataset are published, in the order of the rows."""
    rows = [row for row in PUBLISHED if (row.dataset, row.series) == (run_group.dataset, MAIN)]
    return list(dict.fromkeys(protocol for row in rows for protocol in row.protocols))


def other_data(run_group: RunGroup) -> str:
    """Returns a sentence if the dataset has a published one's name but another number of training images, else ""."""
    known = _KNOWN.get(run_group.dataset)
    if known is None or same_data(run_group) or not run_group.runs:
        return ""
    images = known.images.get(None) or known.images.get(run_group.imbalance)
    if images is None:
        return ""  # nothing is published for this imbalance
    ours = _images(run_group.runs[0])
    return (
        f"{run_group.dataset} has {counted(ours, 'training image')} here and {images:,} in the papers: nothing stands "
        "beside it."
    )


def _images(results: Results) -> int:
    return sum(results.class_counts["train"])


def _epochs(run_group: RunGroup) -> str:
    rows = [row for row in PUBLISHED if row.dataset == run_group.dataset and run_group.protocol in row.protocols]
    trained = sorted({row.epochs for row in rows})
    if any(run_group.epochs in epochs for epochs in trained):
        return ""
    usual = trained[0][0]
    if run_group.epochs is None:
        return f"an unknown number of epochs in place of {usual}"
    return Departure("epochs", str(usual), str(run_group.epochs)).words
