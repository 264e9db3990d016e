"""Trainings and predictions in this process, which spares the start of a new one, and what they leave."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from fastlt.train import main

SMALL = (
    "data=data", "protocol=cifar_lt_200", "protocol.batch=16", "protocol.warmup_epochs=0", "protocol.lr=0.01",
    "protocol.crt.batch=16", "protocol.lws.batch=16", "sampler=class", "epochs=3", "threads=2",
)  # fmt: skip
ASKED_TO_STOP = """
import os, signal
import fastlt.training.trainer as f
step_before = f.Trainer._step
def step(fit, parts):
    step_before(fit, parts)
    if fit.epoch == 1 and fit.step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
f.Trainer._step = step
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: object
    stderr: str


def inside(command: Callable[[], Any], cwd: Path) -> Ended:
    """Runs a command that may exit in the folder `cwd`."""
    error, code = io.StringIO(), 0
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, {"HYDRA_FULL_ERROR": ""}),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(error),
    ):
        try:
            command()
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, error.getvalue())


def train_inside(*overrides: str, cwd: Path) -> Ended:
    """`python -m fastlt.train OVERRIDES`, of which a later one for the same key goes before an earlier one."""
    last = {override.partition("=")[0]: override for override in overrides}
    with mock.patch.object(sys, "argv", ["train", *last.values()]):
        return inside(main, cwd)


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
