"""Computes one cell of a grid in a process of its own."""

import contextlib
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import submitit
from omegaconf import OmegaConf

from fastlt.core.device import pick_device, set_threads, work_on
from fastlt.core.errors import UserError, first_line
from fastlt.core.interrupts import Stopped
from fastlt.core.lock import Busy, locked
from fastlt.core.log import printed, regrets, tell_progress
from fastlt.core.structured import from_node, schema
from fastlt.core.typed import read_json, typed, write_json
from fastlt.core.yaml_file import read_yaml
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.given import open_dataset
from fastlt.grid.cells import FAILURE, failure_in, inputs, result_key
from fastlt.train import LOCK, train

ANY = "any"  # the value of `forgiven` by which a cell is tried again after any failure
BESIDE = "beside.json"  # in the run folder: what failed beside the results, such as a figure
PROGRESS = "progress.json"  # in the run folder of a cell that is being computed


def run_cell(frozen: Path, threads: int = 0, slot: Path | None = None, forgiven: str | None = ANY) -> str:
    """Computes a cell in its run folder, and continues what an earlier try left there.

    frozen: the file with the cell's configuration.
    threads: of the CPU; 0 for one per core.
    slot: the lock file of the slot that the cell occupies.
    forgiven: the id of an earlier failure after which the cell is tried again, or ANY.

    Returns "done"; "busy" if another process computes the cell; "failed" if another process has found meanwhile that it
    fails again. Raises Stopped after saving if a signal asked for it, and any error of the cell after writing it to
    failed.json.
    """
    cell = read_yaml(frozen, "give the command of the grid again: it writes the file anew", always=True)
    run = frozen.parent.parent / frozen.stem
    with contextlib.ExitStack() as held:
        try:
            if slot is not None:
                held.enter_context(locked(slot, str(slot)))
            held.enter_context(locked(run / LOCK, f"run={run}"))
        except Busy:
            return "busy"
        if result_key(run) == cell.key:
            return "done"
        failure = failure_in(run)
        if failure is not None and forgiven not in (ANY, failure.id):
            return "failed"
        tell_progress(run / PROGRESS)
        start = time.monotonic()
        try:
            config = from_node(OmegaConf.merge(schema(TrainConfig), cell.config), TrainConfig)
            device = pick_device(config.device)
            work_on(device)
            used = set_threads(threads or config.threads)
            dataset = open_dataset(config)
            now = inputs(config, dataset).items()
            if edited := [key for key, digest in now if cell.inputs.get(key) != digest]:
                raise UserError(
                    f"{edited[0].removesuffix('.source')} was changed since this cell was planned: give the command of "
                    "the grid again, which plans the cells of what is there now"
                )
            departures: Any = OmegaConf.to_container(cell.departures)
            train(config, dataset, run, device, used, departures, cell=cell.key, tell=sys.stdout.write)
            _write_beside(run, regrets())
            (run / PROGRESS).unlink(missing_ok=True)
            (run / FAILURE).unlink(missing_ok=True)  # not earlier: another command may still have to read the failure
        except Stopped:
            raise
        except Exception as error:
            write_failure(run, first_line(error), time.monotonic() - start)
            raise
        finally:
            tell_progress(None)
    return "done"


def _write_beside(run: Path, failures: list[str]) -> None:
    """Writes what failed beside the results into the log of the cell, and into its folder for the command."""
    sys.stderr.write("".join(f"failed: {printed(line)}\n" for line in failures))
    if failures:
        write_json(run / BESIDE, {"failed": failures}, shared=True)
    else:
        (run / BESIDE).unlink(missing_ok=True)


def failed_beside(run: Path) -> list[str]:
    """Returns what failed beside the results of a cell, such as a figure or a logger, when it was last computed."""
    try:
        return typed(dict[str, list[str]], read_json(run / BESIDE))["failed"]
    except (UserError, KeyError):
        return []


def write_failure(run: Path, error: str, seconds: float, log: str | None = None) -> None:
    """Writes failed.json, which says why a cell has no results.

    seconds: how long it ran. log: the file with its output; by default that of the submitit job in this process.
    """
    if log is None and "SUBMITIT_EXECUTOR" in os.environ:
        log = str(submitit.JobEnvironment().paths.stdout)
    failure = {"id": uuid.uuid4().hex, "error": error, "log": log, "seconds": round(seconds, 1)}
    write_json(run / FAILURE, failure, shared=True)
