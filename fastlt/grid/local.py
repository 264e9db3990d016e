"""Cells on this node: submitit starts their processes, one on every GPU, or some beside one another on its cores."""

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
YEARS = 60 * 24 * 365 * 10  # minutes; a cell ends by itself


@dataclass(frozen=True)
class Slot:
    """A part of this node that computes one cell at a time. gpu: its number, None for cores. threads: of the CPU.
    number: which of the slots on that GPU, or on the cores."""

    gpu: int | None
    threads: int
    number: int

    def lock(self, out: Path) -> Path:
        """Held by the cell that is computed on it, also when the command that started it is gone."""
        place = "cpu" if self.gpu is None else f"gpu{self.gpu}-"
        return out / "slots" / f"{socket.gethostname()}-{place}{self.number}.lock"


def slots_here(device: str, gpus: int, cores: int, cells: int, at_once: int, threads: int) -> list[Slot]:
    """The slots of this node.

    device: cpu or cuda. gpus, cores: how many there are. cells: how many are to be computed. at_once, threads: as asked
    for, 0 for as many slots as there are GPUs (or cores, but no more than cells) and an equal share of the cores. More
    slots than GPUs share them out: a small network does not fill one.
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
    """Numbers of the GPUs that this process may use."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return list(range(gpus))
    names = [name.strip() for name in told.split(",") if name.strip()]
    if not all(name.isdecimal() for name in names):
        raise UserError(f"CUDA_VISIBLE_DEVICES={told}: name the GPUs of a grid by their numbers, as in 0,1")
    return [int(name) for name in names[:gpus]]


@dataclass
class Progress:
    """Where every cell stands: names of `waiting`, `running` (here or elsewhere), `done` and `failed` cells."""

    waiting: list[Cell]
    running: dict[str, Cell] = field(default_factory=dict)
    elsewhere: dict[str, Cell] = field(default_factory=dict)
    done: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run_local(
    cells: Sequence[Cell], slots: Sequence[Slot], out: Path, show: Callable[[Progress], Any]
) -> dict[str, str]:
    """Computes all cells that are not finished; the failed ones by name, with the reason.

    Other commands may work on the same folder: what they compute is waited for, never computed twice. A failed cell
    does not stop the others. show: called with where things stand, twice a second.

    Raises Stopped once the cells that were running have saved themselves, when SIGINT or SIGTERM asked for it.
    """
    return _Node(cells, slots, out, show).run()


class _Node:
    def __init__(self, cells: Sequence[Cell], slots: Sequence[Slot], out: Path, show: Callable[[Progress], Any]):
        self.progress = Progress(list(cells))
        self.slots, self.out, self.show = slots, out, show
        self.jobs: dict[Slot, tuple[Cell, submitit.Job[str], float]] = {}
        before = {cell.name: failure_in(cell.run) for cell in cells}  # these are tried again
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
        """Takes in what has ended, and starts what can be started."""
        for slot, (cell, job, start) in list(self.jobs.items()):
            if job.done():
                del self.jobs[slot], self.progress.running[cell.name]
                # It has results or says why not, or another command is at it by now; else its process did not live to.
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
        """Asks the running cells to save themselves and waits for it."""
        for _, job, _ in self.jobs.values():
            # The job's id is that of the process which hands the signal on.
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        while not all(job.done() for _, job, _ in self.jobs.values()):
            time.sleep(POLL)


def compute(frozen: Path, threads: int, slot: Path, forgiven: str | None) -> str:
    """`run_cell` in a process that submitit started: "stopped" where a signal ended it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit only notes it; where nothing is to be saved, it ends
    try:
        return run_cell(frozen, threads, slot, forgiven)
    except Stopped:
        return "stopped"


def _ended(job: submitit.Job[str]) -> str:
    """How the process of a job without results ended."""
    if not job.paths.result_pickle.exists():  # submitit would wait for it, by the clock
        return "killed"
    try:
        return job.result()
    except Exception:  # whatever submitit makes of a process that left nothing
        return "killed"


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C: the terminal sends it to all, and this one passes it on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
