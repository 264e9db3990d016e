"""Writes the report of a finished run, report.md with tables and figures, from its results.json only."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from fastlt.core.files import write_file
from fastlt.core.lock import locked
from fastlt.core.own_backend import own_backend
from fastlt.experiment.results import Results
from fastlt.report.per_class import write_per_class
from fastlt.report.table import results_table

__all__ = ["alone_in", "results_table", "write_report"]
PATIENCE = 600.0  # seconds to wait while another process writes the same report


def alone_in(out: Path) -> AbstractContextManager[None]:
    """Returns a context manager in which no other process writes a report into `out`; its entry waits for one."""
    return locked(out / "report.lock", f"the report in {out}", PATIENCE)


def write_report(results: Results, out: Path) -> Path:
    """Writes report.md, per_class.csv and figures/*.png and *.svg into `out`; returns the path of report.md.

    The same results give the same bytes. Figures of an earlier report that these results do not have are removed. A
    figure that cannot be drawn is left out and reported at the end of the command (`core.log.regret`).

    Raises:
        NotWritten: `out` cannot be written.
        Busy: another process writes there, and takes longer than PATIENCE.

    Example: write_report(read_results(Path("runs/mine")), Path("runs/mine"))
    """
    # Imported here because matplotlib takes a second to load, and training only needs the table.
    with own_backend():
        from fastlt.report.figures import save_figures
        from fastlt.report.page import page

    report = out / "report.md"
    with alone_in(out):
        write_per_class(results, out / "per_class.csv")
        drawn = save_figures(results, out / "figures")
        write_file(report, page(results, drawn))
    return report
