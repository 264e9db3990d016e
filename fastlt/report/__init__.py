"""Writes the report of a finished run, report.md with tables and figures, from its results.json only."""

from __future__ import annotations

from pathlib import Path

from fastlt.core.files import write_file
from fastlt.core.own_backend import own_backend
from fastlt.experiment.results import Results
from fastlt.report.per_class import write_per_class
from fastlt.report.table import results_table

__all__ = ["results_table", "write_report"]


def write_report(results: Results, out: Path) -> Path:
    """Writes report.md, per_class.csv and figures/*.png and *.svg into `out`; returns the path of report.md.

    The same results give the same bytes. Figures of an earlier report that these results do not have are removed. A
    figure that cannot be drawn is left out and reported at the end of the command (`core.log.regret`).

    Raises:
        NotWritten: `out` cannot be written.

    Example: write_report(read_results(Path("runs/mine")), Path("runs/mine"))
    """
    write_per_class(results, out / "per_class.csv")
    # Imported here because matplotlib takes a second to load, and training only needs the table.
    with own_backend():
        from fastlt.report.figures import save_figures
        from fastlt.report.page import page

    drawn = save_figures(results, out / "figures")
    report = out / "report.md"
    write_file(report, page(results, drawn))
    return report
