"""The cells of a grid: experiments whose configurations are resolved and written to disk before the first one starts.

out/grid.json           the planned cells, of all commands with this out
out/cells/NAME.yaml     the resolved configuration of a cell, and its key
out/NAME/               its run folder: results.json has the key of a finished cell, failed.json says why a cell failed
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import hydra

from fastlt.core.cli import one_line, own_parts
from fastlt.core.config import RUN, changed, flat
from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.core.log import say
from fastlt.core.overrides import quoted_strings
from fastlt.core.typed import read_json, typed, write_json
from fastlt.core.yaml_file import write_yaml
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.choosing import choose_split
from fastlt.experiment.config import PARTS, TrainConfig
from fastlt.experiment.departures import find_departures
from fastlt.experiment.embedded import draw_embedded
from fastlt.experiment.given import open_dataset
from fastlt.experiment.identity import determined_by, run_name
from fastlt.registry import own_sources
from fastlt.train import LOCK, resolve, settle_precision

KEPT = ("run", "overwrite")  # keys of training that cells may not set, because the grid sets them
FAILURE = "failed.json"
GRID = "grid.json"


@dataclass(frozen=True)
class Cell:
    """An experiment of a grid.

    run: its folder. key: a hash of everything that determines its results. config: its resolved configuration.
    overrides: the arguments it was composed from. departures: from its protocol, as `find_departures` returns them.
    dataset: the dataset it trains on.
    """

    run: Path
    key: str
    config: TrainConfig
    overrides: list[str]
    departures: dict[str, list[Any]]
    dataset: Dataset

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run.name

    @property
    def frozen(self) -> Path:
        """The file with the resolved configuration, which `freeze` writes and a job reads."""
        return self.run.parent / "cells" / f"{self.name}.yaml"

    @property
    def lock(self) -> Path:
        """The lock file that is held while the cell is computed."""
        return self.run / LOCK

    @property
    def finished(self) -> bool:
        """Whether its folder has the results of this cell."""
        return result_key(self.run) == self.key

    def failed(self, forgiven: str | None) -> str | None:
        """Returns why the cell failed; None if it did not.

        forgiven: the id of an earlier failure that does not count, because the cell is tried again.
        """
        failure = failure_in(self.run)
        return failure.error if failure is not None and failure.id != forgiven else None

    def freeze(self) -> None:
        """Writes the key, departures and configuration of the cell to the file that a job reads."""
        told = {"key": self.key, "departures": self.departures, "config": asdict(self.config)}
        told["inputs"] = inputs(self.config, self.dataset)
        write_yaml(self.frozen, told, shared=True)

    def planned(self) -> dict[str, Any]:
        """Returns the entry of the cell in grid.json."""
        return {
            "name": self.name,
            "run": self.name,
            "key": self.key,
            "dataset": self.dataset.name,
            "backbone": self.config.backbone.name,
            "sampler": self.config.sampler.name,
            "seed": self.config.seed,
            "protocol": self.config.protocol.name,
            "epochs": self.config.epochs,
        }


class Failure(NamedTuple):
    """Why a cell has no results.

    id: unique to this try. Times cannot tell failures apart, because the clocks of machines differ and may be set back.
    error: the reason.
    """

    id: str
    error: str


def failure_in(run: Path) -> Failure | None:
    """Returns the last failure of the cell in a folder; None if it did not fail, or if failed.json is damaged."""
    try:
        told = typed(dict[str, Any], read_json(run / FAILURE))
        return Failure(str(told["id"]), str(told["error"]) or "no reason given")
    except (UserError, KeyError):
        return None


def result_key(run: Path) -> str | None:
    """Returns the key of the cell whose results a folder has; None without results."""
    path = run / "results.json"
    try:
        state = path.stat()
        return _key_in(path, state.st_ino, state.st_mtime_ns, state.st_size)
    except OSError:
        return None


@functools.cache
def _key_in(path: Path, *_: int) -> str | None:
    """Reads the key from results.json, once for each state of the file (inode, time, size).

    Results may have megabytes, and a grid checks them twice a second.
    """
    try:
        return typed(dict[str, Any], read_json(path)).get("cell")
    except UserError:
        return None


def settle(combinations: Sequence[list[str]], out: Path, device: str, here: bool) -> list[Cell]:
    """Composes and checks all cells of a grid. Nothing is written except embedded datasets.

    combinations: the arguments of each cell. out: the folder of the grid. device: `cpu` or `cuda`. here: whether the
    cells will run on this machine.

    Raises UserError for keys that cells may not set, for a cell whose configuration is invalid, and for two cells that
    would train the same representation in the same folder.
    """
    datasets: dict[str, Dataset] = {}
    cells: dict[str, Cell] = {}
    lines: dict[str, None] = {}
    for overrides in combinations:
        for key in KEPT:
            if any(given.startswith(f"{key}=") for given in overrides):
                raise UserError(f"{key}=... is not for a grid: every cell has a folder of its own below out=DIR")
        cell, line = _cell(overrides, out, device, here, datasets)
        lines[line] = None
        other = cells.setdefault(cell.name, cell)
        if other.key != cell.key:
            differ = sorted(set(other.overrides) ^ set(cell.overrides))
            raise UserError(
                f"cells that differ in {', '.join(differ)} would train one representation twice: give each value a "
                "grid of its own (out=DIR), with representation=FILE to share it"
            )
    for line in filter(None, lines):
        say(line)
    return list(cells.values())


def _cell(overrides: list[str], out: Path, device: str, here: bool, datasets: dict[str, Dataset]) -> tuple[Cell, str]:
    """Composes a cell; returns it and a line about its precision for the log."""
    try:
        overrides = quoted_strings(own_parts(overrides), TrainConfig)
        composed = hydra.compose("train", overrides)
        data = composed.features or composed.data
        if data not in datasets:
            draw_embedded(data)
            datasets[data] = open_dataset(composed)
        dataset = datasets[data]
        config = replace(resolve(composed, overrides, dataset), device=device)
        departures = find_departures(config, dataset)
        config, line = settle_precision(config, dataset, device, lambda config: out / run_name(config, dataset), here)
        choose_split(config, dataset)
    except UserError:
        raise
    except Exception as error:
        raise UserError(one_line(error, TrainConfig)) from error
    run = out / run_name(config, dataset)
    return Cell(run, results_key(config, dataset), config, overrides, departures, dataset), line


def results_key(config: TrainConfig, dataset: Dataset) -> str:
    """Returns a hash of everything that determines a cell's results."""
    classifiers = own_sources(**{f"classifier {name}": name for name in config.classifier_names})
    return Identity({**determined_by(config, dataset).about, **changed(config, RUN), **classifiers}).key


def inputs(config: TrainConfig, dataset: Dataset) -> dict[str, str]:
    """Returns digests of what the key of a cell covers and others may change: the dataset and the user's own parts."""
    values = flat(config)
    parts = {key: str(values[key]) for key in PARTS}
    classifiers = {f"classifier {name}": name for name in config.classifier_names}
    return {"dataset": dataset.digest, **own_sources(**parts, **classifiers)}


def write_plan(grid: str, cells: Sequence[Cell], out: Path) -> None:
    """Writes the configuration of every cell, and grid.json, in which cells of earlier commands stay."""
    for cell in cells:
        cell.freeze()
    planned = {cell.name: cell.planned() for cell in cells}
    try:
        before = typed(list[dict[str, Any]], typed(dict[str, Any], read_json(out / GRID)).get("cells"))
    except UserError:  # there is none, or it is damaged
        before = []
    named = {str(one.get("name")): one for one in before}
    write_json(out / GRID, {"grid": grid, "cells": list({**named, **planned}.values())}, shared=True)
