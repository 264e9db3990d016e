"""Temperature scaling (Guo et al. 2017): the T > 0 that makes softmax(scores / T) fit the labels best."""

from collections.abc import Callable

import torch

from fastlt.core.log import say
from fastlt.core.words import counted
from fastlt.stage2.classifiers.base import Features, wide

TILE = 1024  # samples whose scores are processed at once
# Smallest and largest T. Scores may have any size: `ncm_authors_cos` divides them by the length of features, and tau
# divides by powers of norms or of priors.
BOUNDS = (1e-30, 1e30)
STEPS = 50  # maximum number of iterations; Newton's method needs about ten, bisection of the whole range about thirty
ACCURACY = 1e-6  # relative accuracy of 1 / T


@torch.inference_mode()
def fit_temperature(scores: Callable[[torch.Tensor], torch.Tensor], features: Features, rows: int = 20000) -> float:
    """Returns the T in [1e-30, 1e30] that minimizes the mean negative log-likelihood of softmax(scores / T).

    scores: a function from features [n, D], float64 or float32, to scores [n, C].
    features: held-out samples with their labels; features in float64 stay so, others become float32.
    rows: maximum number of samples; of more, so many evenly spread ones are used.

    The loss is convex in b = 1 / T. It is minimized by Newton's method in b within a shrinking bracket. It has no
    minimum if all samples are classified correctly, which any smaller T makes more certain, or if true classes score
    below the average class. T is then 1, and a line says so. T is also 1 if all scores of each row are equal.

    Raises ValueError if a score is not finite.
    """
    tiles = _below_best(scores, features, rows)
    if not any(bool(below.any()) for below, _ in tiles):
        return 1.0
    right = all(bool((below.gather(1, labels[:, None]) == 0).all()) for below, labels in tiles)
    if right or _slopes(tiles, 0.0)[0] >= 0:
        why = "are all classified right" if right else "score lower in their own class than in others on average"
        say(f"no temperature fits {counted(len(features), 'held-out image')} that {why}: it stays 1")
        return 1.0
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    if _slopes(tiles, high)[0] <= 0:
        return BOUNDS[0]
    if _slopes(tiles, low)[0] >= 0:
        return BOUNDS[1]
    inverse = 1.0
    for _ in range(STEPS):
        slope, curvature = _slopes(tiles, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        # Squares of large scores are not finite in float32.
        step = slope / curvature if 0 < curvature < float("inf") else float("inf")
        # Far from the minimum the loss is flat or nearly linear, so that a Newton step would leave the bracket.
        moved = inverse - step if low <= inverse - step <= high else (low * high) ** 0.5
        done = abs(moved - inverse) <= ACCURACY * inverse
        inverse = moved
        if done:
            break
    return 1 / inverse


def _below_best(
    scores: Callable[[torch.Tensor], torch.Tensor], features: Features, rows: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the samples in tiles of (scores minus the largest score of their row [n, C], labels [n])."""
    count = len(features)
    taken = torch.arange(min(rows, count), device=features.x.device) * count // min(rows, count)
    tiles = []
    for part in taken.split(TILE):
        raw = wide(scores(wide(features.x[part])))
        tiles.append(((raw - raw.amax(1, keepdim=True)).float(), features.labels[part]))
    if not all(bool(below.isfinite().all()) for below, _ in tiles):
        raise ValueError("a score that the temperature is fitted to is not finite")
    return tiles


def _slopes(tiles: list[tuple[torch.Tensor, torch.Tensor]], inverse: float) -> tuple[float, float]:
    """Returns the first and second derivative of the mean loss by b = 1 / T.

    For a row of scores s these are E[s] - s_y and Var[s] under softmax(b s).
    """
    slope = torch.zeros((), dtype=torch.float64, device=tiles[0][0].device)
    curvature = slope.clone()
    for below, labels in tiles:
        weight = (inverse * below).exp_()
        weight /= weight.sum(1, keepdim=True)
        mean = torch.linalg.vecdot(weight, below)
        own = below.gather(1, labels[:, None])[:, 0]
        slope += (mean - own).sum(dtype=torch.float64)
        curvature += (weight.mul_((below - mean[:, None]).square_())).sum(dtype=torch.float64)
    count = sum(len(labels) for _, labels in tiles)
    return float(slope) / count, float(curvature) / count
