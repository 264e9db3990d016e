"""The words of a report across runs: its title, what it holds, what a reader must know, and its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastlt.core.log import duration
from fastlt.report.choices import DAGGER
from fastlt.report.compare.compare import limits
from fastlt.report.compare.model import Gap, Table
from fastlt.report.compare.runs import Setting, classifiers, data_name, measured, name, on_test
from fastlt.report.compare.tables import without_runs
from fastlt.report.departures import departures
from fastlt.report.names import label, number, percent

RUN_HEADS = (
    "run", "dataset", "backbone", "sampler", "seed", "protocol", "epochs", "precision",
    "departs from its protocol", "joint, all", "stage 1", "images/s", "device",
)  # fmt: skip


def title(settings: Sequence[Setting]) -> str:
    """The data sets, and how many runs."""
    datasets = ", ".join(dict.fromkeys(map(data_name, settings))) or "no results yet"
    return f"{datasets}: {_counted(_runs(settings), 'run')}"


def summary(settings: Sequence[Setting], tables: Sequence[Table], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """Sentences: what was run, the highest accuracies, what stands beside them, what is not there."""
    texts = [f"{_counted(_runs(settings), 'run')} of {_counted(len(settings), 'setting')}"]
    texts[0] += ", whose runs differ in the seed only" if settings else ""
    texts[0] += f"; {_counted(len(gaps), 'planned cell')} without results." if gaps else "."
    texts += _highest(settings)
    cells = [cell for table in tables for row in table.rows for cell in row.cells]
    if any(cell.ours for cell in cells):
        texts.append(
            "Accuracy on test in %: mean ± sample standard deviation over seeds; a single seed has none. many, medium, "
            "few: mean of the accuracies of their classes; all: over all test images."
        )
    if any(cell.published for cell in cells):
        texts.append(
            "Published numbers are those that a public source prints, which is named; what none confirms stays empty."
        )
    absent = without_runs(tables)
    if absent:
        texts.append(f"Tables of the paper without runs here: {'; '.join(absent)}.")
    return tuple(texts)


def warnings(settings: Sequence[Setting], gathered: Sequence[str], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """What concerns the whole report. gathered: those of the runs themselves."""
    texts = list(dict.fromkeys(f"{data_name(s)}: {found}" for s in settings if (found := limits(s))))
    if gaps:
        has = "has" if len(gaps) == 1 else "have"
        texts.append(f"{_counted(len(gaps), 'planned cell')} {has} no results: means are over fewer seeds, or missing.")
    if any(on_test(setting, known) for setting in settings for known in classifiers(setting)):
        texts.append(f"Rows with {DAGGER} were chosen on the test images themselves and are flattering.")
    return (*texts, *gathered)


def run_table(settings: Sequence[Setting]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Heads, and a row of texts for each run, without columns in which no run has anything."""
    rows = [
        _run_row(setting, folder, results)
        for setting in settings
        for folder, results in zip(setting.folders, setting.runs, strict=True)
    ]
    kept = [place for place in range(len(RUN_HEADS)) if any(row[place] for row in rows)]
    return tuple(RUN_HEADS[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows)


def _run_row(setting: Setting, folder: str, results: dict[str, Any]) -> tuple[str, ...]:
    seconds, rate = number(results.get("seconds")), number(results.get("images_per_second"))
    apart = [one for one in setting.departures if one.key == "representation"]
    told = [*(one for one in departures(results) if one.key != "backbone"), *apart]
    return (
        folder,
        data_name(setting),
        setting.backbone,
        setting.sampler,
        str(results["seed"]),
        str(setting.protocol or ""),
        str(setting.epochs or ""),
        setting.precision or "",
        "; ".join(one.words for one in told),
        percent(results["classifiers"]["joint"].get("all")) if "joint" in results["classifiers"] else "",
        "" if seconds is None else duration(seconds),
        "" if rate is None else f"{rate:,.0f}",
        str(results.get("device", "")),
    )


def _highest(settings: Sequence[Setting]) -> list[str]:
    """For every dataset the setting and classifier with the highest accuracy over all test images."""
    texts = []
    for data in dict.fromkeys((s.dataset, s.imbalance, s.digest) for s in settings):
        same = [s for s in settings if (s.dataset, s.imbalance, s.digest) == data]
        known = [(setting, classifier) for setting in same for classifier in classifiers(setting)]
        # One that was chosen on test would win by that.
        fair = [(setting, classifier) for setting, classifier in known if not on_test(setting, classifier)]
        found = {one: best for one in range(len(fair)) if (best := measured(*fair[one], "all"))}
        if not found:
            continue
        place, best = max(found.items(), key=lambda one: one[1].mean)
        setting, classifier = fair[place]
        reached = f"{best.mean:.1f}" + ("" if best.sd is None else f" ± {best.sd:.1f}")
        text = f"Highest over all test images of {data_name(setting)}: {reached} %, {label(classifier)} on"
        texts.append(f"{text} {name(setting, ('dataset',))} ({_counted(best.runs, 'seed')}).")
    return texts


def _runs(settings: Sequence[Setting]) -> int:
    return sum(len(setting.runs) for setting in settings)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
