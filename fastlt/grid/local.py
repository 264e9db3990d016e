"""Runs cells on this node. submitit starts their processes: one or more on every GPU, or several on the cores."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from fastlt.core.errors import UserError
from fastlt.core.interrupts import Interrupts, Stopped
from fastlt.core.lock import is_locked
from fastlt.grid.cells import Cell, failure_in
from fastlt.grid.job import run_cell, write_failure

POLL = 0.5  # seconds
YEARS = 60 * 24 * 365 * 10  # minutes; submitit needs a time limit, but cells have none here


@dataclass(frozen=True)
class Slot:
    """A part of this node that computes one cell at a time.

    gpu: the number of its GPU; None for a slot on CPU cores. threads: CPU threads of the cell. number: counts the slots
    on one GPU, or on the cores.
    """

    gpu: int | None
    threads: int
    number: int

    def lock(self, out: Path) -> Path:
        """Returns the lock file that a cell holds while it runs on this slot, even if its command has ended."""
        place = "cpu" if self.gpu is None else f"gpu{self.gpu}-"
        return out / "slots" / f"{socket.gethostname()}-{place}{self.number}.lock"


def slots_here(device: str, gpus: int, cores: int, cells: int, at_once: int, threads: int) -> list[Slot]:
    """Returns the slots of this node.

    device: `cpu` or `cuda`. gpus, cores: how many the node has. cells: how many are to be computed.
    at_once: the number of slots; 0 for one per GPU, or one per core but no more than cells. With more slots than GPUs
    several share a GPU, because a small network does not use all of it.
    threads: CPU threads per slot; 0 for an equal share of the cores.

    Example, two cells on four cores:

        >>> slots_here("cpu", gpus=0, cores=4, cells=2, at_once=0, threads=0)
        [Slot(gpu=None, threads=2, number=0), Slot(gpu=None, threads=2, number=1)]
    """
    if at_once < 0:
        raise UserError(f"at_once={at_once}: it must be 0 (one on every GPU, or as many as there are cores) or more")
    if device == "cuda":
        visible = _visible(gpus)
        many = at_once or len(visible)
        places = [(visible[k % len(visible)], k // len(visible)) for k in range(many)]
    else:
        many = at_once or max(1, min(cells, cores // (threads or 1)))
        places = [(None, k) for k in range(many)]
    return [Slot(gpu, threads or max(1, cores // many), number) for gpu, number in places]


def _visible(gpus: int) -> list[int]:
    """Returns the numbers of the GPUs that this process may use, from CUDA_VISIBLE_DEVICES."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return list(range(gpus))
    names = [name.strip() for name in told.split(",") if name.strip()]
    if not all(name.isdecimal() for name in names):
        raise UserError(f"CUDA_VISIBLE_DEVICES={told}: name the GPUs of a grid by their numbers, as in 0,1")
    return [int(name) for name in names[:gpus]]


@dataclass
class Progress:
    """The state of all cells of a grid.

    waiting: cells that have not started, or are running elsewhere. running: cells on this node, by name.
    elsewhere: cells that another command computes. done: finished cells. failed: reasons of failed cells, by name.
    """

    waiting: list[Cell]
    running: dict[str, Cell] = field(default_factory=dict)
    elsewhere: dict[str, Cell] = field(default_factory=dict)
    done: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_local(
    cells: Sequence[Cell], slots: Sequence[Slot], out: Path, show: Callable[[Progress], Any]
) -> dict[str, str]:
    """Computes all cells that are not finished; returns {name of a failed cell: reason}.

    cells: all cells of the grid. slots: what they run on. out: the folder of the grid. show: is called with the
    progress twice a second.

    Other commands may work on the same folder; cells that they compute are waited for and never computed twice. A
    failed cell does not stop the others.

    Raises Stopped after a signal, once the running cells have saved themselves.
    """
    return _Node(cells, slots, out, show).run()


