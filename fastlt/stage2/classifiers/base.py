"""The interface of the classifiers of stage 2: Task is what a classifier learns from, Fitted is what it returns."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastlt.core.config import assemble
from fastlt.core.errors import UserError
from fastlt.core.schedule import STEPPED, RateConfig, Schedule
from fastlt.longtail import DRAWINGS
from fastlt.longtail.losses.reweighting import Reweighting
from fastlt.longtail.smoothing import SmoothingConfig

Tensors = Mapping[str, Tensor]
MOMENTUM = 0.9  # of SGD in all trainings of stage 2
KEEP = ("last", "best")
FOLDS = 5  # number of folds of a cross-validation on the training images


@dataclass(frozen=True)
class Features:
    """Features of a split, on one device.

    x: float32 or float16 [N, D], sorted by class; to measure on also float64. labels: class indices, int64 [N]. len()
    is N.
    """

    x: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def wide(x: Tensor) -> Tensor:
    """Returns features as their scores are computed: float64 as it is, anything else as float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Training(RateConfig):
    """Settings of SGD for a classifier. The rest is as in RateConfig."""

    epochs: int  # of this classifier's training
    batch: int  # rows of a step
    lr: float  # the top learning rate
    weight_decay: float  # L2 penalty, as in torch.optim.SGD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1 or self.batch < 1:
            raise UserError(f"epochs={self.epochs}, batch={self.batch}: both must be at least 1")
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf):
            raise UserError(
                f"lr={self.lr}, weight_decay={self.weight_decay}: the first must be greater than 0, the second at "
                "least 0"
            )

    def schedule(self, stepped: str, **given: float) -> Schedule:
        """Returns the learning rate schedule of this training.

        stepped: `batch` or `epoch`, as in Schedule. given: fields of Schedule that replace this training's, such as lr.
        """
        return assemble(Schedule, self, stepped=stepped, momentum=MOMENTUM, **given)


@dataclass(frozen=True, kw_only=True)
class Stage2Config:
    """Settings of stage 2 that are the same for all protocols: the keys stage2.NAME."""

    lr: tuple[float, ...] | None = None  # top learning rates to choose from; default: the protocol's
    weight_decay: tuple[float, ...] | None = None  # weight decays to choose from; default: the protocol's
    seeds: int = 1  # number of trainings of each classifier, each with its own initial weights and order
    drawing: str = "quota"  # of class-balanced batches: quota, iid, dataloader or reference, as sampler.drawing
    stepped: str = "batch"  # change the learning rate with every `batch` or once an `epoch`
    keep: str = "last"  # epoch that is kept of each training: last, or best by top-1 where choices are made
    tau: float | None = None  # tau of tau_norm; default: it is chosen
    tau_bias: bool = False  # with a given tau, keep the bias of the joint classifier, as BagofTricks-LT does
    scale_bias: bool = True  # lws scales W x + b, as the paper's code does; false: W x only, as the paper's text says
    hidden: int = 512  # units of each hidden layer of mlp_1, mlp_2 and mlp_3
    options: dict[str, Any] = field(default_factory=dict)  # {NAME: keyword arguments} of own classifiers module:NAME

    def __post_init__(self) -> None:
        if self.lr is not None and not (self.lr and all(0 < lr < math.inf for lr in self.lr)):
            raise UserError(f"lr={list(self.lr)}: one or more numbers greater than 0")
        decays = self.weight_decay
        if decays is not None and not (decays and all(0 <= decay < math.inf for decay in decays)):
            raise UserError(f"weight_decay={list(decays)}: one or more numbers of at least 0")
        if self.seeds < 1:
            raise UserError(f"seeds={self.seeds}: it must be at least 1")
        if self.drawing not in DRAWINGS:
            raise UserError(f"drawing={self.drawing} is unknown: allowed are {', '.join(DRAWINGS)}")
        if self.stepped not in STEPPED:
            raise UserError(f"stepped={self.stepped} is unknown: allowed are {', '.join(STEPPED)}")
        if self.keep not in KEEP:
            raise UserError(f"keep={self.keep} is unknown: allowed are {', '.join(KEEP)}")
        if self.tau_bias and self.tau is None:
            raise UserError("tau_bias=true needs a fixed tau, such as tau=1: a chosen one has no bias")
        if self.tau is not None and not math.isfinite(self.tau):
            raise UserError(f"tau={self.tau}: it must be a finite number")
        if self.hidden < 1:
            raise UserError(f"hidden={self.hidden}: it must be at least 1")

    def options_of(self, name: str) -> dict[str, Any]:
        """Returns the keyword arguments that are set for an own classifier. name: package.module:NAME.

        Raises UserError if they are no mapping.
        """
        key = name.rpartition(":")[2]
        options = self.options.get(key, {})
        if not isinstance(options, Mapping):
            told = f"it must name an option, as in stage2.options.{key}.NAME=VALUE"
            raise UserError(f"stage2.options.{key}={options}: {told}")
        return dict(options)


