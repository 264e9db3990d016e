"""Measures a classifier: accuracy by group and class, top-5, calibration, confusions, accuracy under shifted priors."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastlt.core.groups import GROUPS, class_groups
from fastlt.stage2.classifiers.base import Features, wide

ROWS = 2048  # samples whose scores are computed at once, which bounds the memory
BINS = 15  # number of bins of the expected calibration error
CONFUSIONS = 20  # number of class pairs that are listed
IMBALANCES = (50, 25, 10, 5, 2)  # imbalances of the shifted priors, forward and backward
MEASURES = (*GROUPS, "all", "mean_class", "macro_f1", "top5", "ece")

Scores = Callable[[torch.Tensor], torch.Tensor]


@torch.inference_mode()
def evaluate(scores: Scores, test: Features, counts: np.ndarray, temperature: float | None = None) -> dict[str, Any]:
    """Measures a classifier on a split and returns a dict of the measures, in percent.

    scores: a function from features [n, D], float64 or float32, to scores [n, C]. The class with the largest score is
        predicted, of equal ones the first.
    test: features and labels of the split, a `fastlt.stage2.classifiers.base.Features`; features in float64 stay so,
        others become float32.
    counts: training images of each class, [C], which determine the groups.
    temperature: T; with it, softmax(scores / T) is measured as well.

    The dict holds, with None for a group or class without test images:
        many, medium, few: mean accuracy of the classes of the group.
        all, mean_class: accuracy over images, and its mean over the classes with test images.
        per_class: accuracy of each class, a list of length C.
        macro_f1: see `macro_f1`.
        top5: share of the images whose class is among the five highest scores.
        ece, reliability: expected calibration error of softmax(scores), and the bins that it is computed from.
        confusions: the most frequent wrong pairs, [true class, predicted class, images, percent of the true class's].
        shifted: see `shifted_accuracies`.
        calibrated: temperature, ece and reliability with the temperature, if one is given.

    Raises ValueError if a score is not finite.

    Example: four test images of two classes; the only image of the rare class is classified wrongly.

    >>> from fastlt.stage2.classifiers.base import Features
    >>> test = Features(torch.eye(2)[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 1]))
    >>> measures = evaluate(lambda x: x @ torch.tensor([[1.0, 0.0], [0.6, 0.4]]), test, np.array([500, 5]))
    >>> measures["many"], measures["few"], measures["all"], measures["mean_class"]
    (100.0, 0.0, 75.0, 50.0)
    """
    tiles = zip(test.x.split(ROWS), test.labels.split(ROWS), strict=True)
    columns = [_row_facts(wide(scores(wide(x))), y, temperature) for x, y in tiles]
    finite, predicted, rank, *confidences = (torch.cat(parts).cpu().numpy() for parts in zip(*columns, strict=True))
    if not finite.all():
        raise ValueError(f"the scores of row {int(np.argmin(finite))} are not finite")
    labels = test.labels.cpu().numpy()
    right = predicted == labels
    total = np.bincount(labels, minlength=len(counts))
    per_class = 100.0 * np.bincount(labels, right, minlength=len(counts)) / np.maximum(total, 1)
    present = total > 0
    groups = class_groups(counts)
    bins = [reliability(confidence, right) for confidence in confidences]
    result = {
        **{name: _mean(per_class[(groups == number) & present]) for number, name in enumerate(GROUPS)},
        "all": 100.0 * float(right.mean()),
        "mean_class": _mean(per_class[present]),
        "macro_f1": macro_f1(labels, predicted, len(counts)),
        "top5": 100.0 * float((rank < 5).mean()),
        "ece": calibration_error(bins[0]),
        "per_class": [float(value) if there else None for value, there in zip(per_class, present, strict=True)],
        "reliability": bins[0],
        "confusions": _confusions(labels, predicted, total),
        "shifted": shifted_accuracies(per_class, counts, present),
    }
    if temperature is not None:
        calibrated = {"temperature": temperature, "ece": calibration_error(bins[1]), "reliability": bins[1]}
        result["calibrated"] = calibrated
    return result


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Returns the mean over classes of F1 = 2 TP / (2 TP + FP + FN), in percent.

    The mean is over all classes that have samples or are predicted, as in scikit-learn's f1_score(average="macro"),
    which the paper's code prints.

    labels, predicted: class indices, int64 [n]. classes: the number of classes.
    """
    right = np.bincount(labels[predicted == labels], minlength=classes)
    either = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return 100.0 * float(np.mean(2 * right[either > 0] / either[either > 0]))


