"""What a training may add to plain SGD on cross-entropy, or put in its place: off by default, as in the paper."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.longtail.losses import make_loss
from fastlt.models.backbones import Model
from fastlt.registry import is_own

COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
Criterion = Callable[[Tensor, Tensor], Tensor]  # logits [N, C], labels [N] -> mean loss of the batch


@dataclass(frozen=True)
class Recipe:
    """label_smoothing: share of the target that all classes get. mixup: alpha of the Beta law of mixed images. ema:
    decay per step of the average of weights that is evaluated and kept. accumulate: parts that a batch is worked
    through in, to save memory; every part has its own BatchNorm statistics. compile: off, or a mode of torch.compile
    (reduce-overhead replays CUDA graphs). loss_name, loss_options: of losses/. optimizer, optimizer_options: as in
    `make_optimizer`. counts: training images per class,
    which every loss but cross_entropy is made with."""

    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    compile: str = "off"
    loss_name: str = "cross_entropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "sgd"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[int, ...] = ()

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
        try:
            if self.counts or not is_own(self.loss_name):  # which may need to know how many classes there are
                make_loss(self.loss_name, torch.tensor(self.counts or (1, 1)), 0.0, self.loss_options)
        except UserError as error:
            raise UserError(f"protocol.{error}".replace(" loss_options.", " protocol.loss_options.")) from None
        if self.loss_name == "cross_entropy" and self.loss_options:
            raise UserError(
                f"protocol.loss_options={dict(self.loss_options)}: protocol.loss=cross_entropy takes "
                "protocol.label_smoothing in its place"
            )
        if self.loss_name != "cross_entropy" and self.label_smoothing:
            raise UserError(
                f"protocol.label_smoothing={self.label_smoothing} belongs to protocol.loss=cross_entropy, not to "
                f"{self.loss_name}: leave one of the two out"
            )

    def make_criterion(self, progress: float, device: torch.device) -> Criterion:
        """The mean loss of a batch. progress: share of the epochs that are done, in [0, 1)."""
        if self.loss_name == "cross_entropy":
            # Not the mean of make_loss's values: its last bits differ, and with them those of every training so far.
            smoothed = partial(functional.cross_entropy, label_smoothing=self.label_smoothing)
            return lambda logits, labels: smoothed(logits.float(), labels)
        assert self.counts, "this loss is made with the sizes of the classes"
        each = make_loss(self.loss_name, torch.tensor(self.counts, device=device), progress, self.loss_options)
        return lambda logits, labels: each(logits, labels).mean()

    def loss(
        self, model: torch.nn.Module, images: Tensor, labels: Tensor, key: tuple[int, ...], criterion: Criterion
    ) -> Tensor:
        """Mean loss of a batch by a criterion of `make_criterion`. key: what is mixed with what is a pure function of
        it."""
        if not self.mixup:
            return criterion(model(images), labels)
        rng = np.random.default_rng(key)
        share = float(rng.beta(self.mixup, self.mixup))
        other = torch.from_numpy(rng.permutation(len(labels))).to(labels.device, non_blocking=True)
        logits = model(share * images + (1 - share) * images[other])
        return share * criterion(logits, labels) + (1 - share) * criterion(logits, labels[other])


@torch.no_grad()
def average_into(average: Model, model: Model, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, statistics of BatchNorm included; counters are copied."""
    mine, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])
