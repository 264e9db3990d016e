"""Trains a representation with regular checkpoints, or reuses or resumes the one in the run folder."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastlt.core import device as machine
from fastlt.core.checkpoint import SCHEMA, before, load_checkpoint, save_checkpoint
from fastlt.core.config import RUN
from fastlt.core.errors import UserError
from fastlt.core.identity import Identity
from fastlt.core.interrupts import Interrupts
from fastlt.core.log import Progress, say
from fastlt.core.words import counted
from fastlt.models.backbones import Model
from fastlt.training.loggers import JSONL, Loggers, check_loggers
from fastlt.training.loggers.base import Place
from fastlt.training.trainer import Trainer


@dataclass(frozen=True)
class Representation:
    """A trained model, and facts about its training.

    model: backbone and classifier, in eval mode.
    key, about: of the Identity that determined the training.
    epoch: the epoch whose weights these are, counted from 1. chosen: how that epoch was chosen, in words.
    seconds: wall time of the training including its evaluations. images: number of images seen in training.
    feature_scale: a power of two that features are divided by for the classifiers of stage 2. The model's own joint
        classifier takes features that are not divided.
    features_key: key of what the features depend on, if that is less than what `key` covers; else "".
    earlier: files that may hold features of an earlier state of the dataset (fastlt.experiment.grown).
    devices: what it was trained on, such as "cpu, 2 threads", one after the other; empty if that is not known.
    """

    model: Model
    key: str
    about: dict[str, Any]
    epoch: int
    chosen: str
    seconds: float
    images: int
    feature_scale: float = 1.0
    features_key: str = ""
    earlier: tuple[Any, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints of a training are written, and what else is written into its folder."""

    save_epochs: int = field(default=1, metadata=RUN)  # write a checkpoint every so many epochs
    save_minutes: float = field(default=10.0, metadata=RUN)  # and within an epoch every so many minutes; 0: never
    # Train anew even if the folder holds another representation or a finished one, which is then replaced. A training
    # of the same settings that was stopped goes on.
    overwrite: bool = field(default=False, metadata=RUN)
    # What the measures of every epoch go to: jsonl (metrics.jsonl, always written), tensorboard, wandb, mlflow,
    # trackio, or package.module:NAME.
    logger: tuple[str, ...] = field(default=(JSONL,), metadata=RUN)
    logger_options: dict[str, Any] = field(default_factory=dict, metadata=RUN)  # {NAME: keyword arguments} of loggers

    def __post_init__(self) -> None:
        if self.save_epochs < 1:
            raise UserError(f"save_epochs={self.save_epochs}: it must be at least 1")
        if self.save_minutes < 0:
            raise UserError(f"save_minutes={self.save_minutes}: it must be 0 (never) or more")
        check_loggers(self.logger, self.logger_options)


EVERY_EPOCH = CheckpointPolicy()


def train_representation(
    identity: Identity,
    fit: Trainer,
    folder: Path,
    policy: CheckpointPolicy = EVERY_EPOCH,
    begun: Callable[[], None] = lambda: None,
) -> Representation:
    """Returns a trained representation: reused if the folder has it, resumed if it is incomplete, else trained.

    identity: what determines the training. A checkpoint with another identity is never reused.
    fit: the training, at its beginning.
    folder: holds checkpoint.pt and metrics.jsonl.
    policy: when checkpoints are written.
    begun: is called before the training, once it is known that the folder holds no other representation.

    A training that was interrupted resumes at the last saved step, on a CPU to the same bits as without the
    interruption. The weights returned are those of the epoch with the highest top-1 accuracy on val, or of the last
    epoch without a val split; with SWA they are the average of the last epochs.

    Raises UserError if the checkpoint is of other settings (unless `overwrite` is set), if the loss is not finite, or
    if a checkpoint cannot be written. Raises Stopped after a signal, when a checkpoint has been written.
    """
    path = folder / "checkpoint.pt"
    state = _known(path, identity, policy.overwrite)
    begun()
    if state is not None and state["finished"]:
        if fit.ranks.main and before(path).exists():  # as the newest was damaged, or a kill came before its removal
            save_checkpoint(state, path)
            before(path).unlink()
        say(f"reusing the representation in {path}")
    else:
        state = _Run(identity, fit, policy, path, state).run()
    fit.model.load_state_dict(state["model"])
    chosen = f"best epoch on {fit.stage.chosen_on}" if state["chosen_on_val"] else "last epoch"
    if averaged := state.get("averaged_epochs", 0):
        chosen = f"average of the last {counted(averaged, 'epoch')}"
    seen = state["seconds"], state["images"]
    facts = identity.about, state["epoch"], chosen, *seen
    return Representation(fit.model.eval(), identity.key, *facts, devices=devices_of(state))


