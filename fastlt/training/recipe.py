"""What a training may add to plain SGD on cross-entropy, or put in its place: off by default, as in the paper."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.errors import UserError
from fastlt.longtail.losses import LOSSES, make_loss
from fastlt.models.backbones import Model
from fastlt.registry import is_own
from fastlt.training.batch_hooks import make_batch_hook

COMPILE = ("off", "default", "reduce-overhead", "max-autotune")
Criterion = Callable[[Tensor, Tensor], Tensor]  # logits [N, C], labels [N] -> mean loss of the batch


@dataclass
class RecipeConfig:
    """What the trainer does beyond plain SGD on cross-entropy.

    Every field is a key protocol.NAME of the command, too: a new setting is one line here, and its use."""

    loss: str = "cross_entropy"  # or another of fastlt/longtail/losses/
    loss_options: dict[str, Any] = field(default_factory=dict)  # the loss's own; default: the values of its paper
    label_smoothing: float = 0.0  # share of the target that all classes get, of cross_entropy
    optimizer: str = "sgd"  # or adamw; momentum and nesterov are sgd's
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # further keywords, such as betas of adamw
    batch_hook: str = "none"  # changes the images and labels of a batch on the device: mixup, or an own one
    batch_hook_options: dict[str, Any] = field(default_factory=dict)
    clip_norm: float = 0.0  # longest gradient of all parameters together that a step takes; 0: as long as it is
    ema: float = 0.0  # decay per step of the average of weights that is evaluated and kept; 0: off


@dataclass
class Recipe(RecipeConfig):
    """With how a batch is computed. accumulate: parts that it is worked through in, to save memory; every part has its
    own BatchNorm statistics. compile: off, or a mode of torch.compile (reduce-overhead replays CUDA graphs). counts:
    training images per class, which every loss but cross_entropy is made with."""

    accumulate: int = 1
    compile: str = "off"
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._hook = make_batch_hook(self.batch_hook, self.batch_hook_options)
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing}: it must be in [0, 1)")
        if self.clip_norm < 0:
            raise UserError(f"protocol.clip_norm={self.clip_norm}: it must be 0 (off) or more")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema}: it must be in [0, 1), such as 0.9999; 0 is off")
        if self.accumulate < 1:
            raise UserError(f"accumulate={self.accumulate}: it must be at least 1")
        if self.compile not in COMPILE:
            raise UserError(f"compile={self.compile} is unknown: allowed are {', '.join(COMPILE)}")
        try:
            if self.counts or not is_own(self.loss):  # which may need to know how many classes there are
                make_loss(self.loss, torch.tensor(self.counts or (1, 1)), 0.0, self.loss_options)
        except UserError as error:
            raise UserError(f"protocol.{error}".replace(" loss_options.", " protocol.loss_options.")) from None
        if self.loss == "cross_entropy" and self.loss_options:
            raise UserError(
                f"protocol.loss_options={dict(self.loss_options)}: protocol.loss=cross_entropy takes "
                "protocol.label_smoothing in its place"
            )
        if self.loss != "cross_entropy" and self.label_smoothing:
            raise UserError(
                f"protocol.label_smoothing={self.label_smoothing} belongs to protocol.loss=cross_entropy, not to "
                f"{self.loss}: leave one of the two out"
            )

    def make_criterion(self, progress: float, device: torch.device) -> Criterion:
        """The mean loss of a batch. progress: share of the epochs that are done, in [0, 1)."""
        if self.loss == "cross_entropy":
            # Not the mean of make_loss's values: its last bits differ, and with them those of every training so far.
            smoothed = partial(functional.cross_entropy, label_smoothing=self.label_smoothing)
            return lambda logits, labels: smoothed(logits.float(), labels)
        assert self.counts, "this loss is made with the sizes of the classes"
        each = make_loss(self.loss, torch.tensor(self.counts, device=device), progress, self.loss_options)
        return lambda logits, labels: each(logits, labels).mean()

    def batch_loss(
        self, model: torch.nn.Module, images: Tensor, labels: Tensor, key: tuple[int, ...], criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch by a criterion of `make_criterion`, behind the batch hook, and the logits [N, C] that it
        is of. key: as in `make_batch_hook`."""
        images, changed = self._hook(images, labels, key)
        logits = model(images)
        if not isinstance(changed, Tensor):
            return sum((share * criterion(logits, part) for share, part in changed), logits.new_zeros(())), logits
        if changed.is_floating_point() and self.loss in LOSSES and self.loss != "cross_entropy":
            raise UserError(
                f"protocol.batch_hook={self.batch_hook} gives shares of classes, {list(changed.shape)}, which "
                f"protocol.loss={self.loss} does not take: give [(share, labels), ...], or take cross_entropy"
            )
        return criterion(logits, changed), logits


@torch.no_grad()
def average_into(average: Model, model: Model, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, statistics of BatchNorm included; counters are copied."""
    mine, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])
