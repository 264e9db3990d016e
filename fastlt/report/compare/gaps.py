"""Reads the planned cells of grids from grid.json, and finds those without results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.core.typed import read_json, typed
from fastlt.report.compare.model import Gap
from fastlt.report.compare.runs import RunGroup

GRID = "grid.json"
FAILED = "failed.json"


@dataclass(frozen=True)
class _Cell:
    """A cell in the form of grid.json."""

    name: str
    run: str
    dataset: str
    backbone: str
    sampler: str
    seed: int
    protocol: str
    epochs: int
    key: str | None = None


@dataclass(frozen=True)
class _Plan:
    cells: list[_Cell]


@dataclass(frozen=True)
class Planned:
    """A planned cell of a grid. reason: why it has no results; None if it has."""

    name: str
    dataset: str
    backbone: str
    sampler: str
    seed: int
    protocol: str
    epochs: int
    reason: str | None


def read_planned(roots: Iterable[Path]) -> list[Planned]:
    """Returns the cells of all grids in or below `roots`, each once, in the order of their grids.

    Raises:
        UserError: a grid.json cannot be read or lacks a field.
    """
    files = dict.fromkeys(path.resolve() for root in roots for path in sorted(root.rglob(GRID)))
    return [planned for path in files for planned in _read(path)]


def gaps(planned: Iterable[Planned]) -> tuple[Gap, ...]:
    """Returns the cells without results."""
    return tuple(Gap(cell.name, cell.reason) for cell in planned if cell.reason is not None)


def planned_for(planned: Iterable[Planned], run_group: RunGroup) -> list[Planned]:
    """Returns the planned cells that are seeds of a group of runs."""

    def identity(known: Planned | RunGroup) -> tuple[Any, ...]:
        return known.dataset, known.backbone, known.sampler, known.protocol, known.epochs

    return [cell for cell in planned if identity(cell) == identity(run_group)]


def _read(path: Path) -> list[Planned]:
    try:
        plan: _Plan = typed(_Plan, read_json(path))
    except UserError as error:
        told = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path}: {told}; give the command of the grid again: it writes the file anew") from None
    planned = []
    for cell in plan.cells:
        told = {name: value for name, value in vars(cell).items() if name not in ("run", "key")}
        run = path.parent / cell.run
        planned.append(Planned(**told, reason=None if _finished(run, cell.key) else _reason(run / FAILED)))
    return planned


def _finished(run: Path, key: str | None) -> bool:
    """Returns whether a folder has the results of the planned cell, and not of an earlier one in the same folder."""
    path = run / "results.json"
    if key is None or not path.is_file():
        return path.is_file()
    try:
        told = read_json(path)
    except UserError:
        return False
    return isinstance(told, dict) and told.get("cell") == key


def _reason(path: Path) -> str:
    if not path.exists():
        return "not finished"
    try:
        error = typed(dict[str, Any], read_json(path))["error"]
    except (UserError, KeyError):
        return f"failed ({FAILED} cannot be read)"
    return " ".join(str(error).split()) or "failed"
