"""Sorts finished runs into groups that differ only in the seed, so that they may be averaged."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fastlt.core.words import counted
from fastlt.experiment.results import Results
from fastlt.longtail.sampler import by_quota
from fastlt.report.choices import chosen_on_test
from fastlt.report.compare.model import Measured
from fastlt.report.departures import Departure, departures
from fastlt.report.names import SAMPLERS

SCORES = ("many", "medium", "few", "all", "mean_class", "macro_f1", "top5", "ece")
_BACKBONES = ("resnet10", "resnet18", "resnet32", "resnet32_w64", "resnet50", "resnet101", "resnet152")
_BACKBONES += ("resnext50", "resnext101", "resnext152")  # in the order of the paper
_OWN_FIELDS = ("backbone", "sampler", "sampler.drawing", "image_size")  # keys that are fields of a RunGroup


@dataclass(frozen=True)
class RunGroup:
    """A group of runs that differ only in their seed, with everything that they share.

    digest: of the dataset; None in old results.
    imbalance: training images of the largest class / of the smallest, rounded; None if a class has none.
    departures: from the protocol, sorted, without those that are fields of their own.
    drawing: how images are drawn; see `_beside_samplers` for instance-balanced runs.
    runs: their results, by seed. folders: the folders of the runs, in the same order.
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
    runs: tuple[Results, ...] = ()
    folders: tuple[str, ...] = ()


def gather(loaded: Iterable[tuple[str, Results]]) -> tuple[list[RunGroup], list[str]]:
    """Sorts runs into groups; returns (groups in the order of the tables, warnings).

    loaded: pairs of (folder, its results). A seed that was run twice counts once, with the classifiers of both runs.
    There is a warning, and only one of them is shown, if they have different results. A classifier of the user's own
    that was edited between runs of a group is several classifiers, whose names tell their sources.
    """
    found: dict[RunGroup, dict[int, tuple[str, Results]]] = {}
    warnings = []
    placed = _placed(loaded)
    fitted_by: dict[tuple[RunGroup, str], set[str | None]] = {}
    for run_group, _, results in placed:
        for classifier, row in results.classifiers.items():
            fitted_by.setdefault((run_group, classifier), set()).add(row.source)
    for run_group, folder, results in placed:
        results = _told_apart(results, {one for one in results.classifiers if len(fitted_by[run_group, one]) > 1})
        runs = found.setdefault(run_group, {})
        kept = runs.setdefault(results.seed, (folder, results))
        if kept[1] is results:
            continue
        if _agree(kept[1], results):
            runs[results.seed] = _both(kept, (folder, results))
        else:
            warnings.append(
                f"{name(run_group)}, seed {results.seed}, was run twice with different results: {kept[0]} is shown, "
                f"{folder} is left out."
            )
    run_groups = []
    for setting, runs in found.items():
        run_group = _beside_samplers(setting, found)
        folders, contents = zip(*(runs[seed] for seed in sorted(runs)), strict=True)
        run_groups.append(replace(run_group, runs=contents, folders=folders))
    run_groups.sort(key=_place)
    return run_groups, warnings + [text for one in run_groups for text in (*_shared(one), *_of_versions(one))]


