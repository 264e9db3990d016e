"""A training survives whatever ends it: killed or asked to stop at any moment, it ends with the same bits."""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Server, run
from pictures import Pictures, conversion

from fastlt.data.convert import convert

SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP
KILLS = int(os.environ.get("FASTLT_TRAINING_KILLS", "4"))
SMALL = (
    "data=data", "protocol=cifar_lt_200", "protocol.batch=16", "epochs=3", "threads=1", "classifiers=[joint]",
    "save_minutes=0.01", "protocol.batch_hook=mixup", "protocol.ema=0.9", "protocol.label_smoothing=0.1",
)  # fmt: skip


@pytest.fixture
def trainings() -> Iterator[Server]:
    with contextlib.closing(Server()) as server:
        yield server


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    return a == b


def result(folder: Path) -> tuple[dict, list[dict]]:
    """Everything of a training but its times, and the checksums of lines that hold them."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    del state["seconds"]
    for line in lines:
        del line["images_per_second"], line["crc32"]
    return state, lines


def test_killed_or_stopped_at_random_moments_it_ends_with_the_same_bits(trainings: Server, tmp_path: Path) -> None:
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), tmp_path / "data", workers=1)
    server, log = trainings, tmp_path / "log.txt"
    log.touch()

    def begin(folder: str) -> int:
        return server.start(["-m", "fastlt.train", *SMALL, f"run={folder}"], tmp_path, stderr=str(log))

    start = time.monotonic()
    begin("whole")
    assert server.wait() == 0
    length = time.monotonic() - start
    whole = result(tmp_path / "whole")
    assert whole[0]["finished"] and len(whole[1]) == 3
    chance = random.Random(1)
    kills = rounds = 0
    while kills < KILLS or "resuming" not in log.read_text():  # all may have come before the first checkpoint
        rounds += 1
        assert rounds < 30, "no training goes on from a checkpoint"
        code = None
        while code != 0:
            child = begin(f"cut{rounds}")
            time.sleep(chance.random() * length)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, chance.choice(SIGNALS))
            code = server.wait()
            assert code in (0, *(-number for number in SIGNALS), *(128 + number for number in SIGNALS[1:])), code
            kills += code != 0
        assert same(result(tmp_path / f"cut{rounds}"), whole)
        assert not (tmp_path / f"cut{rounds}" / "checkpoint.before.pt").exists()


def test_a_signal_saves_says_so_and_exits_by_convention(tmp_path: Path) -> None:
    convert(Pictures(counts=(120, 60, 25, 8), pixels=True), conversion(), tmp_path / "data", workers=1)
    code = (
        "import os, signal, sys, fastlt.training.trainer as f\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # these tests may run under nohup, which ignores it
        "step_before = f.Trainer._step\n"
        "def step(fit, parts):\n"
        "    step_before(fit, parts)\n"
        "    if fit.epoch == 1 and fit.step == 5:\n"
        "        number = int(sys.argv[-1].removeprefix('seed='))\n"
        "        for _ in range(2 if number == signal.SIGHUP else 1):  # when a terminal is closed, several send it\n"
        "            os.kill(os.getpid(), number)\n"
        "f.Trainer._step = step\n"
        "from fastlt.train import main\n"
        "main()\n"
    )
    (tmp_path / "asked.py").write_text(code)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        folder = f"run{number.value}"
        done = run("asked.py", *SMALL, f"run={folder}", f"seed={number.value}", cwd=tmp_path)
        assert done.returncode == 128 + number
        last = done.stderr.splitlines()[-1]
        assert last == (
            f"stopped by {number.name}: {folder}/checkpoint.pt holds the training after step 5 of epoch 2, the same "
            "command goes on there"
        )
        state = torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)
        assert (state["epoch"], state["step"], state["finished"]) == (1, 5, False)
