"""Learning rate schedules: warm-up, then cosine or step decay."""

import math
from dataclasses import dataclass, field
from itertools import pairwise

from fastlt.core.errors import UserError

STEPPED = ("batch", "epoch")
WARMUPS = ("linear", "cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class RateConfig:
    """Settings of SGD that stage 1 and stage 2 share.

    warmup_epochs: number W of epochs of a warm-up; 0 is none.
    warmup: how the learning rate rises in it: linear; cosine, along half a period; or constant at warmup_from until it
        ends.
    warmup_from: the share of the top learning rate at which the warm-up begins. Epoch e = 1..W ends at the share
        warmup_from + (1 - warmup_from) e / W if it is linear.
    milestones: numbers of epochs after which the learning rate is multiplied by `factor`. Without milestones it follows
        a cosine.
    factor: of the learning rate at a milestone, in (0, 1].
    nesterov: use Nesterov momentum.
    """

    warmup_epochs: int = 0
    warmup: str = "linear"
    warmup_from: float = 0.0
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise UserError(f"warmup_epochs={self.warmup_epochs}: it must be 0 (none) or more")
        if self.warmup not in WARMUPS:
            raise UserError(
                f"warmup={self.warmup} is unknown: allowed are {', '.join(WARMUPS)}; warmup_epochs=0 is none"
            )
        if self.warmup == "constant" and self.warmup_epochs and not self.warmup_from:
            raise UserError("warmup=constant needs warmup_from=SHARE of lr, such as 0.1")
        if not 0 <= self.warmup_from <= 1:
            raise UserError(f"warmup_from={self.warmup_from}: it must be in [0, 1], a share of lr")
        if any(later <= earlier for earlier, later in pairwise((0, *self.milestones))):
            raise UserError(f"milestones={list(self.milestones)}: they must be numbers of epochs that rise from 1 on")
        if not 0 < self.factor <= 1:
            raise UserError(f"factor={self.factor}: it must be in (0, 1]")


@dataclass(frozen=True)
class Schedule(RateConfig):
    """The learning rate schedule of a training: a warm-up, then a cosine from `lr` to `last_lr`, or steps.

    epochs: number of epochs; 0: nothing is trained. lr: the top learning rate.
    momentum: of SGD. weight_decay: of the optimizer.
    stepped: `batch` changes the rate with every step. `epoch` changes it once, at the start of an epoch, as the paper's
        code does: the first epoch of the cosine already runs a little below `lr`, and the last epoch at `last_lr`.
    last_lr: learning rate at the end of the cosine.
    The rest as in RateConfig.

    Example: after 1 of 4 epochs the cosine is at lr (1 + cos(pi / 4)) / 2.

    >>> schedule = Schedule(epochs=4, lr=0.2, momentum=0.9, weight_decay=5e-4)
    >>> [round(schedule.rate(step, steps_per_epoch=1), 4) for step in range(4)]
    [0.2, 0.1707, 0.1, 0.0293]
    """

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    stepped: str = field(default="batch", kw_only=True)
    last_lr: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 0:
            raise UserError(f"epochs={self.epochs}: it must be 0 (nothing is trained) or more")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr={self.lr}: it must be greater than 0")
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum={self.momentum}: it must be in [0, 1), such as 0.9")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay={self.weight_decay}: it must be 0 (none) or more, such as 5e-4")
        if self.stepped not in STEPPED:
            raise UserError(f"stepped={self.stepped} is unknown: allowed are {', '.join(STEPPED)}")
        if not 0 <= self.last_lr <= self.lr:
            raise UserError(f"last_lr={self.last_lr}: it must be in [0, {self.lr:g}], the top learning rate")
        if self.milestones and self.last_lr:
            raise UserError(f"last_lr={self.last_lr} ends a cosine: leave it or milestones out")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov=true needs a momentum greater than 0")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Returns the learning rate of a step. step: counted from 0 over the whole training."""
        # At most a fifth of the epochs are warm-up, so that a shortened training still reaches the top rate.
        warmup = min(self.warmup_epochs, self.epochs // 5)
        epoch, by_epoch = step // steps_per_epoch, self.stepped == "epoch"
        if epoch < warmup:
            share = (epoch + 1) / warmup if by_epoch else (step + 1) / (warmup * steps_per_epoch)
            risen = {"linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2, "constant": 0.0}[self.warmup]
            return self.lr * (self.warmup_from + (1 - self.warmup_from) * risen)
        if self.milestones:
            return self.lr * self.factor ** sum(epoch >= milestone for milestone in self.milestones)
        if by_epoch:
            done, steps = epoch + 1 - warmup, self.epochs - warmup
        else:
            done, steps = step - warmup * steps_per_epoch, (self.epochs - warmup) * steps_per_epoch
        return self.last_lr + (self.lr - self.last_lr) * 0.5 * (1 + math.cos(math.pi * done / max(steps, 1)))
