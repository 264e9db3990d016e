"""What a grid planned, from its grid.json, and what of it has no results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.report.compare.model import Gap
from fastlt.report.compare.runs import Setting

GRID = "grid.json"
FAILED = "failed.json"
_FIELDS = ("name", "run", "dataset", "backbone", "sampler", "seed", "protocol", "epochs")


@dataclass(frozen=True)
class Planned:
    """A cell of a grid. reason: why it has no results; None where it has."""

    name: str
    dataset: str
    backbone: str
    sampler: str
    seed: int
    protocol: str
    epochs: int
    reason: str | None


def read_planned(roots: Iterable[Path]) -> list[Planned]:
    """The cells of all grids in or below `roots`, each once, in the order of their grids.

    Raises:
        UserError: a grid.json cannot be read or lacks what a cell needs.
    """
    files = dict.fromkeys(path.resolve() for root in roots for path in sorted(root.rglob(GRID)))
    return [planned for path in files for planned in _read(path)]


def gaps(planned: Iterable[Planned]) -> tuple[Gap, ...]:
    """The cells without results."""
    return tuple(Gap(cell.name, cell.reason) for cell in planned if cell.reason is not None)


def planned_for(planned: Iterable[Planned], setting: Setting) -> list[Planned]:
    """The planned cells that are seeds of this setting."""

    def identity(known: Planned | Setting) -> tuple[Any, ...]:
        return known.dataset, known.backbone, known.sampler, known.protocol, known.epochs

    return [cell for cell in planned if identity(cell) == identity(setting)]


def _read(path: Path) -> list[Planned]:
    mend = "run the command of the grid again to write it anew"
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [_planned(path.parent, cell.get("key"), *(cell[field] for field in _FIELDS)) for cell in cells]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {mend}") from error
    except (ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UserError(f"{path}: is no plan of a grid ({what}); {mend}") from error


def _planned(folder: Path, key: str | None, name: str, run: str, *fields: Any) -> Planned:
    place = folder / run
    return Planned(name, *fields, reason=None if _finished(place, key) else _reason(place / FAILED))


def _finished(run: Path, key: str | None) -> bool:
    """Whether the results are those of the planned cell, and not of an earlier one in the same folder."""
    path = run / "results.json"
    if key is None or not path.is_file():
        return path.is_file()
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("cell") == key
    except ValueError:
        return False


def _reason(path: Path) -> str:
    try:
        error = json.loads(path.read_text(encoding="utf-8"))["error"]
    except FileNotFoundError:
        return "not finished"
    except (OSError, ValueError, KeyError, TypeError):
        return f"failed ({FAILED} cannot be read)"
    return " ".join(str(error).split()) or "failed"
