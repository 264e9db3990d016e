"""The layouts of the tables: which setting and classifier stands in which row and column, without numbers yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastlt.core.groups import GROUPS
from fastlt.report.compare import kinds
from fastlt.report.compare.compare import cell, other_rows, published_row
from fastlt.report.compare.kinds import Kind, rows_of
from fastlt.report.compare.model import Cell
from fastlt.report.compare.published import MAIN, PublishedRow
from fastlt.report.compare.runs import Setting, classifiers, data_name, name, sampler_place, sampling, with_sampler
from fastlt.report.names import label

SCOPES = (*GROUPS, "all")
CIFAR = ("cifar10_lt", "cifar100_lt")


@dataclass(frozen=True)
class Shown:
    """A cell to be: which score of which classifier, beside which published numbers."""

    setting: Setting
    classifier: str  # empty for none of ours
    scope: str
    published: PublishedRow | None

    def cell(self) -> Cell:
        """The cell with its numbers."""
        return cell(self.setting, self.classifier, self.scope, self.published)


@dataclass(frozen=True)
class Draft:
    """A table to be. lines: the labels and cells of each row. settings: all of ours that it is about."""

    slug: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: list[tuple[tuple[str, ...], list[Shown]]]
    about: str
    settings: list[Setting]


def by_sampler(kind: Kind, group: list[Setting]) -> Draft | None:
    """Rows: sampler x classifier, of settings that differ in the sampler only, or in backbone and sampler; None without
    a row."""
    known = list(dict.fromkeys(one for setting in group for one in classifiers(setting)))
    several = len({setting.backbone for setting in group}) > 1
    lines = [
        (
            ((setting.backbone,) if several else ()) + kind.labels(setting, classifier),
            _scores(setting, classifier, kind.series),
        )
        for setting in group
        for classifier in rows_of(kind, classifiers(setting) if setting.runs else known)
        if kind.series in (None, MAIN) or published_row(setting, classifier, kind.series)
    ]
    if not any(line[0].setting.runs for _, line in lines):
        return None
    heads, without = (("backbone",), ("backbone", "sampler")) if several else ((), ("sampler",))
    return _draft(kind.slug, kind.title, (*heads, *kind.heads), SCOPES, lines, kind.about, group, without)


def by_column(
    slug: str, title: str, group: list[Setting], column: Callable[[Setting], str], without: tuple[str, ...]
) -> Draft | None:
    """Rows: sampler x classifier of the paper, columns: what else differs; accuracy over all test images. Samplers of
    one column alone are left out; None without a row."""
    headings = {column(setting): setting for setting in group}
    samplers = sorted({setting.sampler: setting for setting in group}.values(), key=sampler_place)
    lines = []
    for sampler in (one.sampler for one in samplers):
        found = {column(setting): setting for setting in group if setting.sampler == sampler}
        row = [found.get(heading, with_sampler(other, sampler)) for heading, other in headings.items()]
        for classifier in kinds.PAPER if len(found) > 1 else ():
            if any(classifier in classifiers(setting) for setting in row):
                shown = [Shown(setting, classifier, "all", published_row(setting, classifier)) for setting in row]
                lines.append(((sampling(row[0]), label(classifier)), shown))
    about = "Accuracy over all test images."
    heads = ("sampler", "classifier")
    return _draft(slug, title, heads, tuple(headings), lines, about, group, ("sampler", *without)) if lines else None


def by_fields(slug: str, title: str, group: list[Setting], fields: tuple[str, ...]) -> Draft | None:
    """Rows: these fields x classifier of the paper; None without a row."""
    lines = [
        ((*(str(getattr(setting, field)) for field in fields), label(classifier)), _scores(setting, classifier, MAIN))
        for setting in group
        for classifier in rows_of(kinds.MAIN_KIND, classifiers(setting))
    ]
    without = (*fields, "protocol") if len({setting.protocol for setting in group}) > 1 else fields
    return _draft(slug, title, (*fields, "classifier"), SCOPES, lines, "", group, without) if lines else None


def others(setting: Setting) -> Draft | None:
    """What is published for the data set by other protocols, network and training in words; None without a row."""
    lines = [
        ((row.classifier, row.about, f"{row.epochs[0]}"), [Shown(setting, "", scope, row) for scope in SCOPES])
        for row in other_rows(setting)
    ]
    about = "For orientation: each row has a network and a training of its own; none is compared with a run here."
    heads = ("method", "network and training", "epochs")
    title = f"Published for {data_name(setting)} elsewhere"
    return (
        Draft(f"elsewhere {setting.dataset} {setting.imbalance}", title, heads, SCOPES, lines, about, [])
        if lines
        else None
    )


def _scores(setting: Setting, classifier: str, series: str | None) -> list[Shown]:
    row = None if series is None else published_row(setting, classifier, series)
    return [Shown(setting, classifier, scope, row) for scope in SCOPES]


def _draft(
    slug: str,
    title: str,
    heads: tuple[str, ...],
    columns: tuple[str, ...],
    lines: Sequence[tuple[tuple[str, ...], list[Shown]]],
    about: str,
    settings: list[Setting],
    without: tuple[str, ...],
) -> Draft:
    """without: fields in which the settings differ, so neither title nor slug names them."""
    first = next(setting for setting in settings if setting.runs)
    imbalance = str(first.imbalance) if first.dataset in CIFAR else ""
    parts = {"dataset": f"{first.dataset} {imbalance}", "backbone": first.backbone, "epochs": f"{first.epochs} epochs"}
    named = " ".join([slug, *(text for field, text in parts.items() if field not in without)])
    return Draft(named, f"{title}: {name(first, without)}", heads, columns, list(lines), about, settings)
