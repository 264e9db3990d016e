"""Choosing one of several classifiers by accuracy on the split that choices are made on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.stage2.classifiers.base import Features

CRITERION = "mean_class"  # accuracy as a balanced test set would measure it
DRAWS = 200  # of the bootstrap that says how sure a choice is
TAU = 1.0  # of whatever has a tau, where there are no images to choose it on
ROWS = 8192  # scores held at once
Scores = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Choice:
    """number: of the best. accuracy: of each, in percent, mean over the classes that have samples. same: how many of
    the drawn sets, in percent, would have chosen the same. accuracy_se: standard error of the best's accuracy."""

    number: int
    accuracy: list[float]
    same: float
    accuracy_se: float

    def described(self, choose_on: str, settings: list[dict[str, Any]]) -> dict[str, Any]:
        """For results.json."""
        return {
            **settings[self.number],
            "chosen_on": choose_on,
            "criterion": CRITERION,
            "accuracy": self.accuracy[self.number],
            "grid": [{**setting, "accuracy": value} for setting, value in zip(settings, self.accuracy, strict=True)],
            "bootstrap": {"draws": DRAWS, "same_choice": self.same, "accuracy_se": self.accuracy_se},
        }


def choose(candidates: list[list[Scores]], features: Features | None, seed: int) -> Choice:
    """The candidate with the highest mean class accuracy, the first of several; a candidate is one classifier trained
    with several seeds, and its accuracy their mean.

    The bootstrap (Efron 1979) draws samples with replacement within each class. Raises UserError without features.
    """
    features = to_choose_on(features)
    right = np.stack([np.mean([hits(scores, features) for scores in seeds], axis=0) for seeds in candidates])
    labels = features.labels.cpu().numpy()
    order = np.argsort(labels, kind="stable")
    right, sizes = right[:, order], np.unique(labels, return_counts=True)[1]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def accuracy(sample: np.ndarray) -> np.ndarray:
        return 100 * (np.add.reduceat(sample, starts, axis=1) / sizes).mean(axis=1)

    found = accuracy(right)
    best = int(np.argmax(np.round(found, 9)))
    rng = np.random.default_rng([seed, len(labels)])
    first, many = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    drawn = np.stack([accuracy(right[:, first + rng.integers(many)]) for _ in range(DRAWS)])
    same = 100 * float(np.mean(np.argmax(np.round(drawn, 9), axis=1) == best))
    return Choice(best, found.tolist(), same, float(drawn[:, best].std(ddof=1)))


def to_choose_on(features: Features | None) -> Features:
    """The features themselves. Raises UserError where there are none."""
    if features is None:
        raise UserError(
            "its settings are to be chosen, and there are no images to choose on: hold_out=0.1 keeps some training "
            "images apart, choose_on=train takes those that are trained on"
        )
    return features


@torch.inference_mode()
def hits(scores: Scores, features: Features) -> np.ndarray:
    """Whether each sample is classified right, bool [N]."""
    parts = zip(features.x.split(ROWS), features.labels.split(ROWS), strict=True)
    return torch.cat([scores(x.float()).argmax(1) == labels for x, labels in parts]).cpu().numpy()
