"""From settings to a fitted classifier, for all that are trained with SGD."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from fastlt.classifiers.base import Features, Fitted, Task, Tensors, Training, linear_scores
from fastlt.classifiers.choice import Scores, choose
from fastlt.classifiers.heads import Head
from fastlt.classifiers.sgd import Draws, train
from fastlt.losses import make_loss
from fastlt.losses.base import Loss

Fold = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Setup:
    """What is trained, and how.

    rows: what is learned from. law: class law of the order, as in Sampler. loss: of fastlt.losses, or a function from
    the settings to a loss that knows them. extra: further settings to choose from, in every combination. fold: from a
    head's tensors to those of the fitted classifier. scores: of these.
    """

    training: Training
    rows: Features
    law: str = "class"
    loss: str | Callable[[list[dict[str, float]]], Loss] = "cross_entropy"
    extra: dict[str, tuple[float, ...]] | None = None
    fold: Fold = dict
    scores: Callable[..., Any] = linear_scores


def fit_trained(task: Task, setup: Setup, make: Callable[[list[int], int], Head]) -> Fitted:
    """Trains `stage2.seeds` classifiers with every setting and keeps the setting that is best on `task.choose`.

    make: (seeds, number of settings) -> the head that is trained.
    """
    training, stage2 = setup.training, task.stage2
    named = {"lr": training.lr, "weight_decay": training.weight_decay, **(setup.extra or {})}
    settings = [dict(zip(named, values, strict=True)) for values in product(*named.values())]
    seeds = [task.seed + number for number in range(stage2.seeds)]
    head = make(seeds, len(settings))
    draws = Draws(setup.law, stage2.drawing if setup.law == "class" else "quota", seeds, len(task.train))
    train(head, setup.rows, task.classes, draws, training, settings, _loss(task, setup, settings), stage2.stepped)

    def tensors(seed: int, setting: int) -> Tensors:
        return setup.fold(head.tensors(seed, setting))

    def scores(seed: int, setting: int) -> Scores:
        return partial(setup.scores, tensors(seed, setting))

    fixed: dict[str, Any] = {"epochs": training.epochs, "batch": training.batch}
    fixed |= {"sampler": setup.law} if setup.law != "class" else {}
    number, chosen = 0, settings[0]
    if len(settings) > 1:
        candidates = [[scores(seed, setting) for seed in range(len(seeds))] for setting in range(len(settings))]
        choice = choose(candidates, task.choose, task.seed)
        number, chosen = choice.number, choice.described(task.choose_on, settings)
    first, *others = [_own(tensors(seed, number)) for seed in range(len(seeds))]
    return Fitted(first, {**fixed, **chosen}, others=tuple(others))


def _loss(task: Task, setup: Setup, settings: list[dict[str, float]]) -> Loss:
    if callable(setup.loss):
        return setup.loss(settings)
    return make_loss(setup.loss, task.train.labels.new_tensor(task.counts))


def _own(tensors: Tensors) -> Tensors:
    """Copies: a setting's part of a head would keep the whole of it in memory and on disk."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
