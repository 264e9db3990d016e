"""Submits the cells of a grid to SLURM as one job array, by submitit."""

import contextlib
import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError

from fastlt.core.errors import UserError
from fastlt.grid.config import SlurmConfig
from fastlt.grid.job import run_cell
from fastlt.grid.requeue import Requeued

LEAST = {"gpus": 0, "cpus": 1, "at_once": 1, "requeue": 0, "signal_seconds": 1}
EARLY = 60  # seconds by which SLURM may send its signal too early


def submit(cells: Sequence[Path], folder: Path, options: SlurmConfig) -> str:
    """Submits a job array with a task for every cell, or a plain job for a single cell; returns the job's id.

    cells: the files with the cells' configurations. folder: where submitit writes its files, including a log for every
    cell; all nodes must have access to it and to the cells. The function does not wait for the jobs.

    Raises UserError for options out of range, if this machine has no SLURM, and with sbatch's message if it fails.
    """
    minutes = time_limit(options)
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise UserError(f"launcher=slurm: no {program} on this machine; use a login node, or launcher=local")
    executor = SlurmExecutor(folder.absolute(), max_num_timeout=options.requeue)
    executor.update_parameters(
        job_name="fastlt",
        partition=options.partition,
        time=minutes,
        signal_delay_s=options.signal_seconds,
        gpus_per_node=options.gpus or None,
        cpus_per_task=options.cpus,
        # Since SLURM 22.05 srun does not inherit --cpus-per-task from sbatch.
        srun_args=[f"--cpus-per-task={options.cpus}"],
        mem=None if options.memory is None else f"{round(options.memory * 1024)}M",
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        array_parallelism=options.at_once,
        setup=list(options.setup),
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, **options.extra},
    )
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints the error that it also raises
            jobs = executor.map_array(
                Requeued(run_cell), [cell.absolute() for cell in cells], [options.cpus] * len(cells)
            )
    except FailedJobError as error:
        words = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
        raise UserError(f"sbatch refused the grid: {'; '.join(filter(None, words))}") from error
    return jobs[0].job_id.partition("_")[0]


def time_limit(options: SlurmConfig) -> int:
    """Returns the time limit in minutes, rounded up. Raises UserError if it or another option is too small."""
    for key, least in LEAST.items():
        if getattr(options, key) < least:
            raise UserError(f"slurm.{key}={getattr(options, key)}: it must be at least {least}")
    if options.time.isdecimal():
        seconds = 60 * int(options.time)
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", options.time):
        days, hours, minutes, rest = (int(number or 0) for number in match.groups())
        seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
    else:
        raise UserError(f"slurm.time={options.time}: write minutes, hours:MM:SS or days-HH:MM:SS")
    if seconds <= options.signal_seconds + EARLY:
        raise UserError(
            f"slurm.time={options.time} leaves no time before slurm.signal_seconds={options.signal_seconds}, which may "
            "come a minute early: allow more time"
        )
    return -(-seconds // 60)