def devices_of(state: dict[str, Any]) -> tuple[str, ...]:
    """Returns what a checkpoint was trained on, as `Representation.devices`."""
    return tuple(state.get("devices", ()))


def _known(path: Path, identity: Identity, overwrite: bool) -> dict[str, Any] | None:
    """Returns the checkpoint to go on from; with `overwrite` only one of this training that is not finished."""
    try:
        state = load_checkpoint(path, identity)
    except UserError:
        if overwrite:
            return None
        raise
    return None if overwrite and state is not None and state["finished"] else state


class _Run:
    """A training and its checkpoint file. state: the checkpoint that it resumes from, if any."""

    def __init__(
        self,
        identity: Identity,
        fit: Trainer,
        policy: CheckpointPolicy,
        path: Path,
        state: dict[str, Any] | None,
    ):
        self.identity, self.fit, self.policy, self.path, self.state = identity, fit, policy, path, state
        self.seconds = 0.0 if state is None else state["seconds"]
        earlier = () if state is None else devices_of(state)
        here = machine.describe(fit.train.device, torch.get_num_threads())
        here = here if fit.ranks.world == 1 else f"{fit.ranks.world} x {here}"
        self.devices = [*earlier, *([] if earlier[-1:] == (here,) else [here])]

    def run(self) -> dict[str, Any]:
        """Trains to the end and returns the final state, which it has saved."""
        fit = self.fit
        if self.state is not None:
            fit.resume(self.state)
            say(f"resuming {self.path} after {self._where()}")
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
                if stop or fit.epoch == fit.schedule.epochs or fit.epoch % self.policy.save_epochs == 0:
                    self._save()
                if stop:
                    self.asked.stop(self._kept_where())
        return self.saved_state

    def _metrics(self) -> contextlib.AbstractContextManager[Loggers | None]:
        if not self.fit.ranks.main:
            return contextlib.nullcontext()
        policy, place = self.policy, Place(self.path.parent, self.fit.epoch, self.state is not None)
        return Loggers(policy.logger, policy.logger_options, place, self.identity.about)

    def _between_steps(self, together: bool) -> None:
        """Saves a checkpoint if one is due or a signal has come, and raises Stopped in the latter case.

        together: whether the ranks have just synchronized. Several ranks do this only then, so that all do it after the
        same step.
        """
        if self.fit.ranks.world > 1 and not together:
            return
        ranks, device, minutes = self.fit.ranks, self.fit.train.device, self.policy.save_minutes
        stop = ranks.any(self.asked.signal is not None, device)
        # Clocks differ, and all ranks take part in a checkpoint, as it holds what they have counted together.
        due = ranks.any(bool(minutes) and time.monotonic() - self.saved > 60 * minutes, device)
        if stop or due:
            self._save()
        if stop:
            self.asked.stop(self._kept_where())

    def _where(self) -> str:
        return f"step {self.fit.step} of epoch {self.fit.epoch + 1}" if self.fit.step else f"epoch {self.fit.epoch}"

    def _kept_where(self) -> str:
        return f"{self.path} holds the training after {self._where()}, the same command goes on there"

    def _state(self) -> dict[str, Any]:
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        about = {"schema": SCHEMA, "key": self.identity.key, "settings": self.identity.about}
        return {**about, **self.fit.state(), "seconds": self.seconds, "devices": self.devices}

    def _save(self) -> None:
        self.saved_state = self._state()
        if self.fit.ranks.main:
            save_checkpoint(self.saved_state, self.path, keep=True)
            if self.saved_state["finished"]:
                before(self.path).unlink(missing_ok=True)
        self.saved = time.monotonic()
