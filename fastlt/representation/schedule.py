"""The learning rate of every step."""

import math
from dataclasses import dataclass

from fastlt.errors import UserError

STEPPED = ("batch", "epoch")


@dataclass(frozen=True)
class Schedule:
    """SGD: epochs, top learning rate, momentum, weight decay, epochs of linear warm-up, then cosine to 0.

    stepped: the cosine moves with every `batch`, or once an `epoch`, before it, as the authors' code does: its first
    epoch runs a step below the top, its last one at 0.
    """

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: int = 0
    stepped: str = "batch"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs={self.epochs}: it must be at least 1")
        if self.lr <= 0:
            raise UserError(f"lr={self.lr}: it must be greater than 0")
        if self.stepped not in STEPPED:
            raise UserError(f"stepped={self.stepped} is unknown: allowed are {', '.join(STEPPED)}")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over the whole training."""
        # A training cut short keeps a peak: at most a fifth of it is warm-up.
        warmup = min(self.warmup_epochs, self.epochs // 5)
        if step < warmup * steps_per_epoch:
            return self.lr * (step + 1) / (warmup * steps_per_epoch)
        if self.stepped == "epoch":
            return cosine(self.lr, step // steps_per_epoch + 1 - warmup, self.epochs - warmup)
        return cosine(self.lr, step - warmup * steps_per_epoch, (self.epochs - warmup) * steps_per_epoch)


def cosine(lr: float, step: int, steps: int) -> float:
    """Half a cosine from `lr` at step 0 to 0 at `steps`."""
    return 0.5 * lr * (1 + math.cos(math.pi * step / max(steps, 1)))
