"""Tables and figures of a finished experiment, from its results.json and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.report.check import check_results
from fastlt.report.per_class import write_per_class
from fastlt.report.table import results_table

__all__ = ["read_results", "results_table", "write_report"]


def read_results(path: Path) -> dict[str, Any]:
    """Read and check one results.json.

    Raises:
        UserError: the file cannot be read, is no JSON, or lacks what a report needs.
    """
    rewrite = "run `python -m fastlt.train` again to write it anew"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); allowed is a readable results.json") from error
    except ValueError as error:
        what = f"{path}: is not valid JSON ({error}); allowed is a results.json of fastlt.train"
        raise UserError(f"{what}; {rewrite}") from error
    try:
        check_results(results)
    except UserError as error:
        raise UserError(f"{path}: {error}; {rewrite}") from error
    return results


def write_report(results: dict[str, Any], out: Path) -> Path:
    """Write `out`/report.md, `out`/per_class.csv and `out`/figures/*.png, *.svg; return the path of report.md.

    `results` is what results.json holds. The same results give the same bytes. Figures of an earlier report that these
    results do not have are removed, so that figures/ never shows another experiment.

    Raises:
        UserError: `results` lacks what a report needs.
        OSError: `out` cannot be written.
    """
    check_results(results)
    # Here and not above: matplotlib takes a second to load, and training only wants the table.
    from fastlt.report.figures import save_figures
    from fastlt.report.page import page

    drawn = save_figures(results, out / "figures")
    write_per_class(results, out / "per_class.csv")
    report = out / "report.md"
    report.write_text(page(results, drawn), encoding="utf-8", newline="\n")
    return report
