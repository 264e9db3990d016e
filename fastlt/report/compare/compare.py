"""Which published number belongs beside a setting, and what keeps the two from being compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastlt.report.compare.model import Cell, Published
from fastlt.report.compare.published import MAIN, OTHERS, PUBLISHED, PublishedRow
from fastlt.report.compare.runs import Setting, measured
from fastlt.report.departures import Departure

# Departures that leave an experiment what it is: how it is computed, how much of it, and where choices are made (those
# made on test are marked in their row). Image size and epochs are told by themselves.
_HARMLESS = ("accumulate", "feature_dtype", "choose_on", "stage2.seeds")
# A protocol whose stage 2 trains on images has the published classifiers under these names.
_PUBLISHED_AS = {"crt_images": "crt", "lws_images": "lws"}


@dataclass(frozen=True)
class _Known:
    """What the published numbers of a data set were measured on. images: training images by imbalance."""

    image_size: int
    images: dict[int | None, int]


_KNOWN = {
    "imagenet_lt": _Known(224, {None: 115_846}),
    "places_lt": _Known(224, {None: 62_500}),
    "inaturalist2018": _Known(224, {None: 437_513}),
    "cifar100_lt": _Known(32, {100: 10_847, 50: 12_608}),
    "cifar10_lt": _Known(32, {100: 12_406, 50: 13_996}),
}


def published_row(setting: Setting, classifier: str, series: str = MAIN) -> PublishedRow | None:
    """What is published for this dataset, protocol, backbone, sampler and classifier: after as many epochs where the
    data set has numbers for several, else after the fewest."""
    rows = [row for row in _of_data(setting, series) if setting.protocol in row.protocols and row.tau is None]
    trained = {row.epochs for row in rows}
    epochs = next((known for known in trained if setting.epochs in known), min(trained, default=()))
    wanted = (setting.backbone, setting.sampler, _PUBLISHED_AS.get(classifier, classifier), epochs)
    return next((row for row in rows if (row.backbone, row.sampler, row.classifier, row.epochs) == wanted), None)


def other_rows(setting: Setting) -> list[PublishedRow]:
    """What is published for the data set by protocols that are not to be had here."""
    return _of_data(setting, OTHERS)


def cell(setting: Setting, classifier: str, scope: str, row: PublishedRow | None) -> Cell:
    """Ours, if there is any, beside a published row, or beside none. scope: many, medium, few or all."""
    value = None if row is None else getattr(row, scope)
    published = None if row is None or value is None else Published(value, row.source)
    same = row is not None and setting.protocol in row.protocols and not kept_apart(setting)
    return Cell(measured(setting, classifier, scope), published, comparable=same)


def _of_data(setting: Setting, series: str) -> list[PublishedRow]:
    rows = [row for row in PUBLISHED if (row.dataset, row.series) == (setting.dataset, series)]
    return [row for row in rows if row.imbalance in (None, setting.imbalance)] if same_data(setting) else []


def same_data(setting: Setting) -> bool:
    """Whether the training images are as many as those of the published numbers, but for a few that do not decode."""
    known = _KNOWN.get(setting.dataset)
    images = known and (known.images.get(None) or known.images.get(setting.imbalance))
    return bool(images) and all(abs(_images(results) - images) <= 0.01 * images for results in setting.runs)


def kept_apart(setting: Setting) -> tuple[str, ...]:
    """What keeps ours from being compared with what is published on this data set, in words; empty for nothing."""
    known = _KNOWN.get(setting.dataset)
    if known is None:
        return ()
    protocols = _protocols(setting)
    if setting.protocol not in protocols:
        other = f"protocol {setting.protocol} is not that of the published numbers ({' or '.join(protocols)})"
        return (other, *_shortened(setting))
    found = [_epochs(setting)] if _epochs(setting) else []
    if setting.image_size not in (None, known.image_size):
        found.append(f"images of {setting.image_size} px in place of {known.image_size}")
    return (*found, *(one.words for one in setting.departures if one.key not in (*_HARMLESS, "epochs")))


def limits(setting: Setting, end: str = "") -> str:
    """A sentence on what keeps ours from being compared, which `end` ends, or on a shortened training of data that
    nothing is published for; empty for neither."""
    if found := kept_apart(setting):
        return f"{'; '.join(found)}; not comparable with published numbers{end}."
    return f"{'; '.join(found)}." if (found := _shortened(setting)) else ""


def _shortened(setting: Setting) -> tuple[str, ...]:
    """Of its protocol's epochs, where no published numbers say how many there were."""
    unknown = setting.dataset not in _KNOWN or setting.protocol not in _protocols(setting)
    return tuple(one.words for one in setting.departures if one.shortens and unknown)


def _protocols(setting: Setting) -> list[str]:
    """The protocols that numbers of the data set are published for, in the order of the rows."""
    rows = [row for row in PUBLISHED if (row.dataset, row.series) == (setting.dataset, MAIN)]
    return list(dict.fromkeys(protocol for row in rows for protocol in row.protocols))


def other_data(setting: Setting) -> str:
    """A sentence where a data set has the name of a published one but other training images; else empty."""
    known = _KNOWN.get(setting.dataset)
    if known is None or same_data(setting) or not setting.runs:
        return ""
    images = known.images.get(None) or known.images.get(setting.imbalance)
    if images is None:
        return ""  # an imbalance that nothing is published for
    ours = _images(setting.runs[0])
    return (
        f"{setting.dataset} has {ours:,} training images here and {images:,} in the papers: nothing stands beside it."
    )


def _images(results: dict[str, Any]) -> int:
    return sum(results["class_counts"]["train"])


def _epochs(setting: Setting) -> str:
    rows = [row for row in PUBLISHED if row.dataset == setting.dataset and setting.protocol in row.protocols]
    trained = sorted({row.epochs for row in rows})
    if any(setting.epochs in epochs for epochs in trained):
        return ""
    usual = trained[0][0]
    if setting.epochs is None:
        return f"an unknown number of epochs in place of {usual}"
    return Departure("epochs", str(usual), str(setting.epochs)).words
