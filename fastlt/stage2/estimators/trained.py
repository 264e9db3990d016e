"""Base classes of estimators that are trained with SGD, and of those that start from a joint classifier."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.core.words import counted
from fastlt.stage2.classifiers.base import FOLDS, Features, Stage2, Task
from fastlt.stage2.classifiers.joint import linear_layer, train_joint
from fastlt.stage2.estimators.base import LongTailClassifier
from fastlt.stage2.estimators.checks import as_rows
from fastlt.stage2.estimators.settings import DECAY, settings_of

CHOOSE_ON = ("auto", "folds", "none", "train")
EPOCHS = {"crt": 10, "lws": 5}  # the paper's numbers of epochs for new weights and for scales
BATCH, SMALLEST = 512, 16  # batch size of the paper, and the smallest one, for a few hundred images
LARGEST_SEED = 1 << 32  # as in scikit-learn; a training takes several seeds from it, which must fit into 64 bits
STEPS = 300  # minimum steps of a training unless epochs are given; 10 epochs of a few hundred images are only 10 steps


def usual_training(rows: int, batch: int | None = None) -> tuple[int, int]:
    """Returns the default batch size and the minimum number of epochs for a training on `rows` features.

    batch: the batch size if it is given.
    """
    batch = int(batch or min(BATCH, max(SMALLEST, rows * EPOCHS["crt"] // STEPS)))
    return batch, -(-STEPS // (rows // min(batch, rows)))


@dataclass(eq=False, kw_only=True)
class TrainedClassifier(LongTailClassifier):
    """Base class of estimators that are trained with SGD.

    epochs: of each training. None takes the paper's (10 for weights, 5 for scales), or more if these have fewer than
        300 steps.
    batch: batch size. None takes the paper's 512, or less, down to 16, so that 10 epochs have 300 steps.
    lr, weight_decay: one value each, or several, from which the best pair is chosen. A weight decay of None is 5e-4, or
        chosen from several values by a classifier that does so.
    choose_on: what such choices, and that of tau, are made on. `auto`: X_val if `fit` is given it, else `folds`;
        `folds`: a 5-fold cross-validation on the training images; `train`: the training images themselves; `none`:
        nothing is chosen, and tau is 1.
    random_state: seed of initial weights and of the order of the images.
    """

    epochs: int | None = None
    batch: int | None = None
    lr: float | Sequence[float] = 0.2
    weight_decay: float | Sequence[float] | None = DECAY
    choose_on: str = "auto"
    random_state: int = 0

    def _task(self, train: Features, held: Features | None, counts: np.ndarray, scale: float) -> Task:
        if self.choose_on not in CHOOSE_ON:
            raise UserError(f"choose_on={self.choose_on} is unknown: allowed are {', '.join(CHOOSE_ON)}")
        choose_on = ("folds" if held is None else "val") if self.choose_on == "auto" else self.choose_on
        if choose_on == "folds" and len(train) < FOLDS:
            raise UserError(
                f"X has {counted(len(train), 'row')}, too few for {FOLDS} folds: choose_on='none' chooses nothing"
            )
        choose = {"val": held, "train": train}.get(choose_on)
        stage2 = self._stage2(len(train))
        several = [name for name in ("lr", "weight_decay") if len(getattr(stage2, name) or ()) > 1]
        if choose_on == "none" and several:
            raise UserError(f"{several[0]}={getattr(self, several[0])} and choose_on=none: give one value, or choose")
        joint = self._joint_layer(train, counts, stage2, scale)
        groups = class_groups(counts)
        return Task(train, train, choose, choose_on, joint, counts, groups, stage2, self._seed())

    def _stage2(self, rows: int, **further: Any) -> Stage2:
        """Returns the settings of stage 2 for `rows` training features. further: other fields of Stage2."""
        for name in ("epochs", "batch"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise UserError(f"{name}={value}: it must be a whole number of at least 1, or None")
        batch, least = usual_training(rows, self.batch)
        lr, decay = _several(self.lr), None if self.weight_decay is None else _several(self.weight_decay)
        epochs = {kind: int(self.epochs or max(usual, least)) for kind, usual in EPOCHS.items()}
        return settings_of(epochs, batch, lr, decay, **further)

    def _seed(self) -> int:
        if not isinstance(self.random_state, int | np.integer) or not 0 <= self.random_state < LARGEST_SEED:
            raise UserError(
                f"random_state={self.random_state}: it must be a whole number of at least 0 and below {LARGEST_SEED}"
            )
        return int(self.random_state)

    def _joint_layer(self, train: Features, counts: np.ndarray, stage2: Stage2, scale: float) -> nn.Linear:
        """Returns the joint classifier for scaled features. Here it is all zeros, as only its shape is used."""
        return linear_layer(train.x.new_zeros(len(counts), train.x.shape[1]).float(), None)


@dataclass(eq=False, kw_only=True)
class OnJointClassifier(TrainedClassifier):
    """Base class of estimators that modify a joint linear classifier.

    joint: that classifier, for features as they are passed to `fit` (not scaled): a torch.nn.Linear, or (weight [C, D],
        bias [C]), such as coef_ and intercept_ of a scikit-learn model (for two classes also [1, D] and [1], as it has
        them), with rows in the order of classes_. None trains one with epochs, batch, lr and weight_decay on
        instance-balanced batches.
    """

    joint: Any = None

    def _joint_layer(self, train: Features, counts: np.ndarray, stage2: Stage2, scale: float) -> nn.Linear:
        if self.joint is None:
            return train_joint(train, len(counts), stage2, self._seed())
        weight, bias = _parts(self.joint)
        if len(counts) == 2 and len(weight) == len(bias) == 1:  # scikit-learn keeps the scores of the second class
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        wanted = (len(counts), train.x.shape[1])
        if weight.shape != wanted or bias.shape != wanted[:1]:
            raise UserError(
                f"joint has weights of the shape {tuple(weight.shape)} and biases of {tuple(bias.shape)}: {wanted} and "
                f"{wanted[:1]} go with {wanted[0]} classes and {wanted[1]} features"
            )
        return linear_layer(weight.to(train.x.device) * scale, bias.to(train.x.device))

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: a joint classifier on a GPU goes to the CPU, as the next machine may have none."""
        joint = self.joint
        if isinstance(joint, nn.Module) and any(parameter.is_cuda for parameter in joint.parameters()):
            joint = copy.deepcopy(joint).cpu()
        elif isinstance(joint, tuple | list):
            joint = tuple(part.cpu() if isinstance(part, torch.Tensor) else part for part in joint)
        return {**vars(self), "joint": joint}


