"""What a stage-2 classifier is given and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastlt.core.errors import UserError
from fastlt.core.schedule import STEPPED, Schedule
from fastlt.longtail.sampler import DRAWINGS

Tensors = Mapping[str, Tensor]
MOMENTUM = 0.9  # of all that is trained in stage 2
KEEP = ("last", "best")


@dataclass(frozen=True)
class Features:
    """Cached features of a split: x float32 or float16 [N, D], labels int64 [N], in class order, on one device."""

    x: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Training:
    """SGD: epochs, batch, top learning rates, weight decays; the rest as in Schedule.

    With several rates or decays every pair of them is trained, and the best is chosen.
    """

    epochs: int
    batch: int
    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    warmup_epochs: int = 0
    warmup_from: float = 0.0
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise UserError(f"stage 2: epochs={self.epochs}, batch={self.batch}: both must be at least 1")
        if not self.lr or min(self.lr) <= 0:
            raise UserError(f"stage2.lr={list(self.lr)}: one or more numbers greater than 0")
        if not self.weight_decay or min(self.weight_decay) < 0:
            raise UserError(f"stage2.weight_decay={list(self.weight_decay)}: one or more numbers of at least 0")
        try:
            self.schedule(1.0, 0.0, "batch")
        except UserError as error:
            raise UserError(f"stage 2: {error}") from None

    def further(self) -> dict[str, Any]:
        """What is not as it is by default, as plain values."""
        usual = {one.name: one.default for one in fields(self)}
        found = {name: value for name, value in asdict(self).items() if usual[name] not in (MISSING, value)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def schedule(self, lr: float, weight_decay: float, stepped: str) -> Schedule:
        """Its steps with one top learning rate and one weight decay."""
        warmup, steps = (self.warmup_epochs, stepped, self.warmup_from), (self.milestones, self.factor)
        return Schedule(self.epochs, lr, MOMENTUM, weight_decay, *warmup, 0.0, *steps, self.nesterov)


@dataclass(frozen=True)
class Stage2:
    """How classifiers are trained on features.

    crt: of those with new weights. lws: of those that only scale the joint classifier's. seeds: trainings of each, with
    starts and orders of their own. drawing: as in Sampler. stepped: the learning rate moves with every `batch`, or once
    an `epoch`, whose last is then at rate 0 as in the authors' code. keep: the `last` epoch, or the `best` on the split
    that choices are made on, by top-1, as the authors do. scale_bias: lws scales W x + b as the authors' code does, or
    W x alone as the paper says. tau: of tau_norm, None to choose it; tau_bias: with such a tau the bias stays. hidden:
    units of an MLP's hidden layers. options: keywords of own classifiers, by their
    NAME behind the colon. smoothing_head, smoothing_tail: of label-aware smoothing, for crt_las.
    """

    crt: Training
    lws: Training
    seeds: int = 1
    drawing: str = "quota"
    stepped: str = "batch"
    keep: str = "last"
    scale_bias: bool = True
    tau: float | None = None
    tau_bias: bool = False
    hidden: int = 512
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    smoothing_head: float = 0.3
    smoothing_tail: float = 0.0

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"stage2.seeds={self.seeds}: it must be at least 1")
        if self.drawing not in DRAWINGS:
            raise UserError(f"stage2.drawing={self.drawing} is unknown: allowed are {', '.join(DRAWINGS)}")
        if self.stepped not in STEPPED:
            raise UserError(f"stage2.stepped={self.stepped} is unknown: allowed are {', '.join(STEPPED)}")
        if self.keep not in KEEP:
            raise UserError(f"stage2.keep={self.keep} is unknown: allowed are {', '.join(KEEP)}")
        if self.tau_bias and self.tau is None:
            raise UserError("stage2.tau_bias=true needs a fixed tau, such as stage2.tau=1: a chosen one has no bias")
        if self.hidden < 1:
            raise UserError(f"stage2.hidden={self.hidden}: it must be at least 1")
        if not 0 <= self.smoothing_tail <= self.smoothing_head < 1:
            raise UserError(
                f"protocol.smoothing_head={self.smoothing_head}, protocol.smoothing_tail={self.smoothing_tail}: the "
                "second must be from 0 to the first, and the first below 1"
            )


@dataclass(frozen=True)
class Task:
    """All a classifier may learn from.

    train: features of the training images seen as at evaluation. views: the same with augmented passes behind them,
    `train` itself where there are none. choose: features hyper-parameters are chosen on; choose_on: the name of that
    split. Where that is `none` there are no such features, and nothing is chosen. joint: stage 1's classifier, `weight`
    [C, D] and perhaps `bias` [C]. counts: int64 [C], training images of each class. groups: int8 [C], 0 many, 1 medium,
    2 few.
    """

    train: Features
    views: Features
    choose: Features | None
    choose_on: str
    joint: nn.Module
    counts: np.ndarray
    groups: np.ndarray
    stage2: Stage2
    seed: int

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.counts)

    @property
    def weight(self) -> Tensor:
        """Weights of the joint classifier, [C, D]."""
        return self.joint.weight.detach()  # type: ignore[operator, return-value]

    @property
    def bias(self) -> Tensor:
        """Biases of the joint classifier, [C]; zeros where it has none."""
        bias = self.joint.bias
        return self.weight.new_zeros(self.classes) if bias is None else bias.detach()  # type: ignore[operator, return-value]


@dataclass(frozen=True)
class Fitted:
    """A classifier ready to predict.

    tensors: what its `scores` needs, float32. choices: what was set or chosen, for results.json. curves: features of a
    split -> what is drawn over a hyper-parameter. others: the tensors of trainings with further seeds.
    """

    tensors: Tensors
    choices: dict[str, Any] = field(default_factory=dict)
    curves: Callable[[Features], dict[str, list[float | None]]] | None = None
    others: tuple[Tensors, ...] = ()


def linear_scores(tensors: Tensors, x: Tensor) -> Tensor:
    """W x + b: [n, D] -> [n, C]. tensors: weight [C, D] and perhaps bias [C]."""
    return nn.functional.linear(x, tensors["weight"], tensors.get("bias"))


@dataclass(frozen=True)
class Classifier:
    """One entry of the table.

    fit: learns. scores: (tensors, features float32 [n, D]) -> class scores [n, C]; the largest wins. uses: fields of
    Stage2, and `views`, that change what it learns; a fitted one is used again until one of these changes.
    """

    fit: Callable[[Task], Fitted]
    scores: Callable[[Tensors, Tensor], Tensor] = linear_scores
    uses: tuple[str, ...] = ()
