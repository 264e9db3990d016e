"""Temperature scaling (Guo et al. 2017): the T > 0 that makes softmax(scores / T) fit the labels best."""

from collections.abc import Callable

import torch

from fastlt.stage2.classifiers.base import Features

TILE = 1024  # rows of scores that are worked on at once
BOUNDS = (1e-3, 1e3)  # of T
STEPS = 50  # Newton needs about ten
ACCURACY = 1e-6  # relative, of 1 / T


@torch.inference_mode()
def fit_temperature(scores: Callable[[torch.Tensor], torch.Tensor], features: Features, rows: int = 20000) -> float:
    """T in [1e-3, 1e3] that minimizes the mean negative log-likelihood of softmax(scores / T).

    scores: float32 features [n, D] -> [n, C]. Of more than `rows` samples so many, evenly spread, are taken. The loss
    is convex in b = 1 / T: Newton's iteration in b, kept within what is left of the bounds. Where it has no minimum T
    is a bound: the lower one if all samples are right, the upper one if the labels score below the average class. Where
    all scores of every row are equal, T is 1.

    Raises ValueError if a score is not finite.
    """
    tiles = _below_best(scores, features, rows)
    if not any(bool(below.any()) for below, _ in tiles):
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
        step = slope / curvature if curvature > 0 else float("inf")
        # Far from the minimum the loss is flat or nearly linear, and Newton would leave the bracket.
        moved = inverse - step if low <= inverse - step <= high else (low * high) ** 0.5
        done = abs(moved - inverse) <= ACCURACY * inverse
        inverse = moved
        if done:
            break
    return 1 / inverse


def _below_best(
    scores: Callable[[torch.Tensor], torch.Tensor], features: Features, rows: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(scores less the best of their row [n, C], labels [n]) of the samples, in tiles."""
    count = len(features)
    taken = torch.arange(min(rows, count), device=features.x.device) * count // min(rows, count)
    tiles = []
    for part in taken.split(TILE):
        raw = scores(features.x[part].float()).float()
        tiles.append((raw - raw.amax(1, keepdim=True), features.labels[part]))
    if not all(bool(below.isfinite().all()) for below, _ in tiles):
        raise ValueError("a score that the temperature is fitted to is not finite")
    return tiles


def _slopes(tiles: list[tuple[torch.Tensor, torch.Tensor]], inverse: float) -> tuple[float, float]:
    """First and second derivative by b = 1 / T of the mean loss: E[s] - s_y and Var[s] under softmax(b s)."""
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
