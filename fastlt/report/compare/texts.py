"""Writes the texts of a report across runs: title, summary, warnings, and the table of its runs."""

from __future__ import annotations

from collections.abc import Sequence

from fastlt.core.log import duration
from fastlt.core.words import agree, counted
from fastlt.experiment.results import Results
from fastlt.report.choices import DAGGER
from fastlt.report.compare.answer import answers
from fastlt.report.compare.compare import has_published, limits
from fastlt.report.compare.model import Gap, Table
from fastlt.report.compare.runs import RunGroup, classifiers, data_name, on_test
from fastlt.report.compare.tables import without_runs
from fastlt.report.departures import departures
from fastlt.report.names import percent

RUN_HEADS = (
    "run", "dataset", "backbone", "sampler", "seed", "protocol", "epochs", "precision",
    "departs from its protocol", "joint, all", "stage 1", "images/s", "device",
)  # fmt: skip


def title(run_groups: Sequence[RunGroup]) -> str:
    """Returns the title: the datasets and the number of runs."""
    datasets = ", ".join(dict.fromkeys(map(data_name, run_groups))) or "no results yet"
    return f"{datasets}: {counted(_runs(run_groups), 'run')}"


def summary(run_groups: Sequence[RunGroup], tables: Sequence[Table], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """Returns the sentences of the summary: the answer, what was run, what numbers mean, what is missing."""
    runs = f"{counted(_runs(run_groups), 'run')} of {counted(len(run_groups), 'setting')}"
    runs += ", whose runs differ in the seed only" if _runs(run_groups) > len(run_groups) else ""
    runs += f"; {counted(len(gaps), 'planned cell')} without results." if gaps else "."
    texts = [*(sentence for told in answers(run_groups) for sentence in told), runs]
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
    if absent and any(has_published(run_group) for run_group in run_groups):
        texts.append(f"Tables of the paper without runs here: {'; '.join(absent)}.")
    return tuple(texts)


def warnings(run_groups: Sequence[RunGroup], gathered: Sequence[str], gaps: Sequence[Gap]) -> tuple[str, ...]:
    """Returns the warnings that concern the whole report. gathered: the warnings from sorting runs into groups."""
    texts = list(dict.fromkeys(f"{data_name(s)}: {found}" for s in run_groups if (found := limits(s))))
    if gaps:
        has = agree(len(gaps), "has", "have")
        texts.append(f"{counted(len(gaps), 'planned cell')} {has} no results: means are over fewer seeds, or missing.")
    if any(on_test(run_group, known) for run_group in run_groups for known in classifiers(run_group)):
        texts.append(f"Rows with {DAGGER} were chosen on the test images themselves and are flattering.")
    return (*texts, *gathered)


def run_table(run_groups: Sequence[RunGroup]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Returns (headings, a row of texts for each run), without columns that are empty for all runs."""
    rows = [
        _run_row(run_group, folder, results)
        for run_group in run_groups
        for folder, results in zip(run_group.folders, run_group.runs, strict=True)
    ]
    kept = [place for place in range(len(RUN_HEADS)) if any(row[place] for row in rows)]
    return tuple(RUN_HEADS[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows)


def _run_row(run_group: RunGroup, folder: str, results: Results) -> tuple[str, ...]:
    seconds, rate = results.seconds, results.images_per_second
    apart = [one for one in run_group.departures if one.key == "representation"]
    told = [*(one for one in departures(results) if one.key != "backbone"), *apart]
    return (
        folder,
        data_name(run_group),
        run_group.backbone,
        run_group.sampler,
        str(results.seed),
        str(run_group.protocol or ""),
        str(run_group.epochs or ""),
        run_group.precision or "",
        "; ".join(one.words for one in told),
        percent(results.classifiers["joint"].all) if "joint" in results.classifiers else "",
        "" if seconds is None else duration(seconds),
        "" if rate is None else f"{rate:,.0f}",
        results.trained_on or results.device,
    )


def _runs(run_groups: Sequence[RunGroup]) -> int:
    return sum(len(run_group.runs) for run_group in run_groups)
