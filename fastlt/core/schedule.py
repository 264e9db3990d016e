"""The learning rate of every step."""

import math
from dataclasses import dataclass
from itertools import pairwise

from fastlt.core.errors import UserError

STEPPED = ("batch", "epoch")


@dataclass(frozen=True)
class Schedule:
    """SGD: epochs, top learning rate, momentum (nesterov: its form by Nesterov), weight decay, epochs of linear
    warm-up, then a cosine from the top to `last_lr`, or steps.

    warmup_from: share of the top that the warm-up rises from. Of W epochs of it, epoch e = 1..W runs at the share
    warmup_from + (1 - warmup_from) e / W, or its batches rise to that. milestones: numbers of epochs after which the
    rate is multiplied by `factor`; with them there is no cosine. stepped: the rate moves with every `batch`, or once an
    `epoch`, before it, as the authors' code does: the first epoch of their cosine runs a step below the top, the last
    one at `last_lr`.
    """

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: int = 0
    stepped: str = "batch"
    warmup_from: float = 0.0
    last_lr: float = 0.0
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs={self.epochs}: it must be at least 1")
        if self.lr <= 0:
            raise UserError(f"lr={self.lr}: it must be greater than 0")
        if self.stepped not in STEPPED:
            raise UserError(f"stepped={self.stepped} is unknown: allowed are {', '.join(STEPPED)}")
        if self.warmup_epochs < 0:
            raise UserError(f"warmup_epochs={self.warmup_epochs}: it must be 0 (none) or more")
        if not 0 <= self.warmup_from <= 1:
            raise UserError(f"warmup_from={self.warmup_from}: it must be in [0, 1], a share of lr")
        if not 0 <= self.last_lr <= self.lr:
            raise UserError(f"last_lr={self.last_lr}: it must be in [0, {self.lr:g}], the top learning rate")
        if any(later <= earlier for earlier, later in pairwise((0, *self.milestones))):
            raise UserError(f"milestones={list(self.milestones)}: they must be numbers of epochs that rise from 1 on")
        if self.milestones and self.last_lr:
            raise UserError(f"last_lr={self.last_lr} ends a cosine: leave it or milestones out")
        if not 0 < self.factor <= 1:
            raise UserError(f"factor={self.factor}: it must be in (0, 1]")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov=true needs a momentum greater than 0")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over the whole training."""
        # A training cut short keeps a peak: at most a fifth of it is warm-up.
        warmup = min(self.warmup_epochs, self.epochs // 5)
        epoch, by_epoch = step // steps_per_epoch, self.stepped == "epoch"
        if epoch < warmup:
            share = (epoch + 1) / warmup if by_epoch else (step + 1) / (warmup * steps_per_epoch)
            return self.lr * (self.warmup_from + (1 - self.warmup_from) * share)
        if self.milestones:
            return self.lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        if by_epoch:
            done, steps = epoch + 1 - warmup, self.epochs - warmup
        else:
            done, steps = step - warmup * steps_per_epoch, (self.epochs - warmup) * steps_per_epoch
        return self.last_lr + (self.lr - self.last_lr) * 0.5 * (1 + math.cos(math.pi * done / max(steps, 1)))
