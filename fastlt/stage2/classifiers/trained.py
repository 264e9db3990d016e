"""Trains a classifier with SGD for all seeds and settings, and selects the best setting."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlt.longtail.losses import make_loss
from fastlt.longtail.losses.base import Loss
from fastlt.stage2.classifiers.base import Features, Fitted, Task, Tensors, Training, linear_scores
from fastlt.stage2.classifiers.folds import fold_draws
from fastlt.stage2.classifiers.heads import Head
from fastlt.stage2.classifiers.selection import Scores, best_of, hits, select, to_choose_on
from fastlt.stage2.classifiers.sgd import Draws, train

Fold = Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class FitConfig:
    """How a classifier is trained.

    training: epochs, batch size, learning rate and weight decay.
    rows: the features, or fixed scores, to train on.
    law: of the sampler, as in Sampler.
    loss: a name of `fastlt.longtail.losses`.
    extra: values of further hyperparameters to choose from; every combination is trained.
    loss_options: the names in `extra` that are options of the loss.
    fold: a function from the tensors of a head to those of the fitted classifier.
    scores: the `scores` of the fitted classifier.
    slower: factor on the learning rates. decays: weight decays that replace the configured ones.
    prepare: called with a new head and the list of settings, before training.
    """

    training: Training
    rows: Features
    law: str = "class"
    loss: str = "cross_entropy"
    extra: dict[str, tuple[float, ...]] | None = None
    loss_options: tuple[str, ...] = ()
    fold: Fold = dict
    scores: Callable[..., Any] = linear_scores
    slower: float = 1.0
    decays: tuple[float, ...] | None = None
    prepare: Callable[[Head, list[dict[str, float]]], None] = lambda head, settings: None


def fit_trained(task: Task, config: FitConfig, make: Callable[[list[int], int], Head]) -> Fitted:
    """Trains `stage2.seeds` classifiers and returns them with the best setting.

    With features to choose on (`task.choose`), all settings are trained and the best one on these is kept. With
    choose_on=folds, the best setting is found by cross-validation, and only that is trained on all images. The weights
    are those of the last epoch or, with stage2.keep=best, of the epoch that is best on `task.choose`.

    make: a function from (seeds, number of settings) to the head to train.

    Raises UserError if there are no images for a choice among settings or for stage2.keep=best.
    """
    training, stage2 = config.training, task.stage2
    named = {
        "lr": tuple(config.slower * lr for lr in stage2.rates(training)),
        "weight_decay": config.decays or stage2.decays(training),
        **(config.extra or {}),
    }
    settings = [dict(zip(named, values, strict=True)) for values in product(*named.values())]
    seeds = [task.seed + number for number in range(stage2.seeds)]
    number, chosen = 0, settings[0]
    if len(settings) > 1 and task.choose_on == "folds":
        choice = best_of(_right_on_folds(task, config, settings, make), task.train.labels.cpu().numpy(), task.seed)
        chosen = choice.described(task.choose_on, settings)
        settings = [settings[choice.number]]
    head = make(seeds, len(settings))
    config.prepare(head, settings)
    draws = Draws(config.law, stage2.drawing if config.law == "class" else "quota", seeds, len(task.train))
    best = _Best(task, config, head, list(np.ndindex(len(seeds), len(settings))))
    loss, look = _loss(task, config, settings), best.look if stage2.keep == "best" else None
    train(head, config.rows, task.classes, draws, training, settings, loss, stage2.stepped, look)

    def tensors(seed: int, setting: int) -> Tensors:
        return best.tensors[seed, setting] if stage2.keep == "best" else config.fold(head.tensors(seed, setting))

    def scores(seed: int, setting: int) -> Scores:
        return partial(config.scores, tensors(seed, setting))

    choices: dict[str, Any] = {"epochs": training.epochs, "batch": training.batch}
    choices |= {"sampler": config.law} if config.law != "class" else {}
    if len(settings) > 1:
        candidates = [[scores(seed, setting) for seed in range(len(seeds))] for setting in range(len(settings))]
        choice = select(candidates, task.choose, task.seed)
        number, chosen = choice.number, choice.described(task.choose_on, settings)
    choices |= chosen
    if stage2.keep == "best":
        choices |= {"epoch": [best.epoch[seed, number] for seed in range(len(seeds))], "chosen_on": task.choose_on}
    first, *others = [_own(tensors(seed, number)) for seed in range(len(seeds))]
    return Fitted(first, choices, others=tuple(others))


def _right_on_folds(
    task: Task, config: FitConfig, settings: list[dict[str, float]], make: Callable[[list[int], int], Head]
) -> np.ndarray:
    """Returns whether each image is classified right after training on the other folds, for each setting, [K, N]."""
    draws = fold_draws(task, config.law, task.stage2.drawing if config.law == "class" else "quota")
    head = make(draws.seeds, len(settings))
    config.prepare(head, settings)
    loss = _loss(task, config, settings)
    train(head, config.rows, task.classes, draws, config.training, settings, loss, task.stage2.stepped)
    right = np.empty((len(settings), len(task.train)))
    for fold, setting in itertools.product(np.unique(draws.folds).tolist(), range(len(settings))):
        scores = partial(config.scores, config.fold(head.tensors(fold, setting)))
        right[setting, draws.folds == fold] = hits(scores, draws.fold(task.train, fold))
    return right


class _Best:
    """Keeps the best epoch so far of each classifier of a head, by its accuracy on `task.choose`, and its tensors.

    places: (seed, setting) of each classifier. Of equally good epochs the first is kept.
    """

    def __init__(self, task: Task, config: FitConfig, head: Head, places: list[tuple[int, ...]]):
        self.task, self.config, self.head, self.places = task, config, head, places
        self.right: dict[tuple[int, ...], float] = {}
        self.epoch: dict[tuple[int, ...], int] = {}
        self.tensors: dict[tuple[int, ...], Tensors] = {}

    def look(self, epoch: int) -> None:
        choose = to_choose_on(self.task.choose)
        for seed, setting in self.places:
            tensors, place = self.config.fold(self.head.tensors(seed, setting)), (seed, setting)
            right = float(hits(partial(self.config.scores, tensors), choose).mean())
            if right > self.right.get(place, -1.0):
                self.right[place], self.epoch[place], self.tensors[place] = right, epoch, _own(tensors)


def _loss(task: Task, config: FitConfig, settings: list[dict[str, float]]) -> Loss:
    """Returns a loss on logits [S, K, B, C] of S seeds and K settings, whose options may differ between settings."""
    counts = task.train.labels.new_tensor(task.counts)
    each = [
        make_loss(config.loss, counts, options={name: setting[name] for name in config.loss_options})
        for setting in (settings if config.loss_options else settings[:1])
    ]
    if len(each) == 1:
        return each[0]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        parts = zip(each, logits.unbind(1), labels.unbind(1), strict=True)
        return torch.stack([one(z, y) for one, z, y in parts], dim=1)

    return loss


def _own(tensors: Tensors) -> Tensors:
    """Returns copies of tensors; a view into a head's parameters would keep all of them in memory and in the file."""
    return {name: tensor.clone() for name, tensor in tensors.items()}
