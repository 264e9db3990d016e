"""Re-weighting of the classes in a loss, from the start of a training or deferred to its later epochs (DRW)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.longtail.losses.base import Loss, sizes

WEIGHTS = ("none", "effective_number", "inverse_frequency")


@dataclass(frozen=True, kw_only=True)
class Reweighting:
    """Weights of the classes in a loss, for every loss and from any epoch on: deferred re-weighting (DRW).

    It is algorithm 1 of Cao et al. 2019, for any loss.

    weights: effective_number (Cui et al. 2019), inverse_frequency, or none. They have mean 1 over the classes.
    after: the share of the epochs that is trained without weights: 0 weights all epochs, 0.8 those after epoch 160 of
        200, 1 none.
    beta: of effective_number, in [0, 1): with 0 all weights are equal, towards 1 they approach inverse_frequency.
    weighted_mean: divide the weights by their mean over the samples of a batch.

    >>> import torch
    >>> Reweighting(weights="inverse_frequency").of_classes(torch.tensor([90, 10]))
    tensor([0.2000, 1.8000])
    """

    weights: str = "none"
    after: float = 0.8
    beta: float = 0.9999
    weighted_mean: bool = False

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise UserError(f"weights={self.weights} is unknown: allowed are {', '.join(WEIGHTS)}")
        if not 0 <= self.after <= 1:
            raise UserError(f"after={self.after}: it must be in [0, 1], a share of the epochs; 1 is never")
        if not 0 <= self.beta < 1:
            raise UserError(f"beta={self.beta}: it must be in [0, 1), such as 0.9999")

    def of_classes(self, counts: Tensor) -> Tensor:
        """Returns the weights of the classes, scaled to mean 1, float32 [C].

        counts: n, training images of each class, int64 [C]. They are 1 / n_j for inverse_frequency. For
        effective_number they are 1 / E_j with E_j = (1 - beta^n_j) / (1 - beta), the effective number of images of
        class j (Cui et al. 2019, proposition 1). A class without images has the weight of the smallest class that has
        some.
        """
        n = sizes(counts)
        weights = 1 / n if self.weights == "inverse_frequency" else 1 / (1 - torch.pow(self.beta, n))
        return (weights / weights.mean()).float()

    def of_loss(self, each: Loss, counts: Tensor, progress: float) -> Loss:
        """Returns the loss with its classes weighted: w_y each(z, y); until `after` it is `each` itself.

        each: a loss with one value per sample. counts: as in `of_classes`. progress: share of the epochs that are done.

        The returned loss raises UserError if `each` has no value per sample.
        """
        if self.weights == "none" or progress < self.after:
            return each
        weigh = weights_of(self.of_classes(counts), self.weighted_mean)

        def weighted(logits: Tensor, labels: Tensor, *features: Tensor) -> Tensor:
            losses = each(logits, labels, *features)
            if losses.shape != labels.shape:
                raise UserError(
                    f"protocol.drw.weights={self.weights} needs a loss with one value per image, {list(labels.shape)}: "
                    f"this one gives {list(losses.shape)}"
                )
            return weigh(labels) * losses

        return weighted


def weights_of(weights: Tensor, weighted_mean: bool) -> Callable[[Tensor], Tensor]:
    """Returns a function from labels int64 [..., N] to the weights of these samples, [..., N].

    weights: of the classes, float32 [C].
    weighted_mean: False takes the weights as they are, so that the loss of a batch is the plain mean of weighted
        losses. In instance-balanced batches most samples are of large classes, whose weights are below 1, so gradients
        are small. True divides the weights by their mean over the N samples of the batch (of each rank, and of each
        part of an accumulated batch), as torch's cross_entropy(weight=) does: on CIFAR-100-LT with imbalance 100,
        gradients are 4.9 times as large.
    """
    if not weighted_mean:
        return lambda labels: weights[labels]
    return lambda labels: weights[labels] / weights[labels].mean(-1, keepdim=labels.ndim > 0)
