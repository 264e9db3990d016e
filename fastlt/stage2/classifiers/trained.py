"""From settings to a fitted classifier, for all that are trained with SGD."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from fastlt.longtail.losses import make_loss
from fastlt.longtail.losses.base import Loss
from fastlt.stage2.classifiers.base import Features, Fitted, Task, Tensors, Training, linear_scores
from fastlt.stage2.classifiers.choice import Scores, choose, hits, to_choose_on
from fastlt.stage2.classifiers.heads import Head
from fastlt.stage2.classifiers.sgd import Draws, train

Fold = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Setup:
    """What is trained, and how.

    rows: what is learned from. law: class law of the order, as in Sampler. loss: of longtail.losses, or a function from
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
    """Trains `stage2.seeds` classifiers with every setting and keeps the setting that is best on `task.choose`; of each
    the last epoch, or with stage2.keep=best the one that is best there.

    make: (seeds, number of settings) -> the head that is trained.
    """
    training, stage2 = setup.training, task.stage2
    named = {"lr": training.lr, "weight_decay": training.weight_decay, **(setup.extra or {})}
    settings = [dict(zip(named, values, strict=True)) for values in product(*named.values())]
    seeds = [task.seed + number for number in range(stage2.seeds)]
    head = make(seeds, len(settings))
    draws = Draws(setup.law, stage2.drawing if setup.law == "class" else "quota", seeds, len(task.train))
    best = _Best(task, setup, head, list(np.ndindex(len(seeds), len(settings))))
    loss, look = _loss(task, setup, settings), best.look if stage2.keep == "best" else None
    train(head, setup.rows, task.classes, draws, training, settings, loss, stage2.stepped, look)

    def tensors(seed: int, setting: int) -> Tensors:
        return best.tensors[seed, setting] if stage2.keep == "best" else setup.fold(head.tensors(seed, setting))

    def scores(seed: int, setting: int) -> Scores:
        return partial(setup.scores, tensors(seed, setting))

    choices: dict[str, Any] = {"epochs": training.epochs, "batch": training.batch}
    choices |= {"sampler": setup.law} if setup.law != "class" else {}
    number, chosen = 0, settings[0]
    if len(settings) > 1:
        candidates = [[scores(seed, setting) for seed in range(len(seeds))] for setting in range(len(settings))]
        choice = choose(candidates, task.choose, task.seed)
        number, chosen = choice.number, choice.described(task.choose_on, settings)
    choices |= chosen
    if stage2.keep == "best":
        choices |= {"epoch": [best.epoch[seed, number] for seed in range(len(seeds))], "chosen_on": task.choose_on}
    first, *others = [_own(tensors(seed, number)) for seed in range(len(seeds))]
    return Fitted(first, choices, others=tuple(others))


class _Best:
    """Of each of a head's classifiers its best epoch so far, by the share of images that it classifies right, and its
    tensors then; the first of several. places: (seed, setting) of each."""

    def __init__(self, task: Task, setup: Setup, head: Head, places: list[tuple[int, ...]]):
        self.task, self.setup, self.head, self.places = task, setup, head, places
        self.right: dict[tuple[int, ...], float] = {}
        self.epoch: dict[tuple[int, ...], int] = {}
        self.tensors: dict[tuple[int, ...], Tensors] = {}

    def look(self, epoch: int) -> None:
        choose = to_choose_on(self.task.choose)
        for seed, setting in self.places:
            tensors, place = self.setup.fold(self.head.tensors(seed, setting)), (seed, setting)
            right = float(hits(partial(self.setup.scores, tensors), choose).mean())
            if right > self.right.get(place, -1.0):
                self.right[place], self.epoch[place], self.tensors[place] = right, epoch, _own(tensors)


def _loss(task: Task, setup: Setup, settings: list[dict[str, float]]) -> Loss:
    if callable(setup.loss):
        return setup.loss(settings)
    return make_loss(setup.loss, task.train.labels.new_tensor(task.counts))


def _own(tensors: Tensors) -> Tensors:
    """Copies: a setting's part of a head would keep the whole of it in memory and on disk."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
