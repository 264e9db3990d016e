"""The cells of a grid: experiments whose configuration was settled and written down before the first one began.

out/grid.json           what was planned
out/cells/NAME.yaml     the settled configuration of a cell and its key
out/NAME/               its run folder; results.json there names the key once it is finished, failed.json says why not
"""

import functools
import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import OmegaConf

from fastlt.core.cli import one_line, own_parts
from fastlt.core.errors import UserError
from fastlt.core.log import say
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.departures import find_departures
from fastlt.experiment.embedded import draw_embedded
from fastlt.train import LOCK, options_of, resolve, settle_precision

# What changes how a cell runs, and not what comes out of it.
HOW = ("data", "run", "device", "threads", "compile", "save_epochs", "save_minutes", "tensorboard", "overwrite")
KEPT = ("run", "overwrite")  # keys of training that a grid keeps to itself
FAILURE = "failed.json"


@dataclass(frozen=True)
class Cell:
    """One experiment. run: its folder; key: of all that determines its results; config: the settled configuration;
    overrides: the arguments it was composed of; departures: as in `find_departures`; dataset: what it trains on."""

    run: Path
    key: str
    config: Any
    overrides: list[str]
    departures: dict[str, list[Any]]
    dataset: Dataset

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def frozen(self) -> Path:
        """The file that `freeze` writes and a job reads."""
        return self.run.parent / "cells" / f"{self.name}.yaml"

    @property
    def lock(self) -> Path:
        return self.run / LOCK

    @property
    def finished(self) -> bool:
        """Whether its results are there."""
        return result_key(self.run) == self.key

    def failed(self, forgiven: str | None) -> str | None:
        """Why it failed; the failure with the id `forgiven` does not count, the cell is to be tried again."""
        failure = failure_in(self.run)
        return failure.error if failure is not None and failure.id != forgiven else None

    def freeze(self) -> None:
        """Writes down what a job needs to know."""
        self.frozen.parent.mkdir(parents=True, exist_ok=True)
        config = OmegaConf.to_container(self.config, resolve=True)
        text = OmegaConf.to_yaml({"key": self.key, "departures": self.departures, "config": config})
        replace_file(self.frozen, text)

    def planned(self) -> dict[str, Any]:
        """Its entry in grid.json."""
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
    """Why a cell has no results. id: of this try alone. Clocks of machines differ and are set back, so that a time
    cannot tell a failure from the one before it."""

    id: str
    error: str


def failure_in(run: Path) -> Failure | None:
    """How the cell of this folder failed last; None if it did not, or what tells it is damaged."""
    try:
        told = json.loads((run / FAILURE).read_text())
        return Failure(str(told["id"]), str(told["error"]) or "no reason given")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def result_key(run: Path) -> str | None:
    """The key of the cell whose results are in this folder."""
    path = run / "results.json"
    try:
        state = path.stat()
        return _key_in(path, state.st_ino, state.st_mtime_ns, state.st_size)
    except OSError:
        return None


@functools.cache
def _key_in(path: Path, *_: int) -> str | None:
    """Read once for every state of the file: results may hold megabytes, and a grid looks twice a second."""
    try:
        return json.loads(path.read_text()).get("cell")
    except ValueError:
        return None


def settle(combinations: Sequence[list[str]], out: Path, device: str, here: bool = True) -> list[Cell]:
    """Composes and checks all cells; nothing is written but embedded data sets.

    device: cpu or cuda, where they will run; here: on this machine. Raises UserError for what no cell may have, one
    that cannot be composed, and two that would train one representation in one folder.
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
    """A cell, and a line for the log on its precision."""
    try:
        overrides = own_parts(overrides)
        config = hydra.compose("train", overrides)
        data = config.data
        if data not in datasets:
            draw_embedded(data)
            datasets[data] = Dataset(data)
        config = resolve(config, overrides, datasets[data])
        departures = find_departures(config, overrides, datasets[data].about["protocol"])
        config.device = device
        dataset = datasets[data]
        line = settle_precision(config, dataset, device, lambda options: out / options.run_name(dataset), here)
        options = options_of(config)
        options.choose_split(dataset)
    except UserError:
        raise
    except Exception as error:
        raise UserError(one_line(error, TrainConfig)) from error
    determined = {name: value for name, value in _plain(config).items() if name not in HOW}
    text = json.dumps({"dataset": dataset.digest, **determined}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    return Cell(out / options.run_name(dataset), key, config, overrides, departures, dataset), line


def write_plan(grid: str, cells: Sequence[Cell], out: Path) -> None:
    """Writes grid.json and freezes every cell."""
    out.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        cell.freeze()
    plan = {"grid": grid, "cells": [cell.planned() for cell in cells]}
    replace_file(out / "grid.json", json.dumps(plan, indent=1) + "\n")


def _plain(config: Any) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all, also beside another command that writes the same one."""
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
