"""Finds the runs for a report."""

from __future__ import annotations

from pathlib import Path

from fastlt.core.errors import UserError


def find_runs(roots: list[Path], also: str = "") -> list[Path]:
    """Returns the folders in or below `roots` that have a results.json, each once, in order.

    also: the name of another file; a root that has it needs no results.json.

    Raises:
        UserError: a root is no folder, or has no results.json.
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
        if not found and not (also and any(root.rglob(also))):
            raise UserError(
                f"RUN={root} holds no results.json; allowed is a folder with results.json in it or below it; "
                "wait for the training to finish or name another folder"
            )
        runs += found
    return list(dict.fromkeys(runs))
