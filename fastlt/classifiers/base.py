"""What a stage-2 classifier is given and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Features:
    """Cached features of a split: x float32 [N, D], labels int64 [N], in class order, on one device."""

    x: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Training:
    """SGD on features: epochs, batch, top learning rate of a cosine to 0, weight decay."""

    epochs: int
    batch: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Task:
    """All a classifier may learn from.

    train: features of the training images. choose: features hyper-parameters are chosen on; choose_on: the name of that
    split. weight [C, D], bias [C]: the joint classifier. groups: int8 [C], 0 many, 1 medium, 2 few. training: settings
    by classifier.
    """

    train: Features
    choose: Features
    choose_on: str
    weight: torch.Tensor
    bias: torch.Tensor
    groups: np.ndarray
    training: dict[str, Training]
    seed: int

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.bias)


@dataclass(frozen=True)
class Fitted:
    """A classifier ready to predict.

    scores: features [n, D] -> class scores [n, C]; the largest wins. choices: what was set or chosen, for results.json.
    weight: [C, D] if it is linear. curves: features of a split -> what is drawn over a hyper-parameter.
    """

    scores: Callable[[torch.Tensor], torch.Tensor]
    choices: dict[str, Any] = field(default_factory=dict)
    weight: torch.Tensor | None = None
    curves: Callable[[Features], dict[str, list[float | None]]] | None = None
