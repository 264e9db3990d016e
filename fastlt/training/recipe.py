"""Settings of a training beyond plain SGD on cross-entropy, such as another loss. The defaults are the paper's."""

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastlt.core.config import assemble
from fastlt.core.errors import UserError
from fastlt.longtail.losses import LOSSES, REWEIGHTED, classifier_of, make_loss, on_features
from fastlt.longtail.losses.base import Loss
from fastlt.longtail.losses.reweighting import Reweighting
from fastlt.longtail.smoothing import SmoothingConfig
from fastlt.models.heads import HeadConfig
from fastlt.registry import check_options, find_part, is_own
from fastlt.training.averages import SWA
from fastlt.training.batch_hooks import Hook, make_batch_hook, none
from fastlt.training.criterion import Criterion
from fastlt.training.sam import SAM


@dataclass(frozen=True, kw_only=True)
class Recipe(SmoothingConfig, HeadConfig):
    """Loss, head, optimizer, batch hook, gradient clipping and weight averaging of a training.

    Every field is also a key protocol.NAME of the command line.
    """

    loss: str = "cross_entropy"  # a named loss, or package.module:NAME of your own
    loss_options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the loss; default: its paper's
    drw: Reweighting = field(default_factory=Reweighting)
    label_smoothing: float = 0.0  # for cross_entropy: share of the target that is spread over all classes
    optimizer: str = "sgd"  # sgd, adamw, or package.module:NAME; momentum and nesterov apply to sgd
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # further keyword arguments, such as adamw's betas
    sam: SAM = field(default_factory=SAM)
    batch_hook: str = "none"  # mixup, cutmix, or package.module:NAME; changes a batch on the device
    batch_hook_options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the batch hook
    clip_norm: float = 0.0  # maximum norm of the gradient of all parameters together; 0: no clipping
    # Layer-wise learning rate decay: a layer of the backbone with d layers after it has the learning
    # rate lr * layer_decay^d.
    layer_decay: float = 1.0
    ema: float = 0.0  # decay per step of a moving average of the weights, which is evaluated and kept; 0: none
    swa: SWA = field(default_factory=SWA)

    def __post_init__(self) -> None:
        SmoothingConfig.__post_init__(self)
        HeadConfig.__post_init__(self)
        assert self.batch_function()
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing={self.label_smoothing}: it must be in [0, 1)")
        if not 0 <= self.clip_norm < float("inf"):
            raise UserError(f"clip_norm={self.clip_norm}: it must be 0 (off) or more")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"layer_decay={self.layer_decay}: it must be in (0, 1], such as 0.75; 1 is off")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema={self.ema}: it must be in [0, 1), such as 0.9999; 0 is off")
        if self.ema and self.swa.after < 1:
            raise UserError(
                f"ema={self.ema} and protocol.swa.after={self.swa.after} both average weights: leave one out"
            )
        if self.drw.weights != "none" and self.loss in REWEIGHTED:
            raise UserError(
                f"drw.weights={self.drw.weights}: protocol.loss={self.loss} weights the classes itself, by its "
                "loss_options; leave one of the two out"
            )
        if is_own(self.loss):  # it is not made yet, as it may need the real class counts
            check_options("protocol.loss", self.loss, find_part("protocol.loss", self.loss, {}), self.loss_options, 2)
        else:
            self._make_loss(torch.tensor((1, 1)), 0.0)
        if self.head == "linear" and self.on_cosines:
            raise UserError(f"head=linear: protocol.loss={self.loss} is one on cosines: take cosine or etf")
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

    def batch_function(self, counts: Tensor | None = None) -> Hook:
        """Returns the batch hook, as `make_batch_hook` does. counts: training images of each class, int64 [C]."""
        return make_batch_hook(self.batch_hook, self.batch_hook_options, counts)

    @property
    def on_cosines(self) -> bool:
        """Whether the loss takes cosines in [-1, 1] in place of logits."""
        return classifier_of(self.loss) == "cosine"

    @property
    def head_kind(self) -> str:
        """The kind of the joint classifier: linear, cosine or etf."""
        return classifier_of(self.loss) if self.head == "auto" else self.head

    def options_of_loss(self) -> dict[str, Any]:
        """Returns the keyword arguments of the loss.

        For label_aware_smoothing, the fields smoothing_head and smoothing_tail are included unless loss_options has
        other values.
        """
        smoothing = asdict(assemble(SmoothingConfig, self)) if self.loss == "label_aware_smoothing" else {}
        return {**smoothing, **self.loss_options}

    def make_criterion(self, progress: float, counts: Tensor) -> Criterion:
        """Returns the mean loss of a batch, a function of logits [N, C] and labels.

        progress: share of the epochs that are done, in [0, 1).
        counts: training images of each class, int64 [C], on the device of the logits.
        """
        scale = 1.0 if self.head_kind == "linear" or self.on_cosines else self.head_scale
        each = self.drw.of_loss(self._make_loss(counts, progress), counts, progress)
        if self.loss == "cross_entropy" and self.drw.weights == "none":
            # The mean of the values of `each` differs from this in its last bits, and would change all earlier results.
            smoothed = partial(functional.cross_entropy, label_smoothing=self.label_smoothing)
            return Criterion(each, lambda logits, labels: smoothed(logits.float(), labels), scale)
        return Criterion(each, None, scale)

    def _make_loss(self, counts: Tensor, progress: float) -> Loss:
        options = self.options_of_loss()
        if self.loss == "cross_entropy":
            options = {"smoothing": self.label_smoothing}
        try:
            return make_loss(self.loss, counts, progress, options)
        except UserError as error:
            raise UserError(f"protocol.{error}".replace(" loss_options.", " protocol.loss_options.")) from None

    def batch_loss(
        self,
        model: torch.nn.Module,
        images: Tensor,
        labels: Tensor,
        key: tuple[int, ...],
        criterion: Criterion,
        hook: Hook = none,
    ) -> tuple[Tensor, Tensor]:
        """Applies the batch hook and the model to a batch; returns its mean loss and the logits [N, C].

        images, labels, key: as in `make_batch_hook`. criterion, hook: what `make_criterion` and `batch_function`
            returned.

        Raises UserError if the hook returns something else than images and labels, or shares of classes that the loss
        does not accept.
        """
        found: Any = hook(images, labels, key)
        pair = isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], Tensor)
        if not pair or len(found[0]) != len(images):
            what = f"{len(found[0])} images" if pair else f"a {type(found).__name__}"
            raise UserError(
                f"protocol.batch_hook={self.batch_hook} gives {what}: it must give (images, labels), with as many "
                f"images as it gets, {len(images)}"
            )
        images, changed = found
        outputs = model(images, with_features=True) if on_features(self.loss) else (model(images),)
        logits, *features = outputs
        if isinstance(changed, Tensor) and changed.is_floating_point() and not self._takes_shares:
            weighted = " with protocol.drw" if self.drw.weights != "none" else ""
            raise UserError(
                f"protocol.batch_hook={self.batch_hook} gives shares of classes, {list(changed.shape)}, which "
                f"protocol.loss={self.loss}{weighted} does not take: give [(share, labels), ...], or take plain "
                "cross_entropy"
            )
        return criterion(logits, changed, *features), logits

    @property
    def _takes_shares(self) -> bool:
        return self.drw.weights == "none" and (self.loss == "cross_entropy" or self.loss not in LOSSES)
