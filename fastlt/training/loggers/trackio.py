"""Trackio: a run in its local database (TRACKIO_DIR), which `trackio show` draws."""

import importlib
import uuid
from collections.abc import Mapping
from typing import Any

from fastlt.training.loggers.base import Logger, Place

trackio: Any = importlib.import_module("trackio")  # no dependency of fastlt, so type checkers do not find it


class Trackio(Logger):
    """Logs to Trackio.

    project: where the run belongs. options: further keywords of trackio.init, such as `space_id`.
    """

    def __init__(self, place: Place, project: str = "fastlt", **options: Any):
        self._place, self._options = place, {"project": project, "embed": False, **options}

    def start(self, config: Mapping[str, Any]) -> None:
        name = self._place.kept_id("trackio", lambda: f"{self._place.name}-{uuid.uuid4().hex[:8]}")
        self._run = trackio.init(name=name, config=dict(config), resume="allow", **self._options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        trackio.finish()  # and not that of the run, which Trackio would finish once more as the process ends
