"""In the place of a grid's cell: trains and classifies as slowly as a test wants, and writes down what it does."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from fastlt.core.interrupts import Interrupts

STEPS = 6
PAUSE = 3  # the step after which it waits for a file `go`, or a signal


def run_cell(frozen: Path, threads: int) -> str:
    """A training of STEPS steps that goes on after its checkpoint, then, where `stage2` is there, a stage 2."""
    folder = frozen.with_suffix("")
    checkpoint = folder / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    _write(folder / "starts", step)
    if (folder / "broken").exists():
        raise ValueError("a broken cell")
    with Interrupts() as asked:
        while step < STEPS:
            step += 1
            _write(folder / "steps", step)
            while step == PAUSE and asked.signal is None and not (folder / "go").exists():
                time.sleep(0.01)
            if asked.signal is not None:
                _write(folder / "saving", step)
                _wait(lambda: not (folder / "slow").exists())
                checkpoint.write_text(str(step))
                asked.stop(f"{checkpoint.name} holds step {step}")
        checkpoint.write_text(str(step))
        if (folder / "late").exists() and not (folder / "finished").exists():
            _write(folder / "finished", step)
            _wait(lambda: asked.signal is not None)
    if (folder / "stage2").exists():
        _write(folder / "classifying", step)
        _wait((folder / "go").exists)
    (folder / "results.json").write_text(json.dumps({"threads": threads}))
    return "done"


def _wait(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.01)


def _write(path: Path, number: int) -> None:
    with path.open("a") as file:
        file.write(f"{number}\n")
