"""The exact choice of a tau, and its curve, as results.json holds them."""

from typing import Any

import numpy as np
import torch

from fastlt.kernels.accuracy_curve import accuracy_curve
from fastlt.kernels.choice_confidence import choice_confidence
from fastlt.stage2.classifiers.choice import DRAWS

DRAWN = np.round(np.linspace(-0.5, 2.5, 301), 2)  # values of tau that are kept of a curve


def chosen_tau(
    lo: torch.Tensor, hi: torch.Tensor, labels: torch.Tensor, groups: np.ndarray, criterion: str, seed: int
) -> dict[str, Any]:
    """The best tau, from the interval [lo, hi] of tau in which each sample is classified right; with the range that is
    equally good and a bootstrap of the choice."""
    tau, interval, accuracy = accuracy_curve(lo, hi, labels, groups).best(criterion)
    confidence = choice_confidence(lo, hi, labels, groups, criterion, DRAWS, seed)
    return {
        "tau": tau,
        "interval": [_finite(end) for end in interval],
        "accuracy": accuracy,
        "criterion": criterion,
        "bootstrap": {
            "draws": DRAWS,
            "tau": confidence.quantiles.tolist(),
            "accuracy_se": confidence.accuracy_se,
        },
    }


def drawn_curve(
    lo: torch.Tensor, hi: torch.Tensor, labels: torch.Tensor, groups: np.ndarray
) -> dict[str, list[float | None]]:
    """Accuracies at the values of tau that are drawn."""
    columns = accuracy_curve(lo, hi, labels, groups).at(DRAWN)
    return {"tau": DRAWN.tolist(), **{name: [_finite(value) for value in column] for name, column in columns.items()}}


def _finite(end: float) -> float | None:
    """JSON knows neither infinity nor NaN: an open end of an interval and the accuracy of an empty group are null."""
    return float(end) if np.isfinite(end) else None
