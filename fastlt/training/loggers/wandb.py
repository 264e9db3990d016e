"""Weights & Biases: a run in the folder `wandb` of the training, which `wandb sync` sends."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from fastlt.training.loggers.base import Logger, Place

wandb: Any = importlib.import_module("wandb")  # no dependency of fastlt, so type checkers do not find it


class Wandb(Logger):
    """Logs to wandb, offline unless the environment variable WANDB_MODE or the option `mode` says otherwise.

    project: where the run belongs. options: further keywords of wandb.init, such as `mode`, `entity` and `tags`.
    """

    def __init__(self, place: Place, project: str = "fastlt", **options: Any):
        self._place = place
        self._options = {"project": project, "mode": os.environ.get("WANDB_MODE", "offline"), **options}

    def start(self, config: Mapping[str, Any]) -> None:
        place = self._place
        named = {"name": place.name, "id": place.kept_id("wandb"), "resume": "allow", "dir": str(place.folder)}
        self._run = wandb.init(config=dict(config), **{**named, **self._options})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
