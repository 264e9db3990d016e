"""Predictions -> accuracy by group and class, top-5, calibration."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastlt.classifiers.base import Features
from fastlt.groups import GROUPS

ROWS = 8192  # scores held at once
BINS = 15  # of the expected calibration error


def evaluate(scores: Callable[[torch.Tensor], torch.Tensor], test: Features, groups: np.ndarray) -> dict[str, Any]:
    """Accuracy of a classifier on a split, in percent; None for a group without test images.

    scores: features [n, D] -> [n, C]. groups: int8 [C], 0 many, 1 medium, 2 few. `all` is over samples, `mean_class`
    over classes with test images; a group's accuracy is the mean of its classes'. ece: expected calibration error of
    the softmax of the scores, in percent, 15 bins.
    """
    correct, top5, confidence = [], [], []
    for x, labels in zip(test.x.split(ROWS), test.labels.split(ROWS), strict=True):
        probability = scores(x).float().softmax(1)
        best = probability.topk(min(5, probability.shape[1]), dim=1)
        hit = best.indices == labels[:, None]
        correct.append(hit[:, 0].cpu())
        top5.append(hit.any(1).cpu())
        confidence.append(best.values[:, 0].cpu())
    right = torch.cat(correct).numpy()
    labels = test.labels.cpu().numpy()
    total = np.bincount(labels, minlength=len(groups))
    per_class = 100.0 * np.bincount(labels, right, minlength=len(groups)) / np.maximum(total, 1)
    present = total > 0
    result = {name: _mean(per_class[(groups == number) & present]) for number, name in enumerate(GROUPS)}
    return {
        **result,
        "all": 100.0 * float(right.mean()),
        "mean_class": _mean(per_class[present]),
        "top5": 100.0 * float(torch.cat(top5).numpy().mean()),
        "ece": calibration_error(torch.cat(confidence).numpy(), right),
        "per_class": [float(value) if there else None for value, there in zip(per_class, present, strict=True)],
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error in percent: the mean gap of confidence and accuracy, over equal bins of confidence."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(place, confidence - correct, minlength=bins)
    return 100.0 * float(np.abs(gap).sum()) / len(confidence)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