def reliability(confidence: np.ndarray, right: np.ndarray) -> dict[str, list[Any]]:
    """Returns a reliability diagram: `count`, mean `confidence` and `accuracy` of BINS bins of equal width.

    confidence: of the predicted classes, float [n] in 0..1. right: whether they are the true ones, bool [n].

    Confidence and accuracy are in percent, and None for an empty bin.
    """
    place = np.minimum((confidence.astype(np.float64) * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(place, minlength=BINS)

    def means(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(place, values, minlength=BINS)
        return [
            100.0 * float(total) / int(number) if number else None for total, number in zip(sums, count, strict=True)
        ]

    return {"count": count.tolist(), "confidence": means(confidence), "accuracy": means(right)}


def calibration_error(bins: dict[str, list[Any]]) -> float:
    """Returns the expected calibration error in percent: |confidence - accuracy| of a bin, averaged over all samples.

    bins: as `reliability` returns them.
    """
    filled = [row for row in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True) if row[0]]
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in filled) / sum(bins["count"])


def shifted_accuracies(per_class: np.ndarray, counts: np.ndarray, present: np.ndarray) -> dict[str, float]:
    """Returns the accuracy, in percent, on test sets with long-tailed class priors (Hong et al. 2021, LADE).

    per_class: accuracy of each class in percent, float [C].
    counts: training images of each class, [C]; classes with equal counts are ordered by index.
    present: bool [C], the classes that have test images. The priors of the others are distributed over these.

    Each value is sum_c pi_c accuracy_c, the exact expectation over test sets drawn with the priors pi, so nothing is
    resampled. `forward_50`: pi falls exponentially from the class with most training images to the class with fewest,
    by a factor of 50 in all. `backward_50`: it rises in the same way. `uniform`: all priors are equal.
    """
    position = np.empty(len(counts))
    position[np.argsort(-np.asarray(counts), kind="stable")] = np.linspace(0, 1, len(counts))

    def expected(exponents: np.ndarray) -> float:
        return float(np.average(per_class[present], weights=exponents[present]))

    return {
        **{f"forward_{ratio}": expected(float(ratio) ** -position) for ratio in IMBALANCES},
        "uniform": expected(np.ones(len(counts))),
        **{f"backward_{ratio}": expected(float(ratio) ** position) for ratio in reversed(IMBALANCES)},
    }


def average(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Averages the results of `evaluate` over the S seeds of a classifier; the result of one seed is returned as it is.

    Every number is the mean over seeds, or None if it is None for any seed. `confusions` adds up the images of all
    seeds, where a pair that a seed does not list counts as 0, and the percentage is of the images of all seeds. `seeds`
    is S. `std` holds the sample standard deviation (divided by S - 1) of each measure.
    """
    if len(results) == 1:
        return results[0]
    columns = {key: [result[key] for result in results] for key in results[0]}
    return {
        **{key: _average(values) for key, values in columns.items() if key != "confusions"},
        "confusions": _summed(columns["confusions"]),
        "seeds": len(results),
        "std": {key: None if None in columns[key] else float(np.std(columns[key], ddof=1)) for key in MEASURES},
    }


def _row_facts(scores: torch.Tensor, labels: torch.Tensor, temperature: float | None) -> list[torch.Tensor]:
    """Returns, for each row of scores [n, C], five (or four) tensors [n].

    These are whether the row is finite, the predicted class, the rank of the true class (from 0), the confidence of the
    predicted class and, with a temperature, that confidence with it.
    """
    best, predicted = scores.max(1)
    finite = best.isfinite() & scores.amin(1).isfinite()
    own = scores.gather(1, labels[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    # Which of equal scores torch.topk takes is undefined. Here it is the first class, as in the prediction.
    before = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    below = scores - best[:, None]
    tempered = [] if temperature is None else [(below / temperature).exp_().sum(1).reciprocal()]
    return [finite, predicted, before.count_nonzero(1), below.exp_().sum(1).reciprocal(), *tempered]


def _confusions(labels: np.ndarray, predicted: np.ndarray, total: np.ndarray) -> list[list[Any]]:
    classes = len(total)
    wrong = labels != predicted
    pairs, images = np.unique(labels[wrong] * classes + predicted[wrong], return_counts=True)
    order = np.argsort(-images, kind="stable")[:CONFUSIONS]
    rows = zip(pairs[order].tolist(), images[order].tolist(), strict=True)
    return [[pair // classes, pair % classes, many, 100.0 * many / int(total[pair // classes])] for pair, many in rows]


def _average(values: list[Any]) -> Any:
    """Returns the mean of numbers, or of lists and dicts element by element; None if any of the numbers is None."""
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, dict):
        return {key: _average([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_average(list(column)) for column in zip(*values, strict=True)]
    return float(np.mean(values))


def _summed(several: list[list[list[Any]]]) -> list[list[Any]]:
    images: Counter[tuple[int, int]] = Counter()
    share: Counter[tuple[int, int]] = Counter()
    for true, predicted, many, percent in (row for rows in several for row in rows):
        images[true, predicted] += many
        share[true, predicted] += percent / len(several)
    order = sorted(images, key=lambda pair: (-images[pair], pair))[:CONFUSIONS]
    return [[*pair, images[pair], share[pair]] for pair in order]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
