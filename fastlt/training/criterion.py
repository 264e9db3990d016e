"""The loss of a batch, for labels in each of the forms that a batch hook may return."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.longtail.losses.base import Loss
from fastlt.training.batch_hooks import Labels


@dataclass(frozen=True)
class Criterion:
    """The mean loss of a batch: a function from logits [N, C] and labels to a scalar.

    each: a loss with one value per sample. It may be one that returns the mean of the batch, unless labels have shares
        that differ between images.
    mean: computes the mean over the batch itself, if that is another function than the mean of `each`.
    scale: factor on the logits, of a head that compares by cosine.
    """

    each: Loss
    mean: Loss | None = None
    scale: float = 1.0

    def __call__(self, logits: Tensor, labels: Labels, *features: Tensor) -> Tensor:
        """Returns the mean loss. logits: [N, C]. labels: as `make_batch_hook` describes them.

        features: [N, D], for a loss that takes them.
        """
        logits = logits if self.scale == 1 else self.scale * logits
        if isinstance(labels, Tensor):
            return self._mean(logits, labels, *features)
        return sum((self._shared(share, logits, part, *features) for share, part in labels), logits.new_zeros(()))

    def _mean(self, *given: Tensor) -> Tensor:
        if self.mean is not None:
            return self.mean(*given)
        losses: Any = self.each(*given)
        if not isinstance(losses, Tensor) or losses.ndim > 1:
            what = list(losses.shape) if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
            raise UserError(
                f"protocol.loss gives {what}: it must give a tensor with a value for each image, or their mean"
            )
        return losses.mean()

    def _shared(self, share: float | Tensor, logits: Tensor, labels: Tensor, *features: Tensor) -> Tensor:
        if not isinstance(share, Tensor):
            return share * self._mean(logits, labels, *features)
        losses = self.each(logits, labels, *features)
        if losses.shape != labels.shape:
            raise UserError(
                f"shares that differ between images need a loss with one value per image, {list(labels.shape)}: this "
                f"one gives {list(losses.shape)}"
            )
        return (share * losses).mean()
