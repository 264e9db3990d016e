"""A cell as a job of a cluster that may be cut off: it saves itself, is queued again and goes on there.

SLURM sends submitit's signal (USR2) some time before the time limit, and SIGTERM to a job that must make room for
another, to one that was cancelled, and at the limit. At USR2 submitit queues the job again at once, which would lose
what a training did since its last checkpoint; SIGTERM it only notes. Here both let the training save itself first.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from fastlt.core.interrupts import Interrupts, Stopped
from fastlt.core.log import say

WARNING = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


class Requeued(Checkpointable):
    """`compute`, which goes on by itself where an earlier call was cut off, for submitit to call in a job.

    Once it raised Stopped behind its last step, and at once where nothing that could be saved is under way, the job is
    queued again with the same arguments. A job that was cancelled just ends; one that reached its time limit too often
    raises submitit's UncompletedJobError.
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
    """While entered, USR2 and SIGTERM end the computation by way of `requeue`."""

    _ending = False

    def __enter__(self) -> "_Signals":
        self._submitit: Any = signal.signal(WARNING, self._end)
        self._before = signal.signal(signal.SIGTERM, self._end)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(WARNING, self._submitit)
        signal.signal(signal.SIGTERM, self._before)

    def requeue(self) -> None:
        """Queues the job again and ends the process; returns if that is not to be."""
        self._ending = True  # SLURM sends SIGTERM to what it queues again
        if _counts_as_running():
            self._submitit(WARNING, None)

    def _end(self, *_: Any) -> None:
        if Interrupts.under_way is not None:
            # Also where it is saving itself already: a further signal must not cut that off.
            Interrupts.under_way.note(signal.SIGTERM)
        elif not self._ending:
            self.requeue()
            sys.exit(128 + signal.SIGTERM)


def _counts_as_running() -> bool:
    """Whether SLURM would let this job run. It does so for one that must make room until its grace is over; not for one
    that was cancelled, which `scontrol requeue` would call back to life, nor for one that SLURM itself queued again."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={JobEnvironment().job_id}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return said.stdout.split() == ["RUNNING"]
