"""Predictions -> accuracy by group and class, top-5, calibration, confusions, accuracy under shifted priors."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastlt.core.groups import GROUPS, class_groups
from fastlt.stage2.classifiers.base import Features

ROWS = 2048  # scores held at once
BINS = 15  # of the expected calibration error
CONFUSIONS = 20  # pairs that are kept
IMBALANCES = (50, 25, 10, 5, 2)  # of the shifted priors, in both directions
MEASURES = (*GROUPS, "all", "mean_class", "macro_f1", "top5", "ece")

Scores = Callable[[torch.Tensor], torch.Tensor]


@torch.inference_mode()
def evaluate(scores: Scores, test: Features, counts: np.ndarray, temperature: float | None = None) -> dict[str, Any]:
    """Measures of a classifier on a split, in percent; None for a group or class without test images.

    scores: float32 features [n, D] -> [n, C]; the largest wins, of equal ones the first class. counts: training images
    per class [C]. temperature: T of softmax(scores / T).

    many, medium, few: mean accuracy of the group's classes. all: over images. mean_class: over classes with test
    images. macro_f1: see there. ece: expected calibration error of softmax(scores); reliability: the bins it follows
    from. confusions: the most frequent wrong pairs, [true class, predicted class, images, percent of the true class's
    images]. shifted: see `shifted_accuracies`. calibrated, where a temperature is given: temperature, ece and
    reliability with it.

    Raises ValueError for a row of scores that is not finite.
    """
    tiles = zip(test.x.split(ROWS), test.labels.split(ROWS), strict=True)
    columns = [_row_facts(scores(x.float()).float(), y, temperature) for x, y in tiles]
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
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN), in percent, as scikit-learn's f1_score(average="macro"), which
    the authors' evaluation prints: over all classes that have samples or are predicted.

    labels, predicted: int64 [n] below `classes`.
    """
    right = np.bincount(labels[predicted == labels], minlength=classes)
    either = np.bincount(labels, minlength=classes) + np.bincount(predicted, minlength=classes)
    return 100.0 * float(np.mean(2 * right[either > 0] / either[either > 0]))


def reliability(confidence: np.ndarray, right: np.ndarray) -> dict[str, list[Any]]:
    """Reliability diagram in bins of equal width: count, mean confidence and accuracy, in percent, None for no sample.

    confidence: float [n], in 0..1. right: bool [n].
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
    """Expected calibration error in percent: the mean gap of confidence and accuracy over the samples of all bins."""
    filled = [row for row in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True) if row[0]]
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in filled) / sum(bins["count"])


def shifted_accuracies(per_class: np.ndarray, counts: np.ndarray, present: np.ndarray) -> dict[str, float]:
    """Accuracy, in percent, on test sets whose class priors are long-tailed themselves (Hong et al. 2021, LADE).

    sum_c pi_c accuracy_c: the exact expectation over test sets drawn from these priors, no resampling. pi falls
    exponentially from the class with most training images to that with fewest, by the imbalance that the name ends in:
    forward with the frequent classes frequent in test, too, backward with the rare ones. Equal classes go by number.
    per_class: float [C], percent. counts: training images [C]. present: bool [C], classes that have test images; the
    priors of the others are shared out.
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
    """The results of `evaluate` for one classifier with several seeds as one; a single one is returned as it is.

    Every number is the mean over seeds, None where any is None. confusions: the images of all seeds together, a pair
    that is not among the most frequent of a seed counted as 0 there; the share is of all seeds' images. seeds: how
    many. std: sample standard deviation (S - 1) of the measures over seeds.
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
    """Of every row: finite or not, predicted class, rank of its own class, confidence (and with the temperature)."""
    best, predicted = scores.max(1)
    finite = best.isfinite() & scores.amin(1).isfinite()
    own = scores.gather(1, labels[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    # Which of equal scores topk takes is not defined; this is the first class, as for the prediction.
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
    """The mean of numbers, place by place in lists and key by key in dicts; None where any is None."""
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
