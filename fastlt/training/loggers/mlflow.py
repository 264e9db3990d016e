"""MLflow: a run in the store that MLFLOW_TRACKING_URI names, or in MLflow's own default."""

import importlib
import time
from collections.abc import Mapping
from typing import Any

from fastlt.training.loggers.base import Logger, Place

mlflow: Any = importlib.import_module("mlflow")  # no dependency of fastlt, so type checkers do not find it

LONGEST = 500  # characters of a parameter's value; longer ones are cut, as stores refuse them


class Mlflow(Logger):
    """Logs to MLflow.

    experiment: name of the experiment, which is made if it is missing. tracking_uri: a store, such as
    `sqlite:///mlflow.db` or the address of a server.
    """

    def __init__(self, place: Place, experiment: str = "fastlt", tracking_uri: str | None = None):
        self._place, self._experiment, self._uri = place, experiment, tracking_uri

    def start(self, config: Mapping[str, Any]) -> None:
        self._client = mlflow.MlflowClient(self._uri)
        self._run = self._place.kept_id("mlflow", self._created)
        if not self._place.resumed:
            given = [mlflow.entities.Param(key, str(value)[:LONGEST]) for key, value in config.items()]
            self._client.log_batch(self._run, params=given)

    def _created(self) -> str:
        known = self._client.get_experiment_by_name(self._experiment)
        number = known.experiment_id if known else self._client.create_experiment(self._experiment)
        return self._client.create_run(number, run_name=self._place.name).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(
            self._run, [mlflow.entities.Metric(name, float(value), now, step) for name, value in values.items()]
        )

    def close(self) -> None:
        self._client.set_terminated(self._run)
