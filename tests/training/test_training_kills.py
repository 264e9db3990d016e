"""A training survives whatever ends it: killed or asked to stop at any moment, it ends with the same bits."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from pictures import Pictures, conversion

from fastlt.data.convert import convert

SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
KILLS = int(os.environ.get("FASTLT_TRAINING_KILLS", "4"))
SMALL = (
    "data=data", "protocol=cifar_lt_200", "protocol.batch=16", "epochs=3", "threads=1", "classifiers=[joint]",
    "save_minutes=0.0005", "protocol.batch_hook=mixup", "protocol.ema=0.9", "protocol.label_smoothing=0.1",
)  # fmt: skip
# Imports everything once, then runs a training in a child for every line of arguments it is given.
TRAININGS = """
import os, sys
import fastlt.data.pipeline.graph_cpu
from fastlt.train import main
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["train", *line.split()]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main()
        except SystemExit as end:
            os._exit(end.code or 0)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Trainings:
    """Trainings in processes of their own, one at a time, in the folder `place`."""

    def __init__(self, place: Path):
        self._log = (place / "log.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-c", TRAININGS],
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def start(self, folder: str) -> int:
        """Begins one; its process number."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join([*SMALL, f"run={folder}"]) + "\n")
        self._process.stdin.flush()
        return self._line()

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        return self._line()

    def _line(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Trainings]:
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), tmp_path / "data", workers=1)
    running = Trainings(tmp_path)
    yield running
    running.close()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    return a == b


def result(folder: Path) -> tuple[dict, list[dict]]:
    """Everything of a training but its times."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for timed, name in [(state, "seconds"), *((line, "images_per_second") for line in lines)]:
        del timed[name]
    return state, lines


def test_killed_or_stopped_at_random_moments_it_ends_with_the_same_bits(trainings: Trainings, tmp_path: Path) -> None:
    start = time.monotonic()
    trainings.start("whole")
    assert trainings.wait() == 0
    length = time.monotonic() - start
    whole = result(tmp_path / "whole")
    assert whole[0]["finished"] and len(whole[1]) == 3
    chance = random.Random(1)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        code = None
        while code != 0:
            child = trainings.start(f"cut{rounds}")
            time.sleep(chance.random() * length)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, chance.choice(SIGNALS))
            code = trainings.wait()
            assert code in (0, *(-number for number in SIGNALS), 128 + signal.SIGTERM, 128 + signal.SIGINT), code
            kills += code != 0
        assert same(result(tmp_path / f"cut{rounds}"), whole)
        assert not (tmp_path / f"cut{rounds}" / "checkpoint.before.pt").exists()
    assert "resuming" in (tmp_path / "log.txt").read_text()


def test_a_signal_saves_says_so_and_exits_by_convention(tmp_path: Path) -> None:
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), tmp_path / "data", workers=1)
    code = (
        "import os, sys, fastlt.training.trainer as f\n"
        "step_before = f.Trainer._step\n"
        "def step(fit, parts):\n"
        "    step_before(fit, parts)\n"
        "    if fit.epoch == 1 and fit.step == 5:\n"
        "        os.kill(os.getpid(), int(sys.argv[-1].removeprefix('seed=')))\n"
        "f.Trainer._step = step\n"
        "from fastlt.train import main\n"
        "main()\n"
    )
    (tmp_path / "asked.py").write_text(code)
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = f"run{number.value}"
        done = run("asked.py", *SMALL, f"run={folder}", f"seed={number.value}", cwd=tmp_path)
        assert done.returncode == 128 + number
        last = done.stderr.splitlines()[-1]
        assert last == (
            f"stopped by {number.name}: {folder}/checkpoint.pt holds the training behind step 5 of epoch 2, the same "
            "command goes on there"
        )
        state = torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)
        assert (state["epoch"], state["step"], state["finished"]) == (1, 5, False)
