"""Compares fastlt's classifiers with scikit-learn's on long-tailed features, and prints a table in Markdown.

    python tools/sklearn_table.py [--seeds 5]           # scikit-learn's digits, made long-tailed
    python tools/sklearn_table.py --run RUN --seeds 1   # the features of a finished run

Of the digits, 50 images of each digit are for testing. The number of training images falls
exponentially from 124 of the most frequent digit to 4 of the rarest. The order of the digits and the images are drawn
anew for every seed. Features are the 64 pixels, scaled to 0..1. Features of a run are divided by their
root mean square, for all classifiers alike. Needs scikit-learn.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import fastlt
from fastlt.classifiers import CRT, LWS, NCM, BalancedSoftmax, Joint, LogitAdjust, TauNorm
from fastlt.core.groups import GROUPS, class_groups

TEST, MOST, LEAST = 50, 124, 4  # images per digit: for testing; for training, of the most frequent and the rarest
RIVALS = {
    "LogisticRegression": lambda seed: LogisticRegression(max_iter=5000, random_state=seed),
    'LogisticRegression(class_weight="balanced")': lambda seed: LogisticRegression(
        class_weight="balanced", max_iter=5000, random_state=seed
    ),
    'LinearSVC(class_weight="balanced")': lambda seed: LinearSVC(class_weight="balanced", random_state=seed),
    "Joint": lambda seed: Joint(random_state=seed),
    "NCM": lambda seed: NCM(),
    "CRT": lambda seed: CRT(random_state=seed),
    "TauNorm": lambda seed: TauNorm(random_state=seed),
    "LWS": lambda seed: LWS(random_state=seed),
    "LogitAdjust": lambda seed: LogitAdjust(random_state=seed),
    "BalancedSoftmax": lambda seed: BalancedSoftmax(random_state=seed),
}


def long_tail(seed: int) -> tuple[np.ndarray, ...]:
    """Returns (train x, train y, test x, test y) of one draw: x float64 [N, 64], y int64 [N]."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    sizes = np.round(MOST * (LEAST / MOST) ** np.linspace(0, 1, 10)).astype(int)
    train, test = [], []
    for digit, size in zip(rng.permutation(10), sizes, strict=True):
        images = rng.permutation(np.flatnonzero(y == digit))
        test.append(images[:TEST])
        train.append(images[TEST : TEST + size])
    learned, shown = np.concatenate(train), np.concatenate(test)
    return x[learned] / 16, y[learned], x[shown] / 16, y[shown]


def features_of(run: Path) -> tuple[np.ndarray, ...]:
    """Returns (train x, train y, test x, test y) of a run: x float32 [N, D], y int64 [N]."""
    opened = fastlt.open_run(run)
    (x, y), (test_x, test_y) = opened.features("train"), opened.features("test")
    scale = np.sqrt(np.mean(np.square(x)))
    return x / scale, y, test_x / scale, test_y


def measure(clf: Any, data: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Fits a classifier; returns its accuracies in percent (many, medium, few, all) and the seconds the fit took."""
    x, y, test_x, test_y = data
    start = time.perf_counter()
    clf.fit(x, y)
    seconds = time.perf_counter() - start
    right = clf.predict(test_x) == test_y
    per_class = np.array([100 * right[test_y == digit].mean() for digit in np.unique(y)])
    groups = class_groups(np.bincount(y))
    return {name: per_class[groups == number].mean() for number, name in enumerate(GROUPS)} | {
        "all": 100 * right.mean(),
        "seconds": seconds,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a second thread makes computations on such small tensors slower
    Joint().fit(*long_tail(0)[:2])  # compiles the kernels before anything is timed
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    given = features_of(asked.run) if asked.run else None
    for seed in range(asked.seeds):
        data = given or long_tail(seed)
        for name, make in RIVALS.items():
            for column, value in measure(make(seed), data).items():
                found[name][column].append(value)
    columns = (*GROUPS, "all")
    sys.stdout.write(f"| classifier | {' | '.join(columns)} | seconds |\n|---|{'---:|' * (len(columns) + 1)}\n")
    for name, row in found.items():
        spread = [f" ±{np.std(row[column], ddof=1):.1f}" if asked.seeds > 1 else "" for column in columns]
        cells = [f"{np.mean(row[column]):.1f}{one}" for column, one in zip(columns, spread, strict=True)]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {np.median(row['seconds']):.2f} |\n")


if __name__ == "__main__":
    main()
