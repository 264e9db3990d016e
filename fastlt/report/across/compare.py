"""Which published number belongs beside a setting, and what keeps the two from being compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastlt.report.across.model import Cell, Published
from fastlt.report.across.published import MAIN, PUBLISHED, PublishedRow
from fastlt.report.across.runs import Setting, measured

# Given values that leave an experiment what it is: how it is computed, how much of it, and where choices are made
# (those made on test are marked in their row).
_HARMLESS = ("precision=", "accumulate=", "feature_dtype=", "choose_on=", "stage2.seeds=")


@dataclass(frozen=True)
class _Known:
    """How the published numbers of a data set were made. images: training images by imbalance."""

    protocols: tuple[str, ...]
    image_size: int
    images: dict[int | None, int]


_KNOWN = {
    "imagenet_lt": _Known(("imagenet_lt_90", "reference"), 224, {None: 115_846}),
    "places_lt": _Known(("places_lt",), 224, {None: 62_500}),
    "inaturalist2018": _Known(("inaturalist_90", "inaturalist_200"), 224, {None: 437_513}),
    "cifar100_lt": _Known(("cifar_lt_200",), 32, {100: 10_847, 50: 12_608}),
    "cifar10_lt": _Known(("cifar_lt_200",), 32, {100: 12_406, 50: 13_996}),
}


def published_row(setting: Setting, classifier: str, series: str = MAIN) -> PublishedRow | None:
    """What is published for this dataset, backbone, sampler and classifier: after as many epochs where the data set has
    numbers for several, else after the fewest."""
    if not same_data(setting):
        return None
    rows = [row for row in PUBLISHED if row.dataset == setting.dataset and row.series == series and row.tau is None]
    rows = [row for row in rows if row.imbalance in (None, setting.imbalance)]
    trained = {row.epochs for row in rows}
    epochs = next((known for known in trained if setting.epochs in known), min(trained, default=()))
    wanted = (setting.backbone, setting.sampler, classifier, epochs)
    return next((row for row in rows if (row.backbone, row.sampler, row.classifier, row.epochs) == wanted), None)


def cell(setting: Setting, classifier: str, scope: str, series: str | None = MAIN) -> Cell:
    """Ours beside the published number of a series, or of none. scope: many, medium, few or all."""
    row = None if series is None else published_row(setting, classifier, series)
    value = None if row is None else getattr(row, scope)
    published = None if row is None or value is None else Published(value, row.source)
    return Cell(measured(setting, classifier, scope), published, comparable=not departures(setting))


def same_data(setting: Setting) -> bool:
    """Whether the training images are as many as those of the published numbers, but for a few that do not decode."""
    known = _KNOWN.get(setting.dataset)
    images = known and (known.images.get(None) or known.images.get(setting.imbalance))
    return bool(images) and all(abs(_images(results) - images) <= 0.01 * images for results in setting.runs)


def departures(setting: Setting) -> tuple[str, ...]:
    """What keeps ours from being compared with what is published on this data set; empty for nothing."""
    known = _KNOWN.get(setting.dataset)
    if known is None:
        return ()
    found = [_epochs(setting)] if _epochs(setting) else []
    if setting.protocol not in known.protocols:
        found.append(f"protocol {setting.protocol} in place of {' or '.join(known.protocols)}")
    if setting.image_size not in (None, known.image_size):
        found.append(f"images of {setting.image_size} px in place of {known.image_size}")
    given = [word for word in setting.overrides if not word.startswith(_HARMLESS)]
    if "representation=given" in given:
        given.remove("representation=given")
        found.append("a given representation, whose training is not recorded")
    if given:
        found.append(f"settings of its own ({', '.join(given)})")
    return tuple(found)


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
    trained = sorted({row.epochs for row in PUBLISHED if row.dataset == setting.dataset})
    if any(setting.epochs in epochs for epochs in trained):
        return ""
    usual = trained[0][0]
    if setting.epochs is None:
        return f"an unknown number of epochs in place of {usual}"
    if setting.epochs < usual:
        return f"shortened protocol: {setting.epochs} of {usual} epochs"
    return f"{setting.epochs} epochs in place of {usual}"
