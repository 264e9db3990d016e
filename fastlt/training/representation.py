"""Training a representation, or taking the one that is there; checkpoints in between."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastlt.core.checkpoint import SCHEMA, before, load_checkpoint, save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.interrupts import Interrupts
from fastlt.core.log import MetricsFile, Progress, say
from fastlt.core.settings import Settings
from fastlt.models.backbones import Model
from fastlt.training.trainer import Trainer


@dataclass(frozen=True)
class Representation:
    """A trained model with what is known of its training. about: what determined it, as in Settings. epoch: whose
    weights these are, counted from 1. chosen: how that epoch was chosen. seconds: wall time of training and its
    evaluations. images: seen in training."""

    model: Model
    key: str
    about: dict[str, Any]
    epoch: int
    chosen: str
    seconds: float
    images: int


@dataclass(frozen=True)
class CheckpointPolicy:
    """Where a training is kept, and when: after so many epochs, and after so many minutes without a checkpoint (0:
    never). overwrite: what the folder holds is replaced. tensorboard: metrics for it too."""

    folder: Path
    save_epochs: int = 1
    save_minutes: float = 10.0
    overwrite: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.save_epochs < 1:
            raise UserError(f"save_epochs={self.save_epochs}: it must be at least 1")
        if self.save_minutes < 0:
            raise UserError(f"save_minutes={self.save_minutes}: it must be 0 (never) or more")


def train_representation(settings: Settings, fit: Trainer, keeping: CheckpointPolicy) -> Representation:
    """Trains, or takes what the folder's checkpoint.pt holds: a finished representation is reused, one that was cut off
    goes on behind the last step that was saved, to the same bits on a CPU.

    The weights returned are those of the best epoch on val (top-1), or of the last epoch where there is no val. Raises
    UserError if the checkpoint is of other settings (and `overwrite` is not set), if the loss is not finite, or if a
    checkpoint cannot be written; Stopped, after saving, when SIGINT or SIGTERM asked for it.
    """
    path = keeping.folder / "checkpoint.pt"
    state = None if keeping.overwrite else load_checkpoint(path, settings)
    if state is not None and state["finished"]:
        say(f"reusing the representation in {path}")
    else:
        state = _Run(settings, fit, keeping, path, state).run()
    fit.model.load_state_dict(state["model"])
    chosen = f"best epoch on {fit.stage.chosen_on}" if state["chosen_on_val"] else "last epoch"
    seen = state["seconds"], state["images"]
    return Representation(fit.model.eval(), settings.key, settings.about, state["epoch"], chosen, *seen)


class _Run:
    def __init__(
        self,
        settings: Settings,
        fit: Trainer,
        keeping: CheckpointPolicy,
        path: Path,
        state: dict[str, Any] | None,
    ):
        self.settings, self.fit, self.keeping, self.path, self.state = settings, fit, keeping, path, state
        self.seconds = 0.0 if state is None else state["seconds"]

    def run(self) -> dict[str, Any]:
        """Trains to the end; the finished state, which is saved."""
        fit = self.fit
        if self.state is not None:
            fit.resume(self.state)
            say(f"resuming {self.path} behind {self._where()}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.saved = self.clock = time.monotonic()
        cuda = [fit.train.device] if fit.train.device.type == "cuda" else []
        total = fit.batch * fit.steps * fit.schedule.epochs
        with (
            self._metrics() as metrics,
            Progress(fit.stage.name, total, done=fit.images) as progress,
            Interrupts() as self.asked,
            torch.random.fork_rng(cuda),
        ):
            fit.seed_random(self.state)
            while fit.epoch < fit.schedule.epochs:
                row = fit.finish_epoch(progress, self._between_steps)
                if metrics is not None:
                    metrics.write(**row)
                stop = fit.ranks.any(self.asked.signal is not None, fit.train.device)
                if stop or fit.epoch == fit.schedule.epochs or fit.epoch % self.keeping.save_epochs == 0:
                    self._save()
                if stop:
                    self.asked.stop(self._kept_where())
        return self.saved_state

    def _metrics(self) -> contextlib.AbstractContextManager[MetricsFile | None]:
        if not self.fit.ranks.main:
            return contextlib.nullcontext()
        return MetricsFile(self.path.with_name("metrics.jsonl"), self.fit.epoch, self.keeping.tensorboard)

    def _between_steps(self, together: bool) -> None:
        """Saves if it is time to, and stops if asked to: behind the same step on all ranks, so they agree on it."""
        if self.fit.ranks.world > 1 and not together:
            return
        stop = self.fit.ranks.any(self.asked.signal is not None, self.fit.train.device)
        minutes = self.keeping.save_minutes
        if stop or (minutes and time.monotonic() - self.saved > 60 * minutes):
            self._save()
        if stop:
            self.asked.stop(self._kept_where())

    def _where(self) -> str:
        return f"step {self.fit.step} of epoch {self.fit.epoch + 1}" if self.fit.step else f"epoch {self.fit.epoch}"

    def _kept_where(self) -> str:
        return f"{self.path} holds the training behind {self._where()}, the same command goes on there"

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        about = {"schema": SCHEMA, "key": self.settings.key, "settings": self.settings.about}
        return {**about, **self.fit.state(), "seconds": self.seconds}

    def _save(self) -> None:
        self.saved_state = self._state()
        if self.fit.ranks.main:
            save_checkpoint(self.saved_state, self.path, keep=True)
            if self.saved_state["finished"]:
                before(self.path).unlink(missing_ok=True)
        self.saved = time.monotonic()
