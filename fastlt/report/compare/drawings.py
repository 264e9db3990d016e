"""All figures of a report across runs, drawn to files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fastlt.core.palette import styled
from fastlt.report.compare import captioned
from fastlt.report.compare.captioned import Drawn
from fastlt.report.compare.draw_means import parameters
from fastlt.report.compare.model import Drawing
from fastlt.report.compare.runs import Setting

# A file of the folder that starts so is of an earlier report.
KINDS = ("samplers", "weight_norms", "accuracy_over_tau", "sampling_weights", "decision_regions", "backbones")
INSTANCE = "instance"
# From the least to the most balanced: so the eye sees what balance does. Tables have the order of the paper.
BALANCE = (INSTANCE, "sqrt", "progressive", "class")


@styled
def save_drawings(settings: Sequence[Setting], folder: Path) -> tuple[Drawing, ...]:
    """Draw all figures that the settings allow into `folder` as PNG and SVG, and return what they are.

    settings: in the order of the report, each with runs. The bytes depend on the settings and on the version of
    matplotlib only. Figures of an earlier report that are not drawn now are removed.

    Raises:
        OSError: `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings: list[Drawing] = []
    for drawing, figure in _all(settings):
        slug = _free(drawing.slug, {one.slug for one in drawings})
        figure.savefig(folder / f"{slug}.png", dpi=160, metadata={"Software": None})
        figure.savefig(folder / f"{slug}.svg", dpi=160, metadata={"Date": None, "Creator": None})
        drawings.append(replace(drawing, slug=slug))
    slugs = {drawing.slug for drawing in drawings}
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        if path.stem not in slugs and path.stem.startswith(tuple(f"{kind}_" for kind in KINDS)):
            path.unlink()
    return tuple(drawings)


def _all(settings: Sequence[Setting]) -> Iterator[Drawn]:
    """Data set by data set: what each backbone has, then what they have together."""
    for data in _grouped(settings, lambda setting: (setting.dataset, setting.digest, setting.imbalance)):
        for place, alike in enumerate(_grouped(data, lambda setting: _without(setting, sampler=""))):
            alike = sorted(alike, key=_balance)
            # What is drawn of one run: that of the paper's choice, instance-balanced sampling, with its first seed.
            shown = next((setting for setting in alike if setting.sampler == INSTANCE), alike[0])
            yield from captioned.samplers(alike)
            yield from captioned.norms(shown)
            yield from captioned.tau(shown)
            if place == 0:
                yield captioned.laws(shown)
            yield from captioned.regions(shown)
        plain = [setting for setting in data if setting.sampler == INSTANCE]
        for several in _grouped(plain, lambda setting: _without(setting, backbone="")):
            yield from captioned.backbones(sorted(several, key=parameters))


def _grouped(settings: Sequence[Setting], key: Callable[[Setting], Hashable]) -> list[list[Setting]]:
    """The settings with one key together, in the order of the first of each."""
    groups: dict[Hashable, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(key(setting), []).append(setting)
    return list(groups.values())


def _balance(setting: Setting) -> int:
    return BALANCE.index(setting.sampler) if setting.sampler in BALANCE else len(BALANCE)


def _without(setting: Setting, **fields: str) -> Setting:
    """What is left to compare when the runs and these fields do not count."""
    return replace(setting, runs=(), folders=(), **fields)


def _free(slug: str, taken: set[str]) -> str:
    return next(one for one in (slug, *(f"{slug}_{place}" for place in range(2, len(taken) + 3))) if one not in taken)
