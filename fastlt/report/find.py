"""Where the runs are that a report is asked for."""

from __future__ import annotations

from pathlib import Path

from fastlt.core.errors import UserError


def find_runs(roots: list[Path], also: str = "") -> list[Path]:
    """The folders below `roots` (or those themselves) that hold a results.json, each once, in order.

    also: name of a file that stands in for one, so that a root which holds it needs no results.json.

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
        if not found and not (also and any(root.rglob(also))):
            raise UserError(
                f"RUN={root} holds no results.json; allowed is a folder with results.json in it or below it; "
                "wait for the training to finish or name another folder"
            )
        runs += found
    return list(dict.fromkeys(runs))
