"""The plane of two-dimensional features, and which class is predicted where in it (Figure 4 of the paper).

Arrays and what results.json holds of them, nothing of torch: the report reads this, too.
"""

import re
from itertools import groupby
from typing import Any

import numpy as np

POINTS = 2000  # of the test split, at most
SIDE = 160  # cells of the lattice along each axis
MARGIN = 0.1  # of the span, at each end of an axis
OUTER = 0.01  # share of the points that may lie beyond each end: one far away would leave no room for the others
_RUN = re.compile(r"(\d{1,9})\*(\d{1,9})", re.ASCII)


def plane_of(features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The part of the plane that holds the test features, as results.json has it.

    features: float [N, 2]. labels: int [N]. `x` [n, 2], with 4 significant digits, and `labels` [n]: of at most POINTS
    samples, evenly picked. `low` and `high`: the ends of both axes, a margin beyond all but the outermost of these
    points.
    """
    total = len(labels)
    shown = np.arange(min(total, POINTS)) * total // min(total, POINTS)
    x = np.array([[float(f"{value:.4g}") for value in point] for point in features[shown].tolist()])
    low, high = np.quantile(x, [OUTER, 1 - OUTER], axis=0)
    # Where all points have the same place on an axis, there is no span to take a share of.
    margin = np.where(high > low, MARGIN * (high - low), np.maximum(np.abs(low), 1.0))
    low, high = low - margin, high + margin
    return {"x": x.tolist(), "labels": labels[shown].tolist(), "low": low.tolist(), "high": high.tolist()}


def lattice(plane: dict[str, Any]) -> np.ndarray:
    """Centres of SIDE x SIDE equal cells of the plane: float32 [SIDE * SIDE, 2], the lowest row first, each from left
    to right."""
    places = (np.arange(SIDE) + 0.5) / SIDE
    across, up = (low + places * (high - low) for low, high in zip(plane["low"], plane["high"], strict=True))
    return np.stack(np.meshgrid(across, up), 2).reshape(-1, 2).astype(np.float32)


def write_regions(classes: np.ndarray) -> list[str]:
    """A square of classes, int [H, H], as run lengths of its rows: "0*53 2*107" is 53 cells of class 0, then 107 of
    class 2."""
    return [" ".join(f"{label}*{len(list(run))}" for label, run in groupby(row)) for row in classes.tolist()]


def read_regions(rows: Any) -> np.ndarray:
    """What `write_regions` wrote, int64 [H, H]. Raises ValueError for anything else."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, str) for row in rows):
        raise ValueError("no list of strings")
    return np.array([_cells(row, len(rows)) for row in rows])


def _cells(row: str, width: int) -> np.ndarray:
    found = [_RUN.fullmatch(run) for run in row.split(" ")]
    runs = [(int(run[1]), int(run[2])) for run in found if run]
    if len(runs) != len(found) or sum(count for _, count in runs) != width:
        raise ValueError(f"{row[:40]!r} is no row of {width} cells, such as '0*{width}'")
    labels, counts = np.array(runs).T
    return np.repeat(labels, counts)
