"""Results as results.json holds them, made by hand: tests change them before they are read."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from fastlt.core.groups import GROUPS, group_sizes
from fastlt.stage2.decision_regions import write_regions

ALL = ("joint", "ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws")
# many, medium, few, all: the shape of the paper's results on ImageNet-LT
SCORES = {
    "joint": (65.9, 37.5, 7.7, 44.4),
    "ncm_l2": (56.6, 45.3, 28.1, 47.3),
    "ncm_cosine": (56.1, 45.0, 28.4, 47.1),
    "crt": (61.8, 46.2, 27.4, 49.6),
    "tau_norm": (59.1, 46.9, 30.7, 49.4),
    "lws": (60.2, 47.2, 30.3, 49.9),
}
TRAIN: list[int] = np.geomspace(400, 5, 36).astype(int).tolist()
PRIORS = [
    *("forward_50", "forward_25", "forward_10", "forward_5", "forward_2", "uniform"),
    *("backward_2", "backward_5", "backward_10", "backward_25", "backward_50"),
]
SETTINGS = {"crt": {"epochs": 10, "lr": 0.2}, "lws": {"epochs": 5, "lr": 0.2}}


def made(
    train: list[int] = TRAIN,
    names: tuple[str, ...] = ALL,
    per_class: int = 20,
    val: bool = True,
    choose_on: str = "val",
) -> dict[str, Any]:
    """A results.json as fastlt.train writes it, for classes with these training counts."""
    groups = group_sizes(np.asarray(train))
    draw = np.random.default_rng(0)
    results = {
        "schema": 1, "dataset": "shapes", "dataset_digest": "0123456789abcdef", "backbone": "resnet32",
        "sampler": "instance", "drawing": "quota", "seed": 0, "protocol": "demo", "key": "fedcba98", "epochs": 20,
        "image_size": 32, "parameters": 464154, "checkpoint": {"epoch": 18, "chosen": "best epoch on val"},
        "seconds": 101.2, "images_per_second": 340.1, "class_names": [f"class {j}" for j in range(len(train))],
        "class_counts": {"train": train, "val": [10] * len(train), "test": [per_class] * len(train)},
        "evaluation": {"crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.2] * 3, "kind": "keep", "quality": 90,
                       "max_short_side": 0, "orientation": "ignore"},
        "groups": groups, "choose_on": choose_on, "hold_out": 0.0, "precision": "fp32", "mode": "features",
        "bn": "frozen", "augmented_passes": 0, "feature_dtype": "float32", "classifiers": {},
        "versions": {"python": "3.11.7", "torch": "2.8.0"}, "device": "cpu, 2 threads", "departures": {},
    }  # fmt: skip
    if not val:
        del results["class_counts"]["val"]
        results["checkpoint"] = {"epoch": 20, "chosen": "last epoch"}
    for place, name in enumerate(names):
        many, medium, few, over = SCORES.get(name, (50.0, 40.0, 30.0, 42.0))
        row: dict[str, Any] = {"many": many, "medium": medium, "few": few, "all": over, "mean_class": over}
        row |= {group: None for group in GROUPS if not groups[group]}
        row |= {"macro_f1": None, "top5": 80.0 + place, "ece": 12.5 - place, "per_class": [over] * len(train)}
        row |= {"reliability": None, "confusions": [], "shifted": {}, "seconds": None, "key": "ab12"}
        row["choices"] = dict(SETTINGS.get(name, {}))
        if not name.startswith("ncm"):
            tilt = {"joint": 0.35, "tau_norm": 0.1, "lws": 0.05}.get(name, -0.05)
            norms = np.asarray(train, dtype=float) ** tilt * draw.uniform(0.9, 1.1, len(train))
            row["weight_norms"] = norms.tolist()
        if name == "tau_norm":
            row["choices"] = {"tau": 0.71, "interval": [0.69, 0.74], "accuracy": 48.1, "criterion": "mean_class"}
            row["choices"]["chosen_on"] = choose_on
            row["curves"] = {choose_on: curve(groups, shift=-0.1), "test": curve(groups)}
        results["classifiers"][name] = row
    return results


def measured(results: dict[str, Any], seeds: int = 1) -> dict[str, Any]:
    """The results with what newer runs hold as well: calibration, confusions, shifted priors, seeds, times."""
    results = flat(results)
    results["temperature_on"] = results["choose_on"]
    classes = len(results["class_names"])
    for place, (name, row) in enumerate(results["classifiers"].items()):
        bins = {"count": [0] * 13 + [40, 60], "confidence": [None] * 13 + [90.0, 97.5]}
        row["reliability"] = bins | {"accuracy": [None] * 13 + [70.0, 80.0 + place % 20]}
        after = bins | {"accuracy": [None] * 13 + [88.0, 97.0]}
        row["calibrated"] = {"temperature": 1.5 + place, "ece": 1.25, "reliability": after}
        pairs = [(0, 1, 9), (classes - 1, 0, 8), (1, 0, 7)]
        row["confusions"] = [[true, predicted, images, 5.0 * images] for true, predicted, images in pairs]
        tilt = 40.0 if name == "joint" else place % 7
        row["shifted"] = {prior: 50.0 + tilt * (5 - at) / 5 for at, prior in enumerate(PRIORS)}
        row["seconds"] = 0.25 + 100 * place
        if seeds > 1 and name != "joint" and not name.startswith("ncm"):
            keys = ("many", "medium", "few", "all", "mean_class", "top5", "ece")
            row |= {"seeds": seeds, "std": {key: None if row[key] is None else 0.3 + place for key in keys}}
    return results


def flat(results: dict[str, Any]) -> dict[str, Any]:
    """The results as of a backbone with two features: classes on a circle, in the middle of each region a test image;
    with joint the first class takes the regions of the last third."""
    results = copy.deepcopy(results)
    classes = len(results["class_names"])
    angles = 2 * np.pi * np.arange(classes) / classes
    middles = np.stack([np.cos(angles), np.sin(angles)], 1).round(3)
    results["decision_regions"] = {
        "x": middles.tolist(),
        "labels": list(range(classes)),
        "low": [-2, -2],
        "high": [2, 2],
    }
    across, up = np.meshgrid(*[np.linspace(-2, 2, 24)] * 2)
    nearest = (np.arctan2(up, across) / (2 * np.pi) * classes).round().astype(int) % classes
    for name, row in results["classifiers"].items():
        row["regions"] = write_regions(np.where(nearest > 2 * classes // 3, 0, nearest) if name == "joint" else nearest)
    return results


def curve(groups: dict[str, int], shift: float = 0.0) -> dict[str, list[float | None]]:
    """Accuracies over tau that rise and fall as those of Figure 2."""
    grid = np.linspace(-0.5, 2.5, 301)
    tau = grid - shift
    shapes = {
        "many": 66 / (1 + np.exp(3.2 * (tau - 1.35))),
        "medium": 48 * np.exp(-(((tau - 0.75) / 1.1) ** 2)),
        "few": 52 / (1 + np.exp(-4 * (tau - 0.6))),
    }
    shapes["all"] = shapes["mean_class"] = sum(shapes.values()) / 3
    result: dict[str, list[float | None]] = {"tau": grid.tolist()}
    for key, values in shapes.items():
        result[key] = [None] * len(grid) if groups.get(key) == 0 else np.round(values, 2).tolist()
    return result
