"""Draws all figures of a report across runs into files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fastlt.core.log import regretted
from fastlt.core.palette import save_figure, styled
from fastlt.report.compare import captioned
from fastlt.report.compare.captioned import Drawn
from fastlt.report.compare.draw_means import parameters
from fastlt.report.compare.model import Drawing
from fastlt.report.compare.runs import RunGroup

# Files in the folder whose names begin with these belong to an earlier report.
KINDS = ("samplers", "weight_norms", "accuracy_over_tau", "sampling_weights", "decision_regions", "backbones")
KINDS += ("learning_curves",)
INSTANCE = "instance"
# Figures show samplers from the least to the most balanced; tables have the order of the paper.
BALANCE = (INSTANCE, "sqrt", "progressive", "class")


@styled
def save_drawings(run_groups: Sequence[RunGroup], folder: Path, base: Path = Path()) -> tuple[Drawing, ...]:
    """Draws all figures that the groups of runs allow into `folder`, as PNG and SVG; returns their descriptions.

    run_groups: in the order of the report, each with at least one run. base: what the runs' folders lie in.

    The bytes depend only on the runs and the version of matplotlib. Figures of an earlier report that are not drawn now
    are removed. If figures cannot be drawn, the reason is reported at the end of the command (`core.log.regret`).
    """
    drawings: list[Drawing] = []
    with regretted("figures"):
        for drawing, figure in _all(run_groups, base):
            slug = _free(drawing.slug, {one.slug for one in drawings})
            save_figure(figure, folder / slug)
            drawings.append(replace(drawing, slug=slug))
    slugs = {drawing.slug for drawing in drawings}
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        if path.stem not in slugs and path.stem.startswith(tuple(f"{kind}_" for kind in KINDS)):
            path.unlink()
    return tuple(drawings)


def _all(run_groups: Sequence[RunGroup], base: Path) -> Iterator[Drawn]:
    """Yields all figures, for each dataset first those of each backbone, then those across backbones."""
    for data in _grouped(run_groups, lambda run_group: (run_group.dataset, run_group.digest, run_group.imbalance)):
        for place, alike in enumerate(_grouped(data, lambda run_group: _without(run_group, sampler=""))):
            alike = sorted(alike, key=_balance)
            # Figures of a single run show instance-balanced sampling, the paper's choice, and its first seed.
            shown = next((run_group for run_group in alike if run_group.sampler == INSTANCE), alike[0])
            yield from captioned.samplers(alike)
            yield from captioned.norms(shown)
            yield from captioned.tau(shown)
            yield from captioned.curves(alike, base)
            if place == 0:
                yield captioned.laws(shown)
            yield from captioned.regions(shown)
        plain = [run_group for run_group in data if run_group.sampler == INSTANCE]
        for several in _grouped(plain, lambda run_group: _without(run_group, backbone="")):
            yield from captioned.backbones(sorted(several, key=parameters))


def _grouped(run_groups: Sequence[RunGroup], key: Callable[[RunGroup], Hashable]) -> list[list[RunGroup]]:
    """Collects the groups of runs with equal keys, in the order of their first members."""
    groups: dict[Hashable, list[RunGroup]] = {}
    for run_group in run_groups:
        groups.setdefault(key(run_group), []).append(run_group)
    return list(groups.values())


def _balance(run_group: RunGroup) -> int:
    return BALANCE.index(run_group.sampler) if run_group.sampler in BALANCE else len(BALANCE)


def _without(run_group: RunGroup, **fields: str) -> RunGroup:
    """Returns the group without its runs and with these fields set, so that groups that differ only there are equal."""
    return replace(run_group, runs=(), folders=(), **fields)


def _free(slug: str, taken: set[str]) -> str:
    return next(one for one in (slug, *(f"{slug}_{place}" for place in range(2, len(taken) + 3))) if one not in taken)
