"""The interface of loggers, which pass the measures of a training on to a tool that draws or keeps them."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fastlt.core.files import write_file


class Logger(Protocol):
    """What is told of a training. A logger may raise anything: the training goes on without it, and a line says so."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Called once, before the first epoch. config: settings of the training, by key, as plain values."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Called after every epoch. step: the epoch, counted from 1. values: numbers by name, such as `loss`."""
        ...

    def close(self) -> None:
        """Called once, at the end of the training, also if it was stopped or failed."""
        ...


class Place(NamedTuple):
    """What a logger is made with: LOGGER(place, **options).

    folder: of the training, for files. epoch: the epochs that are done already.
    resumed: whether the training was begun before, and goes on now.
    """

    folder: Path
    epoch: int
    resumed: bool = False

    @property
    def name(self) -> str:
        """Returns the name of the training for people: that of its folder."""
        return self.folder.resolve().name

    def kept_id(self, logger: str, make: Any = lambda: uuid.uuid4().hex) -> str:
        """Returns the name under which a tool knows this training; a resumed training has the one it began with.

        It is kept in the file LOGGER.id of the folder. logger: its name. make: returns a new one.
        """
        path = self.folder / f"{logger}.id"
        if not (self.resumed and path.exists()):
            write_file(path, make())
        return path.read_text(encoding="utf-8")
