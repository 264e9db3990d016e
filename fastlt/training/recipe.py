"""Settings of a training beyond plain SGD on cross-entropy, such as another loss. The defaults are the paper's."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.config import assemble
from fastlt.core.errors import UserError
from fastlt.longtail.losses import LOSSES, make_loss
from fastlt.longtail.losses.base import Loss
from fastlt.longtail.smoothing import SmoothingConfig
from fastlt.models.backbones import Model
from fastlt.registry import is_own
from fastlt.training.batch_hooks import Hook, make_batch_hook

Criterion = Callable[[Tensor, Tensor], Tensor]  # logits [N, C], labels [N] -> mean loss of the batch


@dataclass(frozen=True, kw_only=True)
class Recipe(SmoothingConfig):
    """Loss, optimizer, batch hook, gradient clipping and weight averaging of a training.

    Every field is also a key protocol.NAME of the command line.
    """

    loss: str = "cross_entropy"  # a key of fastlt.longtail.losses.LOSSES, or package.module:NAME of your own
    loss_options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the loss; default: its paper's
    label_smoothing: float = 0.0  # for cross_entropy: share of the target that is spread over all classes
    optimizer: str = "sgd"  # sgd, adamw, or package.module:NAME; momentum and nesterov apply to sgd
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # further keyword arguments, such as adamw's betas
    batch_hook: str = "none"  # mixup, cutmix, or package.module:NAME; changes a batch on the device
    batch_hook_options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the batch hook
    clip_norm: float = 0.0  # maximum norm of the gradient of all parameters together; 0: no clipping
    # Layer-wise learning rate decay: a layer of the backbone with d layers after it (see `layer_depths`) has the
    # learning rate lr * layer_decay^d.
    layer_decay: float = 1.0
    ema: float = 0.0  # decay per step of a moving average of the weights, which is evaluated and kept; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.batch_function
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing}: it must be in [0, 1)")
        if self.clip_norm < 0:
            raise UserError(f"clip_norm={self.clip_norm}: it must be 0 (off) or more")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay={self.layer_decay}: it must be in (0, 1], such as 0.75; 1 is off")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema}: it must be in [0, 1), such as 0.9999; 0 is off")
        if not is_own(self.loss):  # an own loss may need the real class counts
            self._make_loss(torch.tensor((1, 1)), 0.0)
        if self.loss == "cross_entropy" and self.loss_options:
            raise UserError(
                f"loss_options={dict(self.loss_options)}: protocol.loss=cross_entropy takes protocol.label_smoothing "
                "in its place"
            )
        if self.loss != "cross_entropy" and self.label_smoothing:
            raise UserError(
                f"label_smoothing={self.label_smoothing} belongs to protocol.loss=cross_entropy, not to {self.loss}: "
                "leave one of the two out"
            )

    @cached_property
    def batch_function(self) -> Hook:
        """Returns the batch hook, as `make_batch_hook` does."""
        return make_batch_hook(self.batch_hook, self.batch_hook_options)

    def options_of_loss(self) -> dict[str, Any]:
        """Returns the keyword arguments of the loss.

        For label_aware_smoothing, the fields smoothing_head and smoothing_tail are included unless loss_options has
        other values.
        """
        smoothing = asdict(assemble(SmoothingConfig, self)) if self.loss == "label_aware_smoothing" else {}
        return {**smoothing, **self.loss_options}

    def make_criterion(self, progress: float, counts: Tensor) -> Criterion:
        """Returns a function from logits [N, C] and labels [N] to the mean loss of the batch.

        progress: share of the epochs that are done, in [0, 1).
        counts: training images of each class, int64 [C], on the device of the logits.
        """
        if self.loss == "cross_entropy":
            # The mean of make_loss's values differs from this in its last bits, and would change all earlier results.
            smoothed = partial(functional.cross_entropy, label_smoothing=self.label_smoothing)
            return lambda logits, labels: smoothed(logits.float(), labels)
        each = self._make_loss(counts, progress)
        return lambda logits, labels: each(logits, labels).mean()

    def _make_loss(self, counts: Tensor, progress: float) -> Loss:
        try:
            return make_loss(self.loss, counts, progress, self.options_of_loss())
        except UserError as error:
            raise UserError(f"protocol.{error}".replace(" loss_options.", " protocol.loss_options.")) from None

    def batch_loss(
        self, model: torch.nn.Module, images: Tensor, labels: Tensor, key: tuple[int, ...], criterion: Criterion
    ) -> tuple[Tensor, Tensor]:
        """Applies the batch hook and the model to a batch; returns its mean loss and the logits [N, C].

        images, labels, key: as in `make_batch_hook`. criterion: what `make_criterion` returned.

        Raises UserError if the hook returns shares of classes and the loss does not accept them.
        """
        images, changed = self.batch_function(images, labels, key)
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
    """Updates a moving average of the weights: average = decay * average + (1 - decay) * model.

    The running statistics of BatchNorm are averaged as well; integer buffers are copied.
    """
    mine, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], 1 - decay)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])
