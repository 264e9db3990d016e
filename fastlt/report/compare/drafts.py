"""Lays out the tables: which group of runs and which classifier each row and column shows, without numbers yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastlt.core.groups import GROUPS
from fastlt.core.words import counted
from fastlt.report.compare import kinds
from fastlt.report.compare.compare import cell, other_rows, published_row
from fastlt.report.compare.kinds import Kind, rows_of
from fastlt.report.compare.model import Cell
from fastlt.report.compare.published import MAIN, PublishedRow
from fastlt.report.compare.runs import RunGroup, classifiers, data_name, name, sampler_place, sampling, with_sampler
from fastlt.report.names import label
from fastlt.report.summary import headline

PUBLISHED_SCOPES = (*GROUPS, "all")
HEADINGS = {"mean_class": "mean class"}  # of scores whose heading is not their own name
CIFAR = ("cifar10_lt", "cifar100_lt")


@dataclass(frozen=True)
class Shown:
    """The content of a cell: which score of which classifier, and which published row."""

    run_group: RunGroup
    classifier: str  # "" if the cell has only a published number
    scope: str
    published: PublishedRow | None

    def cell(self) -> Cell:
        """Returns the cell with its numbers."""
        return cell(self.run_group, self.classifier, self.scope, self.published)


@dataclass(frozen=True)
class Draft:
    """The layout of a table.

    slug: the start of its file name. heads: headings of the label columns. columns: headings of the numbers.
    lines: the labels and cells of each row. about: sentences below the title. run_groups: all groups of runs in it.
    """

    slug: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: list[tuple[tuple[str, ...], list[Shown]]]
    about: str
    run_groups: list[RunGroup]


def by_sampler(kind: Kind, group: list[RunGroup]) -> Draft | None:
    """Lays out a table with a row for each sampler and classifier.

    group: groups of runs that differ only in the sampler, or in backbone and sampler. None if the table has no rows.
    """
    known = list(dict.fromkeys(one for run_group in group for one in classifiers(run_group)))
    several = len({run_group.backbone for run_group in group}) > 1
    scopes = scopes_of(group)
    lines = [
        (
            ((run_group.backbone,) if several else ()) + kind.labels(run_group, classifier),
            _scores(run_group, classifier, kind.series, scopes),
        )
        for run_group in group
        for classifier in rows_of(kind, classifiers(run_group) if run_group.runs else known)
        if kind.series in (None, MAIN) or published_row(run_group, classifier, kind.series)
    ]
    if not any(line[0].run_group.runs for _, line in lines):
        return None
    heads, without = (("backbone",), ("backbone", "sampler")) if several else ((), ("sampler",))
    return _draft(kind.slug, kind.title, (*heads, *kind.heads), _headings(scopes), lines, kind.about, group, without)


def by_column(
    slug: str, title: str, group: list[RunGroup], column: Callable[[RunGroup], str], without: tuple[str, ...]
) -> Draft | None:
    """Lays out a table of accuracy over all test images, with a row for each sampler and classifier of the paper.

    column: the heading of the column of a group of runs. without: fields in which the columns differ. Samplers that
    have numbers in one column only are left out. None if the table has no rows.
    """
    headings = {column(run_group): run_group for run_group in group}
    samplers = sorted({run_group.sampler: run_group for run_group in group}.values(), key=sampler_place)
    lines = []
    for sampler in (one.sampler for one in samplers):
        found = {column(run_group): run_group for run_group in group if run_group.sampler == sampler}
        row = [found.get(heading, with_sampler(other, sampler)) for heading, other in headings.items()]
        for classifier in kinds.PAPER if len(found) > 1 else ():
            if any(classifier in classifiers(run_group) for run_group in row):
                shown = [Shown(run_group, classifier, "all", published_row(run_group, classifier)) for run_group in row]
                lines.append(((sampling(row[0]), label(classifier)), shown))
    about = "Accuracy over all test images."
    heads = ("sampler", "classifier")
    return _draft(slug, title, heads, tuple(headings), lines, about, group, ("sampler", *without)) if lines else None


def by_fields(slug: str, title: str, group: list[RunGroup], fields: tuple[str, ...]) -> Draft | None:
    """Lays out a table with a row for each value of some fields and each classifier of the paper.

    fields: of a RunGroup, such as backbone or epochs. None if the table has no rows.
    """
    scopes = scopes_of(group)
    lines = [
        (
            (*(str(getattr(run_group, field)) for field in fields), label(classifier)),
            _scores(run_group, classifier, MAIN, scopes),
        )
        for run_group in group
        for classifier in rows_of(kinds.MAIN_KIND, classifiers(run_group))
    ]
    without = (*fields, "protocol") if len({run_group.protocol for run_group in group}) > 1 else fields
    heads = (*fields, "classifier")
    return _draft(slug, title, heads, _headings(scopes), lines, "", group, without) if lines else None


def others(run_group: RunGroup) -> Draft | None:
    """Lays out a table of numbers that others published for the dataset with other protocols; None without rows."""
    lines = [
        (
            (row.classifier, row.about, f"{row.epochs[0]}"),
            [Shown(run_group, "", scope, row) for scope in PUBLISHED_SCOPES],
        )
        for row in other_rows(run_group)
    ]
    about = "For orientation: each row has a network and a training of its own; none is compared with a run here."
    heads = ("method", "network and training", "epochs")
    title = f"Published for {data_name(run_group)} elsewhere"
    slug = f"elsewhere {run_group.dataset} {run_group.imbalance}"
    return Draft(slug, title, heads, PUBLISHED_SCOPES, lines, about, []) if lines else None


def scopes_of(run_groups: Sequence[RunGroup]) -> tuple[str, ...]:
    """Returns the scores that a table shows: many, medium, few and all, without groups that have no class.

    The mean class accuracy stands beside them where some classes have more test images than others.
    """
    runs = [run for run_group in run_groups for run in run_group.runs]
    groups = [scope for scope in GROUPS if any(run.groups[scope] for run in runs)]
    uneven = any(headline(run) == "mean_class" for run in runs)
    return (*groups, "all", *(["mean_class"] if uneven else []))


def _headings(scopes: Sequence[str]) -> tuple[str, ...]:
    return tuple(HEADINGS.get(scope, scope) for scope in scopes)


def _scores(run_group: RunGroup, classifier: str, series: str | None, scopes: Sequence[str]) -> list[Shown]:
    row = None if series is None else published_row(run_group, classifier, series)
    return [Shown(run_group, classifier, scope, row) for scope in scopes]


def _draft(
    slug: str,
    title: str,
    heads: tuple[str, ...],
    columns: tuple[str, ...],
    lines: Sequence[tuple[tuple[str, ...], list[Shown]]],
    about: str,
    run_groups: list[RunGroup],
    without: tuple[str, ...],
) -> Draft:
    """Makes a Draft. without: fields in which the groups of runs differ, so that title and slug leave them out."""
    first = next(run_group for run_group in run_groups if run_group.runs)
    imbalance = str(first.imbalance) if first.dataset in CIFAR else ""
    parts = {
        "dataset": f"{first.dataset} {imbalance}",
        "backbone": first.backbone,
        "epochs": "" if first.epochs is None else counted(first.epochs, "epoch"),
    }
    named = " ".join([slug, *(text for field, text in parts.items() if text and field not in without)])
    return Draft(named, f"{title}: {name(first, without)}", heads, columns, list(lines), about, run_groups)
