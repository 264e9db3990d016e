"""Chooses the best tau exactly, and computes accuracy as a curve over tau, in the form of results.json."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from fastlt.kernels.accuracy_curve import accuracy_curve
from fastlt.kernels.choice_confidence import choice_confidence
from fastlt.stage2.classifiers.base import Features, Task
from fastlt.stage2.classifiers.folds import Intervals, intervals_on_folds
from fastlt.stage2.classifiers.selection import CRITERION, DRAWS, TAU

DRAWN = np.round(np.linspace(-0.5, 2.5, 301), 2)  # values of tau at which a curve is stored


def choose_tau(task: Task, intervals: Intervals) -> dict[str, Any]:
    """Returns the choice of tau that a task asks for: on features, by cross-validation, or 1 with choose_on=none.

    intervals: a function from (features, weight [C, D], bias [C]) to the ends (lo, hi), [N] each, of the intervals of
        tau in which each sample is classified right.
    """
    if task.choose is not None:
        return choose_tau_on(task, intervals, task.choose, task.choose_on)
    if task.choose_on == "folds":
        return {**_best(task, *intervals_on_folds(task, intervals)), "chosen_on": "folds"}
    return {"tau": TAU}


def choose_tau_on(task: Task, intervals: Intervals, features: Features, name: str) -> dict[str, Any]:
    """Returns the choice of tau on given features. intervals: as in `choose_tau`. name: of the features."""
    lo, hi = intervals(features, task.weight, task.bias)
    return {**_best(task, lo, hi, features.labels), "chosen_on": name}


def curve_over_tau(task: Task, intervals: Intervals) -> Callable[[Features], dict[str, list[float | None]]]:
    """Returns a function from features to accuracies at the values DRAWN of tau, as lists by name.

    intervals: as in `choose_tau`.
    """

    def curve(features: Features) -> dict[str, list[float | None]]:
        lo, hi = intervals(features, task.weight, task.bias)
        columns = accuracy_curve(lo, hi, features.labels, task.groups).at(DRAWN)
        lists = {name: [_finite(value) for value in column] for name, column in columns.items()}
        return {"tau": DRAWN.tolist(), **lists}

    return curve


def _best(task: Task, lo: Tensor, hi: Tensor, labels: Tensor) -> dict[str, Any]:
    """Returns the best tau, its accuracy, the interval that is equally good, and a bootstrap of the choice."""
    tau, interval, accuracy = accuracy_curve(lo, hi, labels, task.groups).best(CRITERION)
    confidence = choice_confidence(lo, hi, labels, task.groups, CRITERION, DRAWS, task.seed)
    return {
        "tau": tau,
        "interval": [_finite(end) for end in interval],
        "accuracy": accuracy,
        "criterion": CRITERION,
        "bootstrap": {
            "draws": DRAWS,
            "tau": confidence.quantiles.tolist(),
            "accuracy_se": confidence.accuracy_se,
        },
    }


def _finite(end: float) -> float | None:
    """Returns a float, or None for infinity (an open interval) and NaN (an empty group), which JSON does not have."""
    return float(end) if np.isfinite(end) else None
