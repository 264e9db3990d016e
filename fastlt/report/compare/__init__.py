"""Tables and figures across runs: means over seeds beside the published numbers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fastlt.core.errors import UserError
from fastlt.report import read_results
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
    """Write index.html, report.md, tables/, figures/ and results.csv of all runs in or below `roots` to `out`; the path
    of index.html.

    The same results give the same bytes. All are read before anything is written; files of an earlier report there that
    this one does not have are removed.

    Raises:
        UserError: there are no results and no grid, a results.json or grid.json is broken, or `out` is a run itself.
        OSError: `out` cannot be written.
    """
    runs = find_runs(roots, also=GRID)
    planned = read_planned(roots)
    missing = gaps(planned)
    if not runs and not missing:
        raise UserError(
            f"RUN={roots[0]} holds neither results nor planned cells; allowed is a folder with results.json in it or "
            "below it; run its grid first"
        )
    if (out / "results.json").exists():
        raise UserError(f"--out={out} is a run, whose own report lies there; name another folder with --out DIR")
    base = Path(os.path.commonpath(runs)) if runs else Path()
    base = base.parent if base in runs else base  # or that run would have no name
    settings, told = gather((str(run.relative_to(base)), read_results(run / "results.json")) for run in runs)
    tables = build_tables(settings, planned)

    # Here and not above: matplotlib takes a second to load.
    from fastlt.report.compare.drawings import save_drawings
    from fastlt.report.compare.html import write_page

    (out / "tables").mkdir(parents=True, exist_ok=True)
    earlier = _earlier(out / "report.md")
    heads, rows = run_table(settings)
    across = Across(
        title=title(settings),
        summary=summary(settings, tables, missing),
        warnings=warnings(settings, told, missing),
        gaps=missing,
        tables=tables,
        drawings=save_drawings(settings, out / "figures") if settings else (),
        run_heads=heads,
        runs=rows,
        figures=out / "figures",
    )
    for table in tables:
        write_table(table, out / "tables" / f"{table.slug}.csv")
        (out / "tables" / f"{table.slug}.tex").write_text(latex(table), encoding="utf-8", newline="\n")
    write_results(settings, out / "results.csv")
    text = markdown(across)
    for name in earlier - set(_OWN_FILES.findall(text)):
        (out / name).unlink(missing_ok=True)
    (out / "report.md").write_text(text, encoding="utf-8", newline="\n")
    write_page(across, out / "index.html")
    return out / "index.html"


def _earlier(report: Path) -> set[str]:
    """The tables and figures that an earlier report of this kind links to; nobody else's file is among them."""
    try:
        text = report.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    return set(_OWN_FILES.findall(text)) if text.startswith(MARK) else set()
