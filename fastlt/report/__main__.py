"""`python -m fastlt.report RUN [RUN ...] [--out DIR]`: write report.md and figures/ anew from results.json."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from fastlt.errors import UserError
from fastlt.report import read_results, write_report


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage as well; every fastlt command complains in one line.
        raise UserError(f"{message}; allowed is RUN [RUN ...] [--out DIR], see python -m fastlt.report --help")


def find_runs(roots: list[Path]) -> list[Path]:
    """The folders below `roots` (or those themselves) that hold a results.json, each once, in order.

    Raises:
        UserError: a root is no folder or holds no results.json.
    """
    runs: list[Path] = []
    for root in roots:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise UserError(
                f"RUN={root} {what}; allowed is a folder with results.json in it or below it; "
                "give the run=DIR of a training that has finished"
            )
        found = sorted(path.parent.resolve() for path in root.rglob("results.json"))
        if not found:
            raise UserError(
                f"RUN={root} holds no results.json; allowed is a folder with results.json in it or below it; "
                "wait for the training to finish or name another folder"
            )
        runs += found
    return list(dict.fromkeys(runs))


def targets(runs: list[Path], out: Path | None) -> list[Path]:
    """Where the report of each run goes: beside its results.json, or below `out`.

    One run goes to `out` itself. Several keep their place below their nearest common folder, so no two can collide.
    """
    if out is None:
        return runs
    common = Path(os.path.commonpath(runs))
    return [out / run.relative_to(common) for run in runs]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after one line about wrong input."""
    parser = _Parser(prog="python -m fastlt.report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run, or a folder of runs")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the reports go (default: into each run)")
    try:
        options = parser.parse_args(arguments)
        runs = find_runs(options.runs)
        # All are read before any is written: a broken one must not leave half the reports new and half old.
        loaded = [read_results(run / "results.json") for run in runs]
        for results, target in zip(loaded, targets(runs, options.out), strict=True):
            try:
                path = write_report(results, target)
            except OSError as error:
                raise UserError(
                    f"--out={target} cannot be written ({error.strerror}); allowed is a folder you may write to; "
                    "name another one with --out DIR"
                ) from error
            sys.stdout.write(f"{_shown(path)}\n")
    except UserError as error:
        sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")
        return 2
    return 0


def _shown(path: Path) -> str:
    """The path as the user would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    sys.exit(main())