def measured(run_group: RunGroup, classifier: str, scope: str) -> Measured | None:
    """Returns mean and standard deviation of a score, in percent, over the runs that have a classifier.

    scope: one of SCORES. None if no run has the classifier, or if one has no number, such as for an empty group.
    """
    rows = [results.classifiers[classifier] for results in run_group.runs if classifier in results.classifiers]
    values = [getattr(row, scope) for row in rows]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Measured(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def classifiers(run_group: RunGroup) -> list[str]:
    """Returns the classifiers that any run of a group has, in the order of results.json."""
    return list(dict.fromkeys(known for results in run_group.runs for known in results.classifiers))


def seeds_of(run_group: RunGroup, classifier: str) -> int:
    """Returns the number of runs that have a classifier."""
    return sum(classifier in results.classifiers for results in run_group.runs)


def on_test(run_group: RunGroup, classifier: str) -> bool:
    """Returns whether a choice for a classifier was made on the test images in any run."""
    return any(chosen_on_test(run, classifier) for run in run_group.runs if classifier in run.classifiers)


def data_name(run_group: RunGroup) -> str:
    """Returns the readable name of the dataset; for CIFAR-LT with its imbalance, as several have the same name."""
    imbalance = run_group.imbalance if run_group.dataset.startswith("cifar") else None
    return run_group.dataset if imbalance is None else f"{run_group.dataset} (imbalance {imbalance})"


def name(run_group: RunGroup, without: tuple[str, ...] = ()) -> str:
    """Returns the name of a group of runs in one line. without: fields to leave out."""
    parts = {
        "dataset": data_name(run_group),
        "backbone": run_group.backbone,
        "sampler": sampling(run_group),
        "protocol": run_group.protocol or "",
        "drawing": "" if run_group.drawing in (None, "quota") else f"{run_group.drawing} drawing",
        "epochs": "" if run_group.epochs is None else counted(run_group.epochs, "epoch"),
        "precision": "" if run_group.precision in (None, "fp32") else run_group.precision,
        "departures": ", ".join(one.given for one in run_group.departures if one.key != "epochs"),
    }
    return ", ".join(text for key, text in parts.items() if text and key not in without)


def sampling(run_group: RunGroup) -> str:
    """Returns the readable name of the sampler of stage 1, such as `class-balanced`."""
    return SAMPLERS.get(run_group.sampler, run_group.sampler).removesuffix(" sampling")


def sampler_place(run_group: RunGroup) -> int:
    """Returns the position of a group's sampler in the order of the paper."""
    return list(SAMPLERS).index(run_group.sampler) if run_group.sampler in SAMPLERS else len(SAMPLERS)


def bare(run_group: RunGroup) -> RunGroup:
    """Returns the group without its runs, which is equal for all runs of one experiment and can be used as a key."""
    return replace(run_group, runs=(), folders=())


def with_sampler(run_group: RunGroup, sampler: str) -> RunGroup:
    """Returns the same group with another sampler and without runs."""
    return replace(bare(run_group), sampler=sampler)


def _setting(results: Results) -> RunGroup:
    train = results.class_counts["train"]
    found = [one for one in departures(results) if one.key not in _OWN_FIELDS]
    if results.checkpoint.chosen.startswith("given"):
        trained_by = (results.trained_by or "")[:12]  # tells trainings apart whose settings are not recorded here
        found.append(Departure("representation", "null", trained_by or "given"))
    return RunGroup(
        dataset=results.dataset,
        digest=results.dataset_digest,
        imbalance=round(max(train) / min(train)) if min(train) > 0 else None,
        backbone=results.backbone,
        sampler=results.sampler,
        drawing=results.drawing,
        protocol=results.protocol,
        epochs=results.epochs,
        image_size=results.image_size,
        precision=results.precision,
        departures=tuple(sorted(found, key=_key)),
    )


def _placed(loaded: Iterable[tuple[str, Results]]) -> list[tuple[RunGroup, str, Results]]:
    """Returns (group, folder, results) of each run. The group tells the source of own parts if they were edited."""
    placed = [(_setting(results), folder, results) for folder, results in loaded]
    sources: dict[RunGroup, set[str | None]] = {}
    for run_group, _, results in placed:
        sources.setdefault(run_group, set()).add(results.trained_by)

    def told(run_group: RunGroup, results: Results) -> RunGroup:
        source = Departure("source", "null", _short(results.trained_by))
        return replace(run_group, departures=tuple(sorted((*run_group.departures, source), key=_key)))

    return [
        (told(run_group, results) if len(sources[run_group]) > 1 else run_group, folder, results)
        for run_group, folder, results in placed
    ]


def _told_apart(results: Results, edited: set[str]) -> Results:
    """Returns the results with the source of the classifiers `edited` in their names."""
    rows = {
        f"{known}, source {_short(row.source)}" if known in edited else known: row
        for known, row in results.classifiers.items()
    }
    return replace(results, classifiers=rows)


def _short(digest: str | None) -> str:
    return (digest or "unknown")[:12]


def _key(departure: Departure) -> str:
    return departure.key


def _beside_samplers(run_group: RunGroup, others: Iterable[RunGroup]) -> RunGroup:
    """Returns an instance-balanced group with the drawing of the runs with other samplers that it is compared with.

    Instance-balanced runs name the drawing `quota` also where `dataloader` was asked for, as both give the same images.
    """
    if run_group.sampler != "instance" or run_group.drawing != "quota":
        return run_group
    compared = {
        other.drawing
        for other in others
        if other.sampler != "instance" and replace(with_sampler(other, "instance"), drawing="quota") == bare(run_group)
    }
    same = [drawing for drawing in compared if drawing is not None and by_quota("instance", drawing)]
    return replace(run_group, drawing=same[0]) if len(same) == 1 else run_group


def _place(run_group: RunGroup) -> tuple[Any, ...]:
    known = _BACKBONES.index(run_group.backbone) if run_group.backbone in _BACKBONES else len(_BACKBONES)
    protocol = str(run_group.protocol), len(run_group.departures)  # runs without departures come first
    # As text, because None cannot be compared with other values.
    given = [one.given for one in run_group.departures]
    rest = json.dumps([run_group.image_size, run_group.precision, given, run_group.drawing, run_group.digest])
    place = (
        run_group.dataset,
        run_group.imbalance or 0,
        known,
        run_group.backbone,
        run_group.epochs or 0,
        *protocol,
        rest,
    )
    return *place, sampler_place(run_group), run_group.sampler


def _agree(first: Results, second: Results) -> bool:
    """Returns whether two runs are of one network, with the same numbers, to the last digit, where both have some."""
    both = set(first.classifiers) & set(second.classifiers)
    rows = [(first.classifiers[known], second.classifiers[known]) for known in both]
    return first.key == second.key and all(getattr(a, score) == getattr(b, score) for a, b in rows for score in SCORES)


def _both(first: tuple[str, Results], second: tuple[str, Results]) -> tuple[str, Results]:
    """Returns the run with more classifiers, together with those that only the other one has."""
    less, more = sorted((second, first), key=lambda one: len(one[1].classifiers))
    rows = more[1].classifiers | {k: row for k, row in less[1].classifiers.items() if k not in more[1].classifiers}
    failed = {known: error for known, error in more[1].failed.items() if known not in rows}
    return more[0], replace(more[1], classifiers=rows, failed=failed)


def _shared(run_group: RunGroup) -> list[str]:
    """Returns a warning if runs with different seeds share a representation."""
    keys = [results.key for results in run_group.runs if results.key]
    if len(set(keys)) == len(keys):
        return []
    return [
        f"Runs of {name(run_group)} share a representation: their ± is less than that of representations trained anew."
    ]


def _of_versions(run_group: RunGroup) -> list[str]:
    """Returns a warning if runs were made by different versions of a package that results depend on."""
    packages = dict.fromkeys(package for results in run_group.runs for package in results.versions)
    found = {one: {results.versions.get(one, "none") for results in run_group.runs} for one in packages}
    told = [f"{one} {' and '.join(sorted(versions))}" for one, versions in found.items() if len(versions) > 1]
    if not told:
        return []
    return [f"Runs of {name(run_group)} are of different versions ({'; '.join(told)}): their ± may hold that, too."]
