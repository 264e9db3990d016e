"""per_class.csv: the accuracy of every classifier on every class, for spreadsheets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from fastlt.core.groups import GROUPS, class_groups


def write_per_class(results: dict[str, Any], path: Path) -> None:
    """A row for each class: its number, name, group, training and test images, and each classifier's accuracy in %.

    Comma separated, quoted as RFC 4180 says, UTF-8; an accuracy is empty where the class has no test images.
    """
    counts = results["class_counts"]
    classes = len(counts["train"])
    accuracies = {name: row["per_class"] for name, row in results["classifiers"].items() if "per_class" in row}
    groups = [GROUPS[group] for group in class_groups(np.asarray(counts["train"]))]
    names = results.get("class_names") or [""] * classes
    columns = [range(classes), names, groups, counts["train"], counts["test"]]
    columns += [["" if value is None else f"{value:.6g}" for value in column] for column in accuracies.values()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "name", "group", "train", "test", *accuracies])
        writer.writerows(zip(*columns, strict=True))
