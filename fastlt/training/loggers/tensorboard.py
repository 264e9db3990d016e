"""TensorBoard: event files in the folder `tensorboard` of the training."""

from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

from fastlt.training.loggers.base import Logger, Place


class TensorBoard(Logger):
    """Writes event files; of a resumed training, later values take the place of earlier ones."""

    def __init__(self, place: Place):
        self._place = place

    def start(self, config: Mapping[str, Any]) -> None:
        purge = self._place.epoch + 1 if self._place.epoch else None
        self._writer = SummaryWriter(str(self._place.folder / "tensorboard"), purge_step=purge)
        self._writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
