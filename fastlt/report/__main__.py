"""`python -m fastlt.report RUN [RUN ...]`: write report.md and figures/ of each run anew from its results.json.

With --out DIR: one report across all of them, their means over seeds beside the published numbers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from fastlt.core.errors import UserError
from fastlt.report import read_results, write_report
from fastlt.report.find import find_runs


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage as well; every fastlt command complains in one line.
        raise UserError(f"{message}; allowed is RUN [RUN ...] [--out DIR], see python -m fastlt.report --help")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one line about wrong input."""
    parser = _Parser(prog="python -m fastlt.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run, a folder of runs, or a grid")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where one report across all of them goes")
    try:
        options = parser.parse_args(arguments)
        if options.out is None:
            _each(options.runs)
        else:
            _across(options.runs, options.out)
    except UserError as error:
        sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")
        return 2
    return 0


def _each(roots: list[Path]) -> None:
    runs = find_runs(roots)
    # All are read before any is written: a broken one must not leave half the reports new and half old.
    loaded = [read_results(run / "results.json") for run in runs]
    for results, run in zip(loaded, runs, strict=True):
        try:
            path = write_report(results, run)
        except OSError as error:
            raise UserError(
                f"RUN={run} cannot be written ({error.strerror}); allowed is a folder you may write to; write one "
                "report of all runs elsewhere with --out DIR"
            ) from error
        sys.stdout.write(f"{_shown(path)}\n")


def _across(roots: list[Path], out: Path) -> None:
    from fastlt.report.compare import write_across

    try:
        path = write_across(roots, out)
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}); allowed is a folder you may write to; "
            "name another one with --out DIR"
        ) from error
    sys.stdout.write(f"{_shown(path)}\n")


def _shown(path: Path) -> str:
    """The path as the user would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    sys.exit(main())
