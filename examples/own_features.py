"""Fits several classifiers on features of any network and prints their accuracies by group.

    python examples/own_features.py                  # features that are drawn here
    python examples/own_features.py features.npz     # yours: arrays x [N, D], y [N], split [N] of train, val and test

The classifiers follow scikit-learn's conventions; `python -m fastlt.train features=features.npz` does the whole of
stage 2 on the same file, and writes a report.
"""

import sys
import time

import numpy as np

from fastlt.classifiers import CRT, LWS, NCM, BalancedSoftmax, Joint, LogitAdjust, LongTailClassifier, TauNorm


def drawn(classes: int = 20, dim: int = 64) -> dict[str, np.ndarray]:
    """Draws Gaussian classes: 500 training rows of the first class down to 5 of the last, and 50 test rows of each."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, dim))
    train = np.round(500 * 0.01 ** np.linspace(0, 1, classes)).astype(int)
    y = np.concatenate([np.repeat(np.arange(classes), train), np.repeat(np.arange(classes), 50)])
    x = centers[y] + rng.normal(scale=2.2, size=(len(y), dim))
    return {"x": x.astype(np.float32), "y": y, "split": np.repeat(["train", "test"], [train.sum(), 50 * classes])}


def main(arguments: list[str]) -> dict[str, dict]:
    """Prints the table and returns the reports of the classifiers by name."""
    data = np.load(arguments[0]) if arguments else drawn()
    x, y, split = data["x"], data["y"], data["split"]
    parts = {name: (x[split == name], y[split == name]) for name in ("train", "val", "test")}
    held_out = parts["val"] if len(parts["val"][1]) else (None, None)
    joint = Joint().fit(*parts["train"], *held_out)
    below = joint.tensors_["weight"] / joint.scale_, joint.tensors_["bias"]  # for features that are not scaled
    classifiers: dict[str, LongTailClassifier] = {
        "joint": joint,
        "NCM": NCM(),
        "cRT": CRT(),
        "tau-norm": TauNorm(joint=below),
        "LWS": LWS(joint=below),
        "logit adjustment": LogitAdjust(joint=below),
        "balanced softmax": BalancedSoftmax(),
    }
    reports = {}
    print(f"{'':18}" + "".join(f"{name:>9}" for name in ("many", "medium", "few", "all", "seconds")))
    for name, classifier in classifiers.items():
        start = time.monotonic()
        reports[name] = classifier.fit(*parts["train"], *held_out).report(*parts["test"])
        values = [reports[name][group] for group in ("many", "medium", "few", "all")]
        shown = ["-" if value is None else f"{value:.1f}" for value in values]
        print(f"{name:18}" + "".join(f"{value:>9}" for value in [*shown, f"{time.monotonic() - start:.1f}"]))
    return reports


if __name__ == "__main__":
    main(sys.argv[1:])
