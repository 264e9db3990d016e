"""The configuration of a grid: every key with its type and meaning. Values are in conf/."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """What each cell of a grid requests from SLURM."""

    partition: str | None = None  # partition of the jobs; default: the cluster's
    time: str = "24:00:00"  # time limit of a job: minutes, or [days-]hours:minutes:seconds
    gpus: int = 1  # GPUs of a cell; 0: the cells run on CPUs
    cpus: int = 8  # CPUs of a cell, which are also its threads
    memory: float | None = None  # memory of a cell in GB; default: the cluster's
    account: str | None = None  # as sbatch's --account
    qos: str | None = None  # as sbatch's --qos
    constraint: str | None = None  # as sbatch's --constraint
    at_once: int = 256  # cells of the array that may run at the same time
    requeue: int = 10  # how often a cell that reaches its time limit is queued again
    signal_seconds: int = 120  # how long before the time limit a cell is told to save itself
    setup: tuple[str, ...] = ()  # shell lines to run before a cell, such as `module load ...`
    extra: dict[str, Any] = field(default_factory=dict)  # further flags of sbatch, as slurm.extra.mail_type=END


@dataclass(frozen=True, kw_only=True)
class CellsConfig:
    """The cells of a grid.

    name: of the grid. parts: lists of arguments of fastlt.train. `key=A,B` makes a cell with A and a cell with B, and
    every combination of such values within a part is a cell.
    """

    name: str
    parts: tuple[list[str], ...]


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The keys of `python -m fastlt.grid`. All other keys are those of fastlt.train and go to every cell."""

    grid: CellsConfig
    out: str | None = None  # folder of all runs and the report; default: runs/NAME_OF_THE_GRID
    launcher: str = "local"  # local (this node) or slurm
    at_once: int = 0  # cells that run at the same time on this node; 0: one per GPU, or per core without GPUs
    dry_run: bool = False  # only list the cells with an estimate of time and disk
    slurm: SlurmConfig
