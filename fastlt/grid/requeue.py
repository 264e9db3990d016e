"""Lets a cell on a cluster save itself when its job is interrupted, be queued again, and continue.

SLURM sends submitit's signal (USR2) some time before the time limit. It sends SIGTERM to a job that is preempted, to a
job that was cancelled, and at the time limit. By itself submitit queues the job again at once at USR2, which would lose
all training since the last checkpoint, and ignores SIGTERM. Here the training saves itself first after both signals.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from fastlt.core.errors import first_line
from fastlt.core.interrupts import Interrupts, Stopped
from fastlt.core.log import say

PATIENCE = 20.0  # seconds during which SLURM is asked again; it kills a job half a minute after SIGTERM
ANSWER = 15.0  # seconds allowed for one answer
WARNING = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


class Requeued(Checkpointable):
    """Wraps a function for submitit, so that an interrupted job is queued again with the same arguments.

    compute: the function. A new call must continue where an interrupted one ended, and it raises Stopped after saving.

    After a signal the job is queued again when `compute` has raised Stopped, or at once if there is nothing to save. A
    job that was cancelled ends. A job that reached its time limit too often raises submitit's UncompletedJobError.
    """

    def __init__(self, compute: Callable[..., str]):
        self.compute = compute

    def __call__(self, *arguments: Any) -> str:
        with _Signals() as signals:
            try:
                return self.compute(*arguments)
            except Stopped as stopped:
                say(str(stopped))
                signals.requeue()
                sys.exit(128 + stopped.signal)


class _Signals:
    """Context manager in which USR2 and SIGTERM end the computation and queue the job again."""

    _ending = False
    _warned = False  # USR2 came: the time limit is near, and nobody cancelled the job

    def __enter__(self) -> "_Signals":
        self._submitit: Any = signal.signal(WARNING, self._end)
        self._before = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(WARNING, self._submitit)
        signal.signal(signal.SIGTERM, self._before)

    def requeue(self) -> None:
        """Queues the job again and ends the process; returns if the job must not be queued again, or if SLURM fails."""
        self._ending = True  # SLURM sends another SIGTERM to a job that it queues again
        by_hand = f"scontrol requeue {JobEnvironment().job_id}, or give the command of the grid again"
        state, problem = _patiently(_state)
        if problem and not self._warned:
            say(f"SLURM does not tell whether this job was cancelled ({problem}); if it was not: {by_hand}")
        elif problem or state == ["RUNNING"]:
            _, problem = _patiently(lambda: self._submitit(WARNING, None))
            say(f"the job could not be queued again ({problem}): {by_hand}")

    def _end(self, number: int, *_: Any) -> None:
        self._warned |= number == WARNING
        if Interrupts.under_way is not None:
            # The signal is only noted, because a training that is already saving itself must not be interrupted.
            Interrupts.under_way.note(signal.SIGTERM)
        elif not self._ending:
            self.requeue()
            sys.exit(128 + signal.SIGTERM)


def _patiently(ask: Callable[[], Any]) -> tuple[Any, str]:
    """Calls a function that runs a program of SLURM; returns (its result, ""), or (None, what went wrong).

    A failure is tried again for PATIENCE seconds, as the controller may be busy, unless the program does not exist.
    """
    end, pause = time.monotonic() + PATIENCE, 1.0
    while True:
        try:
            return ask(), ""
        except FileNotFoundError as error:
            return None, f"there is no {error.filename} on this node"
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None)
            problem = said.strip().splitlines()[-1] if said and said.strip() else first_line(error)
            if time.monotonic() + pause > end:
                return None, problem
            say(f"SLURM does not answer ({problem}): asking again in {pause:.0f} s")
            time.sleep(pause)
            pause *= 2


def _state() -> list[str]:
    """Returns the state that SLURM reports for this job, such as ["RUNNING"].

    A job that is preempted counts as running until its grace time is over. A job that was cancelled does not, and must
    not be revived by `scontrol requeue`; nor does a job that SLURM itself queued again.
    """
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={JobEnvironment().job_id}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=True).stdout.split()