class _Node:
    def __init__(self, cells: Sequence[Cell], slots: Sequence[Slot], out: Path, show: Callable[[Progress], Any]):
        self.progress = Progress(list(cells))
        self.slots, self.out, self.show = slots, out, show
        self.jobs: dict[Slot, tuple[Cell, submitit.Job[str], float]] = {}
        before = {cell.name: failure_in(cell.run) for cell in cells}  # cells that failed earlier are tried again
        self.forgiven = {name: failure and failure.id for name, failure in before.items()}
        self.executor = submitit.LocalExecutor(out / "jobs")

    def run(self) -> dict[str, str]:
        with Interrupts() as asked:
            while True:
                self._look()
                self.show(self.progress)
                if asked.signal is not None:
                    self._stop()
                    asked.stop("the cells that were running saved themselves, the same command goes on there")
                if not self.progress.waiting and not self.jobs:
                    return self.progress.failed
                time.sleep(POLL)

    def _look(self) -> None:
        """Registers cells that have ended, and starts cells on free slots."""
        for slot, (cell, job, start) in list(self.jobs.items()):
            if job.done():
                del self.jobs[slot], self.progress.running[cell.name]
                # A cell that ended has results or a failure, or another command computes it by now. Otherwise its
                # process was killed before it could write either.
                told = cell.finished or cell.failed(self.forgiven[cell.name]) or is_locked(cell.lock)
                if not told and (how := _ended(job)) != "busy":
                    write_failure(cell.run, f"its process was {how}", time.monotonic() - start, str(job.paths.stdout))
                self.progress.waiting.insert(0, cell)
        self.progress.elsewhere = {}
        free = [slot for slot in self.slots if slot not in self.jobs and not is_locked(slot.lock(self.out))]
        for cell in list(self.progress.waiting):
            if cell.finished:
                self.progress.waiting.remove(cell)
                self.progress.done.append(cell)
            elif reason := cell.failed(self.forgiven[cell.name]):
                self.progress.waiting.remove(cell)
                self.progress.failed[cell.name] = reason
            elif is_locked(cell.lock):
                self.progress.elsewhere[cell.name] = cell
            elif free:
                slot = free.pop(0)
                self.jobs[slot] = (cell, self._submit(cell, slot), time.monotonic())
                self.progress.waiting.remove(cell)
                self.progress.running[cell.name] = cell

    def _submit(self, cell: Cell, slot: Slot) -> submitit.Job[str]:
        gpus, forgiven = [] if slot.gpu is None else [slot.gpu], self.forgiven[cell.name]
        self.executor.update_parameters(
            timeout_min=YEARS, gpus_per_node=len(gpus), visible_gpus=gpus, stderr_to_stdout=True
        )
        with _without_interrupt():
            return self.executor.submit(compute, cell.frozen, slot.threads, slot.lock(self.out), forgiven)

    def _stop(self) -> None:
        """Asks the running cells to save themselves, and waits until they have ended."""
        for _, job, _ in self.jobs.values():
            # The id of a local job is that of its parent process, which passes signals on.
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        while not all(job.done() for _, job, _ in self.jobs.values()):
            time.sleep(POLL)


def compute(frozen: Path, threads: int, slot: Path, forgiven: str | None) -> str:
    """Runs `run_cell` in a process that submitit started; returns "stopped" if a signal ended it after saving."""
    # submitit's handler would ignore SIGTERM; with the default one it ends the process while nothing must be saved.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        return run_cell(frozen, threads, slot, forgiven)
    except Stopped:
        return "stopped"


def _ended(job: submitit.Job[str]) -> str:
    """Returns how the process of a job ended: what `compute` returned, or "killed"."""
    if not job.paths.result_pickle.exists():  # submitit would wait some time for the file
        return "killed"
    try:
        return job.result()
    except Exception:  # submitit raises various errors for a process that left no result
        return "killed"


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Starts processes that are not told of Ctrl-C, nor that their terminal is closed (context manager).

    All processes of the terminal are, but this one stops the cells in an orderly way.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