@dataclass(frozen=True)
class Stage2(Stage2Config, SmoothingConfig):
    """All settings by which classifiers are trained.

    crt: training of classifiers with new weights. lws: training of those that only scale the joint classifier.
    smoothing_head, smoothing_tail: label smoothing of crt_las. The rest as in Stage2Config.
    """

    crt: Training
    lws: Training

    def __post_init__(self) -> None:
        Stage2Config.__post_init__(self)
        SmoothingConfig.__post_init__(self)

    def rates(self, training: Training) -> tuple[float, ...]:
        """Returns the learning rates to choose from. training: `self.crt` or `self.lws`.

        Every pair of a learning rate and a weight decay is tried.
        """
        return self.lr or (training.lr,)

    def decays(self, training: Training) -> tuple[float, ...]:
        """Returns the weight decays to choose from. training: as in `rates`."""
        return self.weight_decay or (training.weight_decay,)


@dataclass(frozen=True)
class Task:
    """Everything that a classifier may learn from.

    train: features of the training images, with the evaluation transform.
    augmented: these, followed by the features of augmented passes if there are any.
    choose: features to choose hyperparameters on; None if choose_on is `folds` or `none`.
    choose_on: the name of that split; or `folds`, a cross-validation on `train`; or `none`: nothing is chosen.
    joint: the linear classifier of stage 1, with `weight` [C, D], and `bias` [C] or None.
    counts: training images of each class, int64 [C].
    groups: groups of the classes, int8 [C]: 0 many, 1 medium, 2 few.
    stage2: the settings. seed: of initial weights, orders and folds.
    law, loss, loss_options, drw: of the training of the joint classifier, as in Sampler, `make_loss` and Recipe.
    head_scale: factor on the cosines of a joint classifier that compares by cosine, in that training.
    image_groups: the group of every training image, such as its patient, from 0 to G - 1, int64 [N]; folds keep groups
        together. None if there are none, or nothing is divided.
    """

    train: Features
    augmented: Features
    choose: Features | None
    choose_on: str
    joint: nn.Module
    counts: np.ndarray
    groups: np.ndarray
    stage2: Stage2
    seed: int
    law: str = "instance"
    loss: str = "cross_entropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    drw: Reweighting = field(default_factory=Reweighting)
    head_scale: float = 1.0
    image_groups: np.ndarray | None = None

    @property
    def classes(self) -> int:
        """Returns the number of classes C."""
        return len(self.counts)

    @property
    def weight(self) -> Tensor:
        """Returns the weights of the joint classifier, [C, D]."""
        return self.joint.weight.detach()  # type: ignore[operator, return-value]

    @property
    def bias(self) -> Tensor:
        """Returns the biases of the joint classifier, [C]; zeros if it has none."""
        bias = self.joint.bias
        return self.weight.new_zeros(self.classes) if bias is None else bias.detach()  # type: ignore[operator, return-value]


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier.

    tensors: float32 tensors by name, which the `scores` of its Classifier computes scores from.
    choices: hyperparameters that were set or chosen, as plain values for results.json.
    curves: a function from the features of a split to accuracies at many values of a hyperparameter, to be drawn.
    others: the tensors of the trainings with further seeds.
    """

    tensors: Tensors
    choices: dict[str, Any] = field(default_factory=dict)
    curves: Callable[[Features], dict[str, list[float | None]]] | None = None
    others: tuple[Tensors, ...] = ()


def linear_scores(tensors: Tensors, x: Tensor) -> Tensor:
    """Returns the scores W x + b, [n, C], of features x [n, D]. tensors: `weight` [C, D] and perhaps `bias` [C]."""
    return nn.functional.linear(x, tensors["weight"], tensors.get("bias"))


@dataclass(frozen=True)
class Classifier:
    """A kind of classifier: how it is fitted, and how it scores features.

    fit: a function from a Task to a Fitted.
    scores: a function from (tensors, float32 features [n, D]) to scores [n, C]; the largest one wins.
    uses: names of the settings that `fit` depends on: fields of Stage2, and `augmented_passes`. A stored classifier is
        reused until one of these changes.

    Example: a classifier whose scores are those of the joint one without its bias.

        NO_BIAS = Classifier(lambda task: Fitted({"weight": task.weight}))
    """

    fit: Callable[[Task], Fitted]
    scores: Callable[[Tensors, Tensor], Tensor] = linear_scores
    uses: tuple[str, ...] = ()
