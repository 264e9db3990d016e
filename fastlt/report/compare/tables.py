"""The tables of a report across runs, in the order of the paper: ours beside the published numbers."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from fastlt.report.choices import DAGGER, DAGGER_NOTE
from fastlt.report.compare import kinds
from fastlt.report.compare.compare import limits, other_data
from fastlt.report.compare.drafts import CIFAR, Draft, Shown, by_column, by_fields, by_sampler, others
from fastlt.report.compare.gaps import Planned, planned_for
from fastlt.report.compare.model import Row, Table
from fastlt.report.compare.runs import Setting, bare, data_name, name, on_test, sampler_place, seeds_of, with_sampler

INATURALIST, PLACES = "inaturalist2018", "places_lt"
# Tables of the paper, by the start of their slugs.
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


def build_tables(settings: Sequence[Setting], planned: Sequence[Planned]) -> tuple[Table, ...]:
    """Every table that there are runs for. Beside them a planned sampler without runs has rows without numbers."""
    tables: list[Table] = []
    for draft in _drafts(settings, planned):
        start = re.sub(r"[^a-z0-9]+", "_", draft.slug.lower()).strip("_")
        same = sum(re.fullmatch(rf"{start}(_v\d+)?", table.slug) is not None for table in tables)
        tables.append(_filled(draft, f"{start}_v{same + 1}" if same else start, planned))
    return tuple(tables)


def without_runs(tables: Iterable[Table]) -> list[str]:
    """The tables of the paper that are not among these, in words."""
    slugs = [table.slug for table in tables]
    return [words for words, start in _OF_THE_PAPER.items() if not any(slug.startswith(start) for slug in slugs)]


def _drafts(settings: Sequence[Setting], planned: Sequence[Planned]) -> list[Draft]:
    blocks = [_with_missing(block, planned) for block in _grouped(settings, "sampler")]
    plain = [setting for setting in settings if setting.sampler == "instance"]
    several = [group for group in _grouped(plain, "backbone") if len(group) > 1 and group[0].dataset != INATURALIST]
    trainings = _grouped([one for one in plain if one.dataset == INATURALIST], "backbone", "epochs", "protocol")
    # What has its rows in a table across backbones needs no other one for its only sampler.
    elsewhere = {bare(setting) for group in several + trainings for setting in group}
    main = [block for block in blocks if len(block) > 1 or bare(block[0]) not in elsewhere]
    every = _grouped(settings, "sampler", "backbone")
    cifar = [setting for setting in settings if setting.dataset in CIFAR]

    drafts = [by_sampler(kinds.MAIN_KIND, block) for block in main if block[0].dataset != PLACES]
    drafts += [by_sampler(kinds.RERUN_KIND, block) for block in blocks]
    drafts += [by_sampler(kinds.PARTS_KIND, group) for group in every]
    for group in _grouped(settings, "sampler", "backbone"):
        drafts.append(by_column("backbones", "Backbones", group, lambda setting: setting.backbone, ("backbone",)))
    drafts += [by_fields("splits", "Groups of classes by backbone", group, ("backbone",)) for group in several]
    drafts += [by_fields("epochs", "Backbones and epochs", group, ("backbone", "epochs")) for group in trainings]
    drafts += [by_sampler(kinds.MAIN_KIND, block) for block in main if block[0].dataset == PLACES]
    for kind in (kinds.TAU_KIND, kinds.NCM_KIND, kinds.HEADS_KIND):
        drafts += [by_sampler(kind, group) for group in every]
    for group in _grouped(cifar, "sampler", "dataset", "digest", "imbalance"):
        drafts.append(by_column("imbalances", "CIFAR-LT", group, _data_of(group), ("dataset",)))
    drafts += [others(setting) for setting in {(one.dataset, one.imbalance): one for one in cifar}.values()]
    drafts += [by_sampler(kinds.OTHERS_KIND, group) for group in every]
    return [draft for draft in drafts if draft]


def _grouped(settings: Sequence[Setting], *fields: str) -> list[list[Setting]]:
    """Settings that differ in nothing but these fields together, in their order."""
    groups: dict[Hashable, list[Setting]] = {}
    for setting in settings:
        unset: dict[str, Any] = dict.fromkeys(fields)
        if "epochs" in fields:
            unset["departures"] = tuple(one for one in setting.departures if one.key != "epochs")
        groups.setdefault(replace(bare(setting), **unset), []).append(setting)
    return list(groups.values())


def _with_missing(block: list[Setting], planned: Sequence[Planned]) -> list[Setting]:
    """The block and a setting without runs for each sampler that was planned and has none."""
    known = {setting.sampler for setting in block}
    samplers = dict.fromkeys(cell.sampler for cell in planned if cell.sampler not in known)
    missing = [with_sampler(block[0], sampler) for sampler in samplers]
    return sorted([*block, *(one for one in missing if planned_for(planned, one))], key=sampler_place)


def _data_of(group: list[Setting]) -> Any:
    """What names the data of a setting: with the digest where another conversion has the same name."""

    def named(setting: Setting) -> str:
        same = {other.digest for other in group if data_name(other) == data_name(setting)}
        return data_name(setting) + (f", {str(setting.digest)[:8]}" if len(same) > 1 else "")

    return named


def _filled(draft: Draft, slug: str, planned: Sequence[Planned]) -> Table:
    most = max(seeds_of(one.setting, one.classifier) for _, line in draft.lines for one in line)
    rows = tuple(_row(labels, line, draft.columns, most, planned) for labels, line in draft.lines)
    about = f"{_facts(draft.settings)} {draft.about}".strip()
    warnings = _warnings(draft.settings, rows)
    return Table(slug, draft.title, draft.heads, draft.columns, rows, about, warnings)


def _row(
    labels: tuple[str, ...], line: list[Shown], columns: tuple[str, ...], most: int, planned: Sequence[Planned]
) -> Row:
    told = [_missing(one, most, planned) for one in line]
    notes = [f"{column}: {text}" for column, text in zip(columns, told, strict=True) if text]
    notes = told[:1] if len(set(told)) == 1 else notes
    if any(on_test(one.setting, one.classifier) for one in line):
        labels = (*labels[:-1], f"{labels[-1]} {DAGGER}")
        notes = [*notes, f"{DAGGER} {DAGGER_NOTE}"]
    return Row(labels, tuple(one.cell() for one in line), "; ".join(note for note in notes if note))


def _missing(one: Shown, most: int, planned: Sequence[Planned]) -> str:
    """What a row lacks of the seeds that were planned, or else of those that other rows have; empty for nothing."""
    runs, cells = seeds_of(one.setting, one.classifier), planned_for(planned, one.setting)
    if not runs:
        return "missing" if cells and not one.setting.runs else ""
    wanted = len({cell.seed for cell in cells}) or most
    return "" if runs >= wanted else f"{runs} of {wanted} seeds"


def _facts(settings: list[Setting]) -> str:
    """What all have in common, and which seeds there are; empty for none."""
    if not settings:
        return ""
    protocols = " and ".join(dict.fromkeys(str(setting.protocol) for setting in settings))
    sizes = dict.fromkeys(f"{setting.image_size} px" for setting in settings if setting.image_size)
    digests = dict.fromkeys(f"dataset digest {setting.digest[:8]}" for setting in settings if setting.digest)
    seeds = sorted({results["seed"] for setting in settings for results in setting.runs})
    told = ", ".join([f"Protocol {protocols}", *sizes, *(digests if len(digests) == 1 else ())])
    return f"{told}; seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."


def _warnings(settings: list[Setting], rows: tuple[Row, ...]) -> tuple[str, ...]:
    """What keeps ours from being compared: once, or by setting where not all are alike."""
    ran = [setting for setting in settings if setting.runs]
    left_out = any(cell.ours and cell.published for row in rows for cell in row.cells)
    texts = [limits(setting, ", so no difference is shown" if left_out else "") for setting in ran]
    if len(set(texts)) > 1:
        texts = [f"{name(setting)}: {text}" for setting, text in zip(ran, texts, strict=True) if text]
    return tuple(dict.fromkeys(text for text in [*texts, *map(other_data, ran)] if text))
