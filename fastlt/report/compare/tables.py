"""Builds the tables of a report across runs, in the order of the paper, with our and the published numbers."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from fastlt.core.words import counted
from fastlt.report.choices import DAGGER, DAGGER_NOTE
from fastlt.report.compare import kinds
from fastlt.report.compare.compare import limits, other_data
from fastlt.report.compare.drafts import CIFAR, Draft, Shown, by_column, by_fields, by_sampler, others
from fastlt.report.compare.gaps import Planned, planned_for
from fastlt.report.compare.model import Row, Table
from fastlt.report.compare.runs import RunGroup, bare, data_name, name, on_test, sampler_place, seeds_of, with_sampler

INATURALIST, PLACES = "inaturalist2018", "places_lt"
# {table of the paper: the start of its slug}
_OF_THE_PAPER = {
    "samplers and classifiers on ImageNet-LT": "samplers_imagenet_lt",
    "re-training different parts": "parts_",
    "backbones on ImageNet-LT": "backbones_imagenet_lt",
    "iNaturalist 2018": "epochs_inaturalist2018",
    "Places-LT": "samplers_places_lt",
    "how tau is chosen": "tau_",
    "nearest class means": "ncm_",
    "deeper and cosine classifiers": "heads_",
}


def build_tables(run_groups: Sequence[RunGroup], planned: Sequence[Planned]) -> tuple[Table, ...]:
    """Builds all tables for which there are runs. Planned samplers without runs get rows without numbers."""
    tables: list[Table] = []
    for draft in _drafts(run_groups, planned):
        start = re.sub(r"[^a-z0-9]+", "_", draft.slug.lower()).strip("_")
        same = sum(re.fullmatch(rf"{start}(_v\d+)?", table.slug) is not None for table in tables)
        tables.append(_filled(draft, f"{start}_v{same + 1}" if same else start, planned))
    return tuple(tables)


def without_runs(tables: Iterable[Table]) -> list[str]:
    """Returns the names of the tables of the paper that are missing from `tables`."""
    slugs = [table.slug for table in tables]
    return [words for words, start in _OF_THE_PAPER.items() if not any(slug.startswith(start) for slug in slugs)]


def _drafts(run_groups: Sequence[RunGroup], planned: Sequence[Planned]) -> list[Draft]:
    blocks = [_with_missing(block, planned) for block in _grouped(run_groups, "sampler")]
    plain = [run_group for run_group in run_groups if run_group.sampler == "instance"]
    several = [group for group in _grouped(plain, "backbone") if len(group) > 1 and group[0].dataset != INATURALIST]
    trainings = _grouped([one for one in plain if one.dataset == INATURALIST], "backbone", "epochs", "protocol")
    # Groups that have their rows in a table across backbones need no table of their own for a single sampler.
    elsewhere = {bare(run_group) for group in several + trainings for run_group in group}
    main = [block for block in blocks if len(block) > 1 or bare(block[0]) not in elsewhere]
    every = _grouped(run_groups, "sampler", "backbone")
    cifar = [run_group for run_group in run_groups if run_group.dataset in CIFAR]

    drafts = [by_sampler(kinds.MAIN_KIND, block) for block in main if block[0].dataset != PLACES]
    drafts += [by_sampler(kinds.RERUN_KIND, block) for block in blocks]
    drafts += [by_sampler(kinds.PARTS_KIND, group) for group in every]
    for group in _grouped(run_groups, "sampler", "backbone"):
        drafts.append(by_column("backbones", "Backbones", group, lambda run_group: run_group.backbone, ("backbone",)))
    drafts += [by_fields("splits", "Groups of classes by backbone", group, ("backbone",)) for group in several]
    drafts += [by_fields("epochs", "Backbones and epochs", group, ("backbone", "epochs")) for group in trainings]
    drafts += [by_sampler(kinds.MAIN_KIND, block) for block in main if block[0].dataset == PLACES]
    for kind in (kinds.TAU_KIND, kinds.NCM_KIND, kinds.HEADS_KIND):
        drafts += [by_sampler(kind, group) for group in every]
    for group in _grouped(cifar, "sampler", "dataset", "digest", "imbalance"):
        drafts.append(by_column("imbalances", "CIFAR-LT", group, _data_of(group), ("dataset",)))
    drafts += [others(run_group) for run_group in {(one.dataset, one.imbalance): one for one in cifar}.values()]
    drafts += [by_sampler(kinds.OTHERS_KIND, group) for group in every]
    return [draft for draft in drafts if draft]


def _grouped(run_groups: Sequence[RunGroup], *fields: str) -> list[list[RunGroup]]:
    """Collects groups of runs that differ only in these fields, in their order."""
    groups: dict[Hashable, list[RunGroup]] = {}
    for run_group in run_groups:
        unset: dict[str, Any] = dict.fromkeys(fields)
        if "epochs" in fields:
            unset["departures"] = tuple(one for one in run_group.departures if one.key != "epochs")
        groups.setdefault(replace(bare(run_group), **unset), []).append(run_group)
    return list(groups.values())


def _with_missing(block: list[RunGroup], planned: Sequence[Planned]) -> list[RunGroup]:
    """Adds an empty group for each planned sampler without runs."""
    known = {run_group.sampler for run_group in block}
    samplers = dict.fromkeys(cell.sampler for cell in planned if cell.sampler not in known)
    missing = [with_sampler(block[0], sampler) for sampler in samplers]
    return sorted([*block, *(one for one in missing if planned_for(planned, one))], key=sampler_place)


def _data_of(group: list[RunGroup]) -> Any:
    """Returns a function that names the data of a group of runs, with the digest if datasets share a name."""

    def named(run_group: RunGroup) -> str:
        same = {other.digest for other in group if data_name(other) == data_name(run_group)}
        return data_name(run_group) + (f", {str(run_group.digest)[:8]}" if len(same) > 1 else "")

    return named


def _filled(draft: Draft, slug: str, planned: Sequence[Planned]) -> Table:
    most = max(seeds_of(one.run_group, one.classifier) for _, line in draft.lines for one in line)
    rows = tuple(_row(labels, line, draft.columns, most, planned) for labels, line in draft.lines)
    about = f"{_facts(draft.run_groups)} {draft.about}".strip()
    warnings = _warnings(draft.run_groups, rows)
    return Table(slug, draft.title, draft.heads, draft.columns, rows, about, warnings)


def _row(
    labels: tuple[str, ...], line: list[Shown], columns: tuple[str, ...], most: int, planned: Sequence[Planned]
) -> Row:
    told = [_missing(one, most, planned) for one in line]
    notes = [f"{column}: {text}" for column, text in zip(columns, told, strict=True) if text]
    notes = told[:1] if len(set(told)) == 1 else notes
    if any(on_test(one.run_group, one.classifier) for one in line):
        labels = (*labels[:-1], f"{labels[-1]} {DAGGER}")
        notes = [*notes, f"{DAGGER} {DAGGER_NOTE}"]
    return Row(labels, tuple(one.cell() for one in line), "; ".join(note for note in notes if note))


def _missing(one: Shown, most: int, planned: Sequence[Planned]) -> str:
    """Returns a note on missing seeds, compared with the planned ones or else with other rows; "" if there are none."""
    runs, cells = seeds_of(one.run_group, one.classifier), planned_for(planned, one.run_group)
    if not runs:
        return "missing" if cells and not one.run_group.runs else ""
    wanted = len({cell.seed for cell in cells}) or most
    return "" if runs >= wanted else f"{runs} of {counted(wanted, 'seed')}"


def _facts(run_groups: list[RunGroup]) -> str:
    """Returns a sentence with protocol, image size, dataset digest and seeds of the groups; "" if there are none."""
    if not run_groups:
        return ""
    protocols = " and ".join(dict.fromkeys(str(run_group.protocol) for run_group in run_groups))
    sizes = dict.fromkeys(f"{run_group.image_size} px" for run_group in run_groups if run_group.image_size)
    digests = dict.fromkeys(f"dataset digest {run_group.digest[:8]}" for run_group in run_groups if run_group.digest)
    seeds = sorted({results.seed for run_group in run_groups for results in run_group.runs})
    told = ", ".join([f"Protocol {protocols}", *sizes, *(digests if len(digests) == 1 else ())])
    return f"{told}; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."


def _warnings(run_groups: list[RunGroup], rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Returns why our numbers must not be compared with published ones; per group of runs if the reasons differ."""
    ran = [run_group for run_group in run_groups if run_group.runs]
    left_out = any(cell.ours and cell.published for row in rows for cell in row.cells)
    texts = [limits(run_group, ", so no difference is shown" if left_out else "") for run_group in ran]
    if len(set(texts)) > 1:
        texts = [f"{name(run_group)}: {text}" for run_group, text in zip(ran, texts, strict=True) if text]
    return tuple(dict.fromkeys(text for text in [*texts, *map(other_data, ran)] if text))
