"""Writes a report across runs: tables and figures of means over seeds, beside the published numbers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastlt.core.errors import UserError
from fastlt.core.files import write_file
from fastlt.core.log import regretted, say
from fastlt.core.own_backend import own_backend
from fastlt.experiment.results import NAME, read_results
from fastlt.report import alone_in
from fastlt.report.compare.answer import answers
from fastlt.report.compare.gaps import GRID, gaps, read_planned
from fastlt.report.compare.latex import latex
from fastlt.report.compare.markdown import MARK, markdown
from fastlt.report.compare.model import Across
from fastlt.report.compare.runs import gather
from fastlt.report.compare.spreadsheet import write_results, write_table
from fastlt.report.compare.tables import build_tables
from fastlt.report.compare.texts import run_table, summary, title, warnings
from fastlt.report.find import find_runs

__all__ = ["write_across"]
_OWN_FILES = re.compile(r"\]\((tables/[\w.-]+\.(?:csv|tex)|figures/[\w.-]+\.(?:svg|png))\)")


def write_across(roots: list[Path], out: Path) -> Path:
    """Writes a report on all runs in or below `roots` into the folder `out`.

    The files are index.html, report.md, tables/, figures/ and results.csv. The same results give the same bytes. All
    results are read before anything is written. Files of an earlier report that this one does not have are removed. The
    answer that the report opens with is logged.

    Returns the path of index.html, or of report.md if the page cannot be made.

    Raises:
        UserError: there are neither results nor a grid, a results.json or grid.json is damaged, `out` is a run itself,
            it cannot be written, or another process has been writing there for long.
    """
    runs = find_runs(roots, also=GRID)
    planned = read_planned(roots)
    missing = gaps(planned)
    if not runs and not missing:
        raise UserError(
            f"RUN={roots[0]} holds neither results nor planned cells; allowed is a folder with results.json in it or "
            "below it; run its grid first"
        )
    if (out / NAME).exists():
        raise UserError(f"--out={out} is a run, whose own report lies there; name another folder with --out DIR")
    base = Path(os.path.commonpath(runs)) if runs else Path()
    base = base.parent if base in runs else base  # otherwise the name of that run would be "."
    run_groups, told = gather((str(run.relative_to(base)), read_results(run)) for run in runs)
    tables = build_tables(run_groups, planned)

    # Imported here because matplotlib takes a second to load.
    with own_backend():
        from fastlt.report.compare.drawings import save_drawings
        from fastlt.report.compare.html import write_page

    heads, rows = run_table(run_groups)
    with alone_in(out):
        earlier = _earlier(out / "report.md")
        across = Across(
            title=title(run_groups),
            summary=summary(run_groups, tables, missing),
            warnings=warnings(run_groups, told, missing),
            gaps=missing,
            tables=tables,
            drawings=save_drawings(run_groups, out / "figures", base) if run_groups else (),
            run_heads=heads,
            runs=rows,
            figures=out / "figures",
        )
        for table in tables:
            write_table(table, out / "tables" / f"{table.slug}.csv")
            write_file(out / "tables" / f"{table.slug}.tex", latex(table))
        write_results(run_groups, out / "results.csv")
        text = markdown(across)
        for name in earlier - set(_OWN_FILES.findall(text)):
            (out / name).unlink(missing_ok=True)
        write_file(out / "report.md", text)
        for sentences in answers(run_groups):
            for sentence in sentences:
                say(sentence)
        with regretted("page"):
            write_page(across, out / "index.html")
            return out / "index.html"
        return out / "report.md"


def _earlier(report: Path) -> set[str]:
    """Returns the tables and figures that an earlier report of this kind links to, and no other files."""
    try:
        text = report.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    return set(_OWN_FILES.findall(text)) if text.startswith(MARK) else set()
