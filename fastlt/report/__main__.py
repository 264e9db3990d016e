"""`python -m fastlt.report RUN [RUN ...]` rewrites report.md and figures/ of each run from its results.json.

With --out DIR it writes one report across all runs instead, with means over seeds beside the published numbers."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import NoReturn

from fastlt.core.cli import Parser, guard
from fastlt.core.errors import DEBUG, UserError
from fastlt.core.log import printed, regrets
from fastlt.experiment.results import read_results
from fastlt.report import write_report
from fastlt.report.find import find_runs


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage as well, but every fastlt command reports errors in one line.
        raise UserError(f"{message}; allowed is RUN [RUN ...] [--out DIR] [--open], see python -m fastlt.report --help")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0: success. 1: a figure or the page could not be made. 2: wrong input, which one line on stderr names.
    """
    parser = _Parser(
        prog="python -m fastlt.report",
        description="Writes report.md and figures/ of each run anew from its results.json. With --out DIR it writes "
        "one report across all runs instead, with means over seeds beside the published numbers.",
        examples=(
            "python -m fastlt.report runs/photos --open",
            "python -m fastlt.report runs/photos runs/photos_class --out compared",
            "python -m fastlt.report runs --out compared    # all runs in a folder",
        ),
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run, a folder of runs, or a grid")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where one report across all of them goes")
    parser.add_argument("--open", action="store_true", help="open the last report in the browser")
    try:
        options = parser.parse_args(arguments)
        regrets()  # forgets failures of earlier work in this process
        report = _each(options.runs) if options.out is None else _across(options.runs, options.out)
        if options.open and not webbrowser.open(report.resolve().as_uri()):
            raise UserError(f"--open: there is no browser here; the report is in {_shown(report)}")
    except UserError as error:
        if os.environ.get(DEBUG) == "1":
            raise
        sys.stderr.write(f"error: {printed(' '.join(str(error).split()))}\n")
        return 2
    told = regrets()
    sys.stderr.write("".join(f"failed: {printed(line)}\n" for line in told))
    return 1 if told else 0


def _each(roots: list[Path]) -> Path:
    """Writes the reports of all runs and returns the path of the last."""
    runs = find_runs(roots)
    # All results are read before any report is written, so that a damaged file leaves all reports as they were.
    loaded = [read_results(run) for run in runs]
    report = Path()
    for results, run in zip(loaded, runs, strict=True):
        report = write_report(results, run)
        sys.stdout.write(f"{_shown(report)}\n")
    return report


def _across(roots: list[Path], out: Path) -> Path:
    from fastlt.report.compare import write_across

    report = write_across(roots, out)
    sys.stdout.write(f"{_shown(report)}\n")
    return report


def _shown(path: Path) -> str:
    """Returns the path relative to the current folder if it is inside it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    guard(lambda: sys.exit(main()))
