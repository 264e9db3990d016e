"""Averages of the weights of a training: a moving average over steps (EMA), or an average over late epochs (SWA)."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

from fastlt.core.errors import UserError
from fastlt.core.ranks import ALONE, Ranks
from fastlt.models.backbones import Model


@dataclass(frozen=True, kw_only=True)
class SWA:
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the weights at the ends of late epochs.

    The averaged network replaces that of the last epoch. Its BatchNorm statistics are recomputed at the end, in one
    more pass over the augmented training images.

    after: the share of the epochs whose weights are not averaged: with 0.75 it is the mean of the last quarter. 1 is
        off. The learning rate should not be 0 there, see last_lr and milestones.
    """

    after: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.after <= 1:
            raise UserError(f"after={self.after}: it must be in [0, 1], a share of the epochs; 1 is off")


class MovingAverage:
    """A moving average of the weights, which is evaluated after every epoch in place of the network itself.

    model: the average, at first a copy of the given model. decay: as in `average_into`.
    """

    def __init__(self, model: Model, decay: float):
        self.model, self.decay, self.epochs = copy.deepcopy(model), decay, 0

    def after_step(self, model: Model) -> None:
        """Adds the weights of the model after a step."""
        average_into(self.model, model, self.decay)

    def after_epoch(self, model: Model, done: float) -> None:
        """Does nothing."""

    def finish(self, renew: Callable[[Model], None]) -> None:
        """Does nothing, as the statistics of BatchNorm are averaged as well."""

    def evaluated(self, model: Model) -> Model:
        """Returns the model that an evaluation sees: the average."""
        return self.model


class EpochAverage:
    """The mean of the weights at the ends of epochs, by the rule of SWA.

    model: the average, at first a copy of the given model. Until `finish`, evaluations see the network itself.
    epochs: the number of epochs that it is the mean of.
    """

    def __init__(self, model: Model, swa: SWA):
        self.model, self.swa, self.epochs, self.finished = copy.deepcopy(model), swa, 0, False

    def after_step(self, model: Model) -> None:
        """Does nothing."""

    def after_epoch(self, model: Model, done: float) -> None:
        """Adds the weights of the model after an epoch. done: the share of the epochs that are over, in (0, 1]."""
        if done > self.swa.after:
            self.epochs += 1
            average_into(self.model, model, 1 - 1 / self.epochs)

    def finish(self, renew: Callable[[Model], None]) -> None:
        """Recomputes the statistics of BatchNorm after the last epoch. renew: recomputes those of a model."""
        renew(self.model)
        self.finished = True

    def evaluated(self, model: Model) -> Model:
        """Returns the model that an evaluation sees: the average once it is finished, else the network itself."""
        return self.model if self.finished else model


def make_average(model: Model, ema: float, swa: SWA) -> MovingAverage | EpochAverage | None:
    """Returns the average of weights that a recipe asks for, or None. ema: decay, 0 is off. swa: at most one is on."""
    if ema:
        return MovingAverage(model, ema)
    return EpochAverage(model, swa) if swa.after < 1 else None


@torch.no_grad()
def average_into(average: Model, model: Model, decay: float) -> None:
    """Updates an average of the weights: average = decay * average + (1 - decay) * model.

    The running statistics of BatchNorm are averaged as well; integer buffers are copied, and so is further state that a
    module of the user's own may have (get_extra_state).
    """
    mine, theirs = average.state_dict(), model.state_dict()
    if further := [name for name, value in theirs.items() if not isinstance(value, torch.Tensor)]:
        average.load_state_dict({**mine, **{name: copy.deepcopy(theirs[name]) for name in further}})
        for name in further:
            del mine[name]
    floats = {name: value for name, value in mine.items() if value.is_floating_point()}
    once = {(value.data_ptr(), value.shape): name for name, value in floats.items()}  # tied weights have several names
    torch._foreach_lerp_([mine[name] for name in once.values()], [theirs[name] for name in once.values()], 1 - decay)
    for name in mine.keys() - floats.keys():
        mine[name].copy_(theirs[name])


@torch.no_grad()
def renew_statistics(
    model: Model, batches: Iterable[Any], forward: Callable[[Model, Any], Any], ranks: Ranks = ALONE
) -> None:
    """Recomputes the running statistics of BatchNorm as their plain means over all batches and ranks.

    model: ends in eval mode. Layers of frozen parts keep their statistics. Without other layers that have some, no
        batch is read.
    batches: this rank's share. forward: a function of model and batch that calls the model.
    """
    model.train()
    layers = [one for one in model.modules() if isinstance(one, _NormBase) and one.training and one.track_running_stats]
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean
    for batch in batches if layers else ():
        forward(model, batch)
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum
        for value in (layer.running_mean, layer.running_var):
            if isinstance(value, torch.Tensor):
                ranks.sum(value).div_(ranks.world)
    model.eval()
