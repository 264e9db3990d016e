"""Conformal prediction sets: sets of classes that contain the true class with a given probability."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastlt.core.errors import UserError

ROUNDING = 1e-5  # by which share a probability may differ between batches, as sums are added in another order


@dataclass(frozen=True)
class PredictionSets:
    """The prediction sets of N images.

    members: whether each class is in the set of each image, bool [N, C]; an array or a tensor, as the features were.
    classes: the labels of the classes, [C]. coverage: the probability that was asked for.
    conditional: bool [C], the classes with a threshold of their own. For images of these the coverage holds class by
        class, and not only on average.

    Example:

        sets = CRT().fit(X, y, X_val, y_val).predict_set(X_test, coverage=0.95)
        sets.labels(0)  # the labels that the first image may have
    """

    members: Any
    classes: np.ndarray
    coverage: float
    conditional: np.ndarray

    def __len__(self) -> int:
        return len(self.members)

    def labels(self, image: int) -> np.ndarray:
        """Returns the labels in the set of one image. image: its row number."""
        row = self.members[image]
        return self.classes[np.asarray(row.cpu() if isinstance(row, Tensor) else row)]


class Calibration:
    """What decides which classes are in a prediction set: a threshold for each class, from held-out images.

    unfit: nonconformity 1 - p_y of held-out images, float64 [n]. labels: their class indices y, int64 [n].
    classes: the number of classes C. coverage: the probability that the true class is in the set, in (0, 1).

    Attributes: coverage; limits, the thresholds, float64 [C]; own, the classes with a threshold of their own, bool [C].

    Raises UserError for a coverage that is not between 0 and 1.
    """

    def __init__(self, unfit: np.ndarray, labels: np.ndarray, classes: int, coverage: float):
        self.coverage = coverage
        self.limits, self.own = thresholds(unfit, labels, classes, coverage)

    def members(self, probabilities: Tensor) -> Tensor:
        """Returns the classes in the set of each image, bool [N, C]; the most probable class is always among them.

        probabilities: [N, C]. A class at its threshold is in the set, also if rounding puts it just beyond.
        """
        unfit = 1 - probabilities.double() * (1 + ROUNDING)  # in float64, as the thresholds are
        found = unfit <= torch.from_numpy(self.limits).to(probabilities.device)
        return found.scatter_(1, probabilities.argmax(1, keepdim=True), True)

    def shortage(self, held_out: str) -> str:
        """Returns a sentence on the classes whose coverage holds only on average; "" if there are none.

        held_out: the name of the held-out images, for the sentence.
        """
        if self.own.all():
            return ""
        return (
            f"{int((~self.own).sum())} of {len(self.own)} classes have too few images in {held_out} for a coverage of "
            f"{self.coverage:g} each; for them it holds on average"
        )


def unfit_of(probabilities: Tensor, labels: Tensor) -> np.ndarray:
    """Returns the nonconformity 1 - p_y of images, float64 [n].

    probabilities: [n, C]. labels: class indices y, int64 [n], on the same device.
    """
    return 1 - probabilities.gather(1, labels[:, None])[:, 0].double().cpu().numpy()


def thresholds(unfit: np.ndarray, labels: np.ndarray, classes: int, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the threshold of each class, float64 [C], and whether it is from the class's own images, bool [C].

    A class c belongs to the prediction set of an image if its nonconformity 1 - p_c is at most the threshold of c.

    unfit: nonconformity 1 - p_y of held-out images, [n]. labels: their class indices y, int64 [n]. classes: C.
    coverage: in (0, 1).

    The threshold of a class with n_c images is the k-th smallest of their values, k = ceil((n_c + 1) coverage). The set
    of a further image of class c then contains c with at least this probability, if it comes from the same distribution
    (Vovk 2012; Sadinle, Lei and Wasserman 2019). A class with k > n_c has too few images for a threshold of its own.
    All such classes share the threshold of their images together, as in clustered conformal prediction (Ding et al.
    2023), or that of all images if theirs are too few even together. Their coverage holds on average.

    Raises UserError for a coverage that is not between 0 and 1.
    """
    if not isinstance(coverage, float | np.floating) or not 0 < coverage < 1:
        raise UserError(f"coverage={coverage}: it must be greater than 0 and below 1")
    counts = np.bincount(labels, minlength=classes)
    own = np.array([_place(count, coverage) <= count for count in counts.tolist()])
    rest = unfit[~own[labels]]
    pooled = _quantile(rest if _place(len(rest), coverage) <= len(rest) else unfit, coverage)
    found = [_quantile(unfit[labels == number], coverage) if own[number] else pooled for number in range(classes)]
    return np.array(found), own


def _place(count: int, coverage: float) -> int:
    return int(np.ceil((count + 1) * coverage - 1e-9))


def _quantile(values: np.ndarray, coverage: float) -> float:
    place = _place(len(values), coverage)
    return float(np.sort(values)[place - 1]) if place <= len(values) else np.inf
