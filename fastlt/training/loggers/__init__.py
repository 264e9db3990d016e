"""Loggers: metrics.jsonl, which every training writes, and tools that draw or keep the same measures.

Each is a file with a class that is made as NAME(place, **options), and a row of the table LOGGERS. A package that a
logger needs is imported only if the logger is asked for.
"""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fastlt.core.errors import UserError, first_line
from fastlt.core.log import regret
from fastlt.core.metrics import METRICS_FILE, MetricsFile
from fastlt.registry import call_part, check_options, find_part
from fastlt.training.loggers.base import Logger, Place

JSONL = "jsonl"
LOGGERS = {"tensorboard": "TensorBoard", "wandb": "Wandb", "mlflow": "Mlflow", "trackio": "Trackio"}  # {package: class}


def check_loggers(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks loggers before any work is done.

    names: values of the key `logger`: `jsonl`, keys of LOGGERS, or `package.module:NAME` of your own.
    options: keyword arguments by logger; one of your own is named by NAME alone.

    Raises UserError, in one line, for an unknown name, a package that is missing, and options that a logger lacks.
    """
    for name in names:
        if name in LOGGERS and not _installed(name):
            raise UserError(f"logger={name} needs the package {name}: pip install {name}")
        if name != JSONL:
            check_options("logger", name, _part(name), options.get(_short(name), {}), 1)
    known = [*LOGGERS, *(_short(name) for name in names if name not in (JSONL, *LOGGERS))]
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"logger_options.{unknown[0]}: allowed are logger_options.NAME of {', '.join(known)}")


class Loggers:
    """All loggers of a training: metrics.jsonl and those that were asked for. It is a context manager.

    names, options: as in `check_loggers`. place: of the training. config: settings that determine the training.

    A logger that raises an exception is left out from then on, which is a line at the end of the command.
    """

    def __init__(
        self, names: Sequence[str], options: Mapping[str, Mapping[str, Any]], place: Place, config: Mapping[str, Any]
    ):
        self._file = MetricsFile(place.folder / METRICS_FILE, place.epoch)
        self._alive: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            if name == JSONL:
                continue
            with self._guarded(name, f"epoch {place.epoch + 1}"):
                logger = call_part("logger", name, _part(name), options.get(_short(name), {}), place)
                self._alive[name] = logger
                logger.start(config)

    def write(self, **values: Any) -> None:
        """Passes on the measures of an epoch. values: numbers by name, among them `epoch`.

        Raises NotWritten if metrics.jsonl cannot be written.
        """
        self._file.write(**values)
        told = {name: value for name, value in values.items() if name != "epoch"}
        for name, logger in list(self._alive.items()):
            with self._guarded(name, f"epoch {values['epoch']}"):
                logger.log(values["epoch"], told)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, *error: object) -> None:
        for name, logger in list(self._alive.items()):
            with self._guarded(name, "its end"):
                logger.close()
        self._file.__exit__(*error)

    @contextlib.contextmanager
    def _guarded(self, name: str, before: str) -> Any:
        """Turns an exception inside into a line at the end of the command. What is printed goes to stderr."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # a tool of others, perhaps without a network, must not end a training
            regret(f"logger {name} ends before {before} ({first_line(error)}); metrics.jsonl has everything")
            self._alive.pop(name, None)


def _installed(package: str) -> bool:
    """Returns whether a package is there; the folder `wandb` that wandb itself leaves behind is none."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def _part(name: str) -> Any:
    if name in LOGGERS:
        try:
            return getattr(importlib.import_module(f"{__name__}.{name}"), LOGGERS[name])
        except Exception as error:  # packages of others may raise anything
            raise UserError(f"logger={name}: importing the package {name} fails ({first_line(error)})") from error
    return find_part("logger", name, dict.fromkeys((JSONL, *LOGGERS)))


def _short(name: str) -> str:
    return name.rpartition(":")[2]
