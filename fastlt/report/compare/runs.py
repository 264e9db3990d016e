"""Finished runs sorted into settings: what may be averaged, because it differs in the seed only."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fastlt.report.choices import chosen_on_test
from fastlt.report.compare.model import Measured
from fastlt.report.departures import Departure, departures
from fastlt.report.names import SAMPLERS, number

SCORES = ("many", "medium", "few", "all", "mean_class", "macro_f1", "top5", "ece")
_BACKBONES = ("resnet10", "resnet18", "resnet32", "resnet50", "resnet101", "resnet152")
_BACKBONES += ("resnext50", "resnext101", "resnext152")  # in the order of the paper
_OWN_FIELDS = ("backbone", "sampler", "sampler.drawing", "image_size")  # of a Setting


@dataclass(frozen=True)
class Setting:
    """Everything that two runs must share to be runs of one experiment, and these runs, by seed.

    digest: of the dataset, None in old results. imbalance: training images of the largest class over those of the
    smallest, rounded; None where a class has none. departures: from the protocol, sorted, without those that another
    field is all about. runs: what their results.json hold. folders: where they lie, in the same order.
    """

    dataset: str
    digest: str | None
    imbalance: int | None
    backbone: str
    sampler: str
    drawing: str | None
    protocol: str | None
    epochs: int | None
    image_size: int | None
    precision: str | None
    departures: tuple[Departure, ...]
    runs: tuple[dict[str, Any], ...] = ()
    folders: tuple[str, ...] = ()


def gather(loaded: Iterable[tuple[str, dict[str, Any]]]) -> tuple[list[Setting], list[str]]:
    """(settings in the order of the tables, warnings) of (folder, contents of its results.json).

    A seed that was run twice counts once, and a warning says so where the two do not agree.
    """
    found: dict[Setting, dict[int, tuple[str, dict[str, Any]]]] = {}
    warnings = []
    for folder, results in loaded:
        setting = _setting(results)
        runs = found.setdefault(setting, {})
        kept = runs.setdefault(results["seed"], (folder, results))
        if kept[1] is results:
            continue
        if not _agree(kept[1], results):
            warnings.append(
                f"{name(setting)}, seed {results['seed']}, was run twice with different results: {kept[0]} is shown, "
                f"{folder} is left out."
            )
        elif len(results["classifiers"]) > len(kept[1]["classifiers"]):
            runs[results["seed"]] = (folder, results)
    settings = []
    for setting, runs in found.items():
        folders, contents = zip(*(runs[seed] for seed in sorted(runs)), strict=True)
        settings.append(replace(setting, runs=contents, folders=folders))
    settings.sort(key=_place)
    return settings, warnings + [warning for setting in settings for warning in _shared(setting)]


def measured(setting: Setting, classifier: str, scope: str) -> Measured | None:
    """A score of SCORES in percent over the runs that have the classifier; None without any, or with one that has no
    number, such as for an empty group."""
    rows = [results["classifiers"][classifier] for results in setting.runs if classifier in results["classifiers"]]
    values = [number(row.get(scope)) for row in rows]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Measured(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def classifiers(setting: Setting) -> list[str]:
    """The classifiers of any of its runs, in the order of results.json."""
    return list(dict.fromkeys(known for results in setting.runs for known in results["classifiers"]))


def seeds_of(setting: Setting, classifier: str) -> int:
    """How many runs measured the classifier."""
    return sum(classifier in results["classifiers"] for results in setting.runs)


def on_test(setting: Setting, classifier: str) -> bool:
    """Whether the test images had a say in any of its runs' choices."""
    return any(chosen_on_test(run, classifier) for run in setting.runs if classifier in run["classifiers"])


def data_name(setting: Setting) -> str:
    """The dataset for people; CIFAR-LT with its imbalance, for there are several of that name."""
    imbalance = setting.imbalance if setting.dataset.startswith("cifar") else None
    return setting.dataset if imbalance is None else f"{setting.dataset} (imbalance {imbalance})"


def name(setting: Setting, without: tuple[str, ...] = ()) -> str:
    """The setting in one line for people; without: fields that go without saying."""
    parts = {
        "dataset": data_name(setting),
        "backbone": setting.backbone,
        "sampler": sampling(setting),
        "protocol": setting.protocol or "",
        "drawing": "" if setting.drawing in (None, "quota") else f"{setting.drawing} drawing",
        "epochs": "" if setting.epochs is None else f"{setting.epochs} epoch{'s' if setting.epochs != 1 else ''}",
        "precision": "" if setting.precision in (None, "fp32") else setting.precision,
        "departures": ", ".join(one.given for one in setting.departures if one.key != "epochs"),
    }
    return ", ".join(text for key, text in parts.items() if text and key not in without)


def sampling(setting: Setting) -> str:
    """The sampling law of stage 1 for people: `class-balanced`."""
    return SAMPLERS.get(setting.sampler, setting.sampler).removesuffix(" sampling")


def sampler_place(setting: Setting) -> int:
    """Its place among the samplers, as in the paper."""
    return list(SAMPLERS).index(setting.sampler) if setting.sampler in SAMPLERS else len(SAMPLERS)


def bare(setting: Setting) -> Setting:
    """The setting without its runs: equal, and hashed alike, for runs of one experiment."""
    return replace(setting, runs=(), folders=())


def with_sampler(setting: Setting, sampler: str) -> Setting:
    """The same experiment after another sampler, without runs."""
    return replace(bare(setting), sampler=sampler)


def _setting(results: dict[str, Any]) -> Setting:
    train = results["class_counts"]["train"]
    found = [one for one in departures(results) if one.key not in _OWN_FIELDS]
    if str((results.get("checkpoint") or {}).get("chosen", "")).startswith("given"):
        found.append(Departure("representation", "null", "given"))
    return Setting(
        dataset=results["dataset"],
        digest=results.get("dataset_digest"),
        imbalance=round(max(train) / min(train)) if min(train) > 0 else None,
        backbone=results["backbone"],
        sampler=results["sampler"],
        drawing=results.get("drawing"),
        protocol=results.get("protocol"),
        epochs=results.get("epochs"),
        image_size=results.get("image_size"),
        precision=results.get("precision"),
        departures=tuple(sorted(found, key=lambda one: one.key)),
    )


def _place(setting: Setting) -> tuple[Any, ...]:
    known = _BACKBONES.index(setting.backbone) if setting.backbone in _BACKBONES else len(_BACKBONES)
    protocol = str(setting.protocol), len(setting.departures)  # as it is before what departs from it
    # As text, for any of them may be None.
    given = [one.given for one in setting.departures]
    rest = json.dumps([setting.image_size, setting.precision, given, setting.drawing, setting.digest])
    place = (setting.dataset, setting.imbalance or 0, known, setting.backbone, setting.epochs or 0, *protocol, rest)
    return *place, sampler_place(setting), setting.sampler


def _agree(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether the classifiers that both have measured are the same to the last digit."""
    both = set(first["classifiers"]) & set(second["classifiers"])
    rows = [(first["classifiers"][known], second["classifiers"][known]) for known in both]
    return bool(both) and all(a.get(score) == b.get(score) for a, b in rows for score in SCORES)


def _shared(setting: Setting) -> list[str]:
    """A warning where runs with seeds of their own stand on one representation."""
    keys = [results["key"] for results in setting.runs if results.get("key")]
    if len(set(keys)) == len(keys):
        return []
    return [
        f"Runs of {name(setting)} share a representation: their ± is less than that of representations trained anew."
    ]
