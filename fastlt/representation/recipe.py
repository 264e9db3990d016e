"""What a training may add to plain SGD on cross-entropy. All of it is off by default, as in the paper."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastlt.backbones import Model
from fastlt.errors import UserError

COMPILE = ("off", "default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class Recipe:
    """label_smoothing: share of the target that all classes get. mixup: alpha of the Beta law of mixed images. ema:
    decay per step of the average of weights that is evaluated and kept. accumulate: parts that a batch is worked
    through in, to save memory; every part has its own BatchNorm statistics. compile: off, or a mode of torch.compile
    (reduce-overhead replays CUDA graphs)."""

    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    compile: str = "off"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing}: it must be in [0, 1)")
        if self.mixup < 0:
            raise UserError(f"mixup={self.mixup}: it must be 0 (off) or more")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema}: it must be in [0, 1), such as 0.9999; 0 is off")
        if self.accumulate < 1:
            raise UserError(f"accumulate={self.accumulate}: it must be at least 1")
        if self.compile not in COMPILE:
            raise UserError(f"compile={self.compile} is unknown: allowed are {', '.join(COMPILE)}")

    def loss(self, model: torch.nn.Module, images: Tensor, labels: Tensor, key: tuple[int, ...]) -> Tensor:
        """Mean cross-entropy of a batch. key: what is mixed with what is a pure function of it."""
        if not self.mixup:
            return self._entropy(model(images), labels)
        rng = np.random.default_rng(key)
        share = float(rng.beta(self.mixup, self.mixup))
        other = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
        logits = model(share * images + (1 - share) * images[other])
        return share * self._entropy(logits, labels) + (1 - share) * self._entropy(logits, labels[other])

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)


@torch.no_grad()
def average_into(average: Model, model: Model, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, statistics of BatchNorm included; counters are copied."""
    mine, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])
