"""tau_norm: tau-normalized classifier (paper section 4.2). w_j / ||w_j||^tau, no bias, tau chosen exactly."""

import numpy as np
import torch

from fastlt.classifiers.base import Features, Fitted, Task
from fastlt.kernels.accuracy_curve import AccuracyCurve, accuracy_curve
from fastlt.kernels.winning_interval import winning_interval

ROWS = 8192  # scores held at once
DRAWN = np.round(np.linspace(-0.5, 2.5, 301), 2)  # values of tau that results.json keeps of a curve
CRITERION = "mean_class"  # what the choice maximizes: accuracy as a balanced test set would measure it


def fit(task: Task) -> Fitted:
    """Scores w_j x / ||w_j||^tau (equation 4), tau the middle of the widest range that is best on `task.choose`.

    Every tau is considered: one matrix product tells for each sample in which interval of tau its own class wins.
    """
    norm = task.weight.norm(dim=1)
    log_norm = norm.double().log().cpu().numpy()

    def curve(features: Features) -> AccuracyCurve:
        low, high = [], []
        for x, labels in zip(features.x.split(ROWS), features.labels.split(ROWS), strict=True):
            scores = (x @ task.weight.T).float().cpu().numpy()
            ends = winning_interval(scores, log_norm, labels.cpu().numpy())
            low.append(ends[0])
            high.append(ends[1])
        return accuracy_curve(np.concatenate(low), np.concatenate(high), features.labels.cpu().numpy(), task.groups)

    tau, interval, accuracy = curve(task.choose).best(CRITERION)
    # A class that was never learned has a zero weight vector: it stays zero, at any tau.
    weight = task.weight / norm.clamp_min(torch.finfo(norm.dtype).tiny).pow(tau)[:, None]
    choices = {
        "tau": tau,
        "interval": [_finite(end) for end in interval],
        "accuracy": accuracy,
        "criterion": CRITERION,
        "chosen_on": task.choose_on,
    }
    return Fitted(lambda x: x @ weight.T, choices, weight, lambda features: _drawn(curve(features)))


def _finite(end: float) -> float | None:
    """JSON knows neither infinity nor NaN: an open end of an interval and the accuracy of an empty group are null."""
    return float(end) if np.isfinite(end) else None


def _drawn(curve: AccuracyCurve) -> dict[str, list[float | None]]:
    columns = {name: [_finite(value) for value in column] for name, column in curve.at(DRAWN).items()}
    return {"tau": DRAWN.tolist(), **columns}
