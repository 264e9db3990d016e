"""One cell of a grid, computed in a process of its own."""

import contextlib
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import submitit
from omegaconf import OmegaConf

from fastlt.core.device import pick_device, set_threads, work_on
from fastlt.core.errors import UserError
from fastlt.core.interrupts import Stopped
from fastlt.core.lock import Busy, locked
from fastlt.core.log import tell_progress
from fastlt.data.shards.reader import Dataset
from fastlt.grid.cells import FAILURE, failure_in, replace_file, result_key
from fastlt.train import LOCK, train

ANY = "any"  # failure is to be tried again
PROGRESS = "progress.json"  # in the run folder of a cell that is being computed


def run_cell(frozen: Path, threads: int = 0, slot: Path | None = None, forgiven: str | None = ANY) -> str:
    """Computes the cell of a frozen file in its run folder: "done", or "busy" where another process does.

    What it began before goes on: the training behind its checkpoint, features, classifiers. threads: of the CPU; 0 for
    one per core. slot: lock file of the part of a machine it takes up. forgiven: id of the failure that is to be tried
    again; "failed" where another process found by now that the cell fails once more. Raises Stopped, after saving, when
    a signal asked for it, and what made the cell fail, once failed.json tells it.
    """
    cell = OmegaConf.load(frozen)
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
            device = pick_device(cell.config.device)
            work_on(device)
            used = set_threads(threads or cell.config.threads)
            dataset = Dataset(cell.config.data)
            departures: Any = OmegaConf.to_container(cell.departures)
            train(cell.config, dataset, run, device, used, departures, further={"cell": cell.key})
            (run / PROGRESS).unlink(missing_ok=True)
            (run / FAILURE).unlink(missing_ok=True)  # only now: the command that saw it fail may not have read it yet
        except Stopped:
            raise
        except Exception as error:
            write_failure(run, _line(error), time.monotonic() - start)
            raise
        finally:
            tell_progress(None)
    return "done"


def write_failure(run: Path, error: str, seconds: float, log: str | None = None) -> None:
    """Writes down why a cell has no results. log: where its output went; default: that of the job this process is."""
    run.mkdir(parents=True, exist_ok=True)
    if log is None and "SUBMITIT_EXECUTOR" in os.environ:
        log = str(submitit.JobEnvironment().paths.stdout)
    failure = {"id": uuid.uuid4().hex, "error": error, "log": log, "seconds": round(seconds, 1)}
    replace_file(run / FAILURE, json.dumps(failure, indent=1) + "\n")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else "no reason given"
    return line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
