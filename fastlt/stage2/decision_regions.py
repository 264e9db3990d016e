"""Decision regions: which class is predicted at each point of a plane of two-dimensional features (paper, Figure 4).

This module uses no torch, because the report imports it as well.
"""

import re
from itertools import groupby
from typing import Any

import numpy as np

POINTS = 2000  # maximum number of test features that are stored
SIDE = 160  # cells of the lattice along each axis
MARGIN = 0.1  # margin at each end of an axis, as a share of the span of the points
OUTER = 0.01  # share of the points that may lie beyond each end, so that an outlier does not squeeze the others
_RUN = re.compile(r"(\d{1,9})\*(\d{1,9})", re.ASCII)


def region_frame(features: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the part of the plane that holds the test features, as a dict for results.json.

    features: float [N, 2]. labels: class indices, int [N].

    `x` [n, 2], with 4 significant digits, and `labels` [n] are those of at most POINTS evenly picked samples. `low` and
    `high` [2] are the ends of the axes; all but the outermost of these points lie within them, with a margin.
    """
    total = len(labels)
    shown = np.arange(min(total, POINTS)) * total // min(total, POINTS)
    x = np.array([[float(f"{value:.4g}") for value in point] for point in features[shown].tolist()])
    low, high = np.quantile(x, [OUTER, 1 - OUTER], axis=0)
    # If all points have the same coordinate on an axis, the span is 0 and the margin cannot be a share of it.
    margin = np.where(high > low, MARGIN * (high - low), np.maximum(np.abs(low), 1.0))
    low, high = low - margin, high + margin
    return {"x": x.tolist(), "labels": labels[shown].tolist(), "low": low.tolist(), "high": high.tolist()}


def lattice(frame: dict[str, Any]) -> np.ndarray:
    """Returns the centres of SIDE x SIDE equal cells of the frame, float32 [SIDE * SIDE, 2].

    The lowest row is first, and each row goes from left to right. frame: as `region_frame` returns it.
    """
    places = (np.arange(SIDE) + 0.5) / SIDE
    across, up = (low + places * (high - low) for low, high in zip(frame["low"], frame["high"], strict=True))
    return np.stack(np.meshgrid(across, up), 2).reshape(-1, 2).astype(np.float32)


def write_regions(classes: np.ndarray) -> list[str]:
    """Returns the predicted classes of a square lattice, int [H, H], as one string of run lengths for each row.

    >>> write_regions(np.array([[0, 0], [2, 0]]))
    ['0*2', '2*1 0*1']
    """
    return [" ".join(f"{label}*{len(list(run))}" for label, run in groupby(row)) for row in classes.tolist()]


def read_regions(rows: Any) -> np.ndarray:
    """Returns the classes, int64 [H, H], that `write_regions` wrote. Raises ValueError for anything else."""
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
