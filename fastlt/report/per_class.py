"""Writes per_class.csv: the accuracy of every classifier on every class, for spreadsheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.spreadsheet import write_csv
from fastlt.experiment.results import Results


def write_per_class(results: Results, path: Path) -> None:
    """Writes a CSV file with a row for each class.

    The columns are the class index, its name and group, the numbers of training and test images, and each classifier's
    accuracy in percent, which is empty if the class has no test images. The file is comma-separated UTF-8, quoted as in
    RFC 4180.
    """
    counts = results.class_counts
    accuracies = {name: row.per_class for name, row in results.classifiers.items()}
    groups = [GROUPS[group] for group in class_groups(np.asarray(counts["train"]))]
    columns = [range(len(groups)), results.class_names, groups, counts["train"], counts["test"]]
    columns += [["" if value is None else f"{value:.6g}" for value in column] for column in accuracies.values()]
    write_csv(path, [["class", "name", "group", "train", "test", *accuracies], *zip(*columns, strict=True)])
