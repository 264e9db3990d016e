"""tau_norm: tau-normalized classifier (paper section 4). w_j / ||w_j||^tau, no bias, tau chosen exactly."""

import numpy as np
import torch

from fastlt.classifiers.base import Features, Fitted, Task
from fastlt.kernels.accuracy_curve import AccuracyCurve, accuracy_curve
from fastlt.kernels.choice_confidence import choice_confidence
from fastlt.kernels.tau_normalize import tau_normalize
from fastlt.kernels.winning_interval import winning_interval_linear

DRAWN = np.round(np.linspace(-0.5, 2.5, 301), 2)  # values of tau that results.json keeps of a curve
CRITERION = "mean_class"  # what the choice maximizes: accuracy as a balanced test set would measure it
DRAWS = 200  # of the bootstrap that says how sure the choice is


def fit(task: Task) -> Fitted:
    """Scores w_j x / ||w_j||^tau, tau the middle of the widest range that is best on `task.choose`.

    Every tau is considered: one matrix product tells for each sample in which interval of tau its own class wins.
    """

    def intervals(features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        return winning_interval_linear(features.x, task.weight, features.labels)

    def curve(features: Features) -> AccuracyCurve:
        return accuracy_curve(*intervals(features), features.labels, task.groups)

    ends = intervals(task.choose)
    tau, interval, accuracy = accuracy_curve(*ends, task.choose.labels, task.groups).best(CRITERION)
    confidence = choice_confidence(*ends, task.choose.labels, task.groups, CRITERION, DRAWS, task.seed)
    # A class that was never learned has a zero weight vector: it stays zero, at any tau.
    weight = tau_normalize(task.weight, tau)[0]
    choices = {
        "tau": tau,
        "interval": [_finite(end) for end in interval],
        "accuracy": accuracy,
        "criterion": CRITERION,
        "chosen_on": task.choose_on,
        "bootstrap": {
            "draws": DRAWS,
            "tau": confidence.quantiles.tolist(),
            "accuracy_se": confidence.accuracy_se,
        },
    }
    return Fitted(lambda x: x @ weight.T, choices, weight, lambda features: _drawn(curve(features)))


def _finite(end: float) -> float | None:
    """JSON knows neither infinity nor NaN: an open end of an interval and the accuracy of an empty group are null."""
    return float(end) if np.isfinite(end) else None


def _drawn(curve: AccuracyCurve) -> dict[str, list[float | None]]:
    columns = {name: [_finite(value) for value in column] for name, column in curve.at(DRAWN).items()}
    return {"tau": DRAWN.tolist(), **columns}