def number_of(name: str, value: Any, whole: bool = False) -> Any:
    """Returns a parameter of an estimator as float, or with `whole` as int. Raises UserError if it is no such one."""
    if isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and math.isfinite(value)):
        if not whole:
            return float(value)
        if isinstance(value, int | np.integer):
            return int(value)
    raise UserError(f"{name}={value!r}: it must be a {'whole' if whole else 'finite'} number")


def _parts(joint: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(joint, nn.Linear):
        weight = joint.weight.detach().float()
        return weight, weight.new_zeros(len(weight)) if joint.bias is None else joint.bias.detach().float()
    if not isinstance(joint, tuple | list) or len(joint) != 2:
        raise UserError(f"joint is a {type(joint).__name__}: give (weight, bias), a torch.nn.Linear, or None")
    weight, bias = as_rows(joint[0], "the weight of joint"), joint[1]
    if bias is None:
        raise UserError("the bias of joint is None: give one number for each class, zeros if it has none")
    bias = bias.reshape(1, -1) if isinstance(bias, torch.Tensor) else np.reshape(np.asarray(bias), (1, -1))
    return weight.float(), as_rows(bias, "the bias of joint")[0].float()


def _several(value: Any) -> tuple[float, ...]:
    values = (value,) if isinstance(value, float | int | np.number) else value
    try:
        found = tuple(float(one) for one in values)
        if not found:
            raise ValueError
        return found
    except (TypeError, ValueError):
        raise UserError(f"{value!r} is neither a number nor several: lr=0.1 or lr=(0.05, 0.1)") from None
