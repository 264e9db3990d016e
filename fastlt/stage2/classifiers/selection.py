"""Selects the best of several fitted classifiers by their accuracy on the split that choices are made on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.stage2.classifiers.base import Features

CRITERION = "mean_class"  # the accuracy that choices maximize: the mean over classes, as on a balanced test set
DRAWS = 200  # bootstrap samples that say how certain a choice is
TAU = 1.0  # tau where there are no images to choose it on
ROWS = 8192  # features whose scores are computed at once
Scores = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Selection:
    """The best of several candidates.

    number: index of the best candidate. accuracy: mean class accuracy of each candidate, in percent.
    same: share of the bootstrap samples, in percent, in which the same candidate is the best.
    accuracy_se: standard error of the accuracy of the best candidate, in percent.
    """

    number: int
    accuracy: list[float]
    same: float
    accuracy_se: float

    def described(self, choose_on: str, settings: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns the choice as plain values for results.json.

        choose_on: the name of the split. settings: the hyperparameters of each candidate.
        """
        return {
            **settings[self.number],
            "chosen_on": choose_on,
            "criterion": CRITERION,
            "accuracy": self.accuracy[self.number],
            "grid": [{**setting, "accuracy": value} for setting, value in zip(settings, self.accuracy, strict=True)],
            "bootstrap": {"draws": DRAWS, "same_choice": self.same, "accuracy_se": self.accuracy_se},
        }


def select(candidates: list[list[Scores]], features: Features | None, seed: int) -> Selection:
    """Returns the candidate with the highest mean class accuracy, the first one if several are equally good.

    candidates: for each candidate, the score functions of its trainings with several seeds, whose accuracies are
        averaged.
    features: what the accuracy is measured on. seed: of the bootstrap.

    Raises UserError if features is None.
    """
    features = to_choose_on(features)
    right = np.stack([np.mean([hits(scores, features) for scores in seeds], axis=0) for seeds in candidates])
    return best_of(right, features.labels.cpu().numpy(), seed)


def best_of(right: np.ndarray, labels: np.ndarray, seed: int) -> Selection:
    """Returns the best of K candidates, as `select` does.

    right: whether each candidate is right on each sample, float [K, N], averaged over seeds, in 0..1.
    labels: int64 [N]. seed: of the bootstrap (Efron 1979), which draws samples with replacement within each class.
    """
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
    return Selection(best, found.tolist(), same, float(drawn[:, best].std(ddof=1)))


def to_choose_on(features: Features | None) -> Features:
    """Returns the features unchanged. Raises UserError if they are None."""
    if features is None:
        raise UserError(
            "its settings are to be chosen, and there are no images to choose on: hold_out=0.1 keeps some training "
            "images apart, choose_on=train takes those that are trained on"
        )
    return features


@torch.inference_mode()
def hits(scores: Scores, features: Features) -> np.ndarray:
    """Returns whether each sample is classified right, bool [N]."""
    parts = zip(features.x.split(ROWS), features.labels.split(ROWS), strict=True)
    return torch.cat([scores(x.float()).argmax(1) == labels for x, labels in parts]).cpu().numpy()
