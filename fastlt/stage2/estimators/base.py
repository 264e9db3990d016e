"""The base class of the estimators: fitting, prediction, and measures, with scikit-learn's interface."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fastlt.core.device import pick_device
from fastlt.core.errors import UserError
from fastlt.core.groups import class_groups
from fastlt.core.words import counted
from fastlt.stage2.classifiers.base import Classifier, Features, Task, Tensors, wide
from fastlt.stage2.classifiers.joint import linear_layer
from fastlt.stage2.conformal import Calibration, PredictionSets, unfit_of
from fastlt.stage2.estimators.checks import (
    ROWS,
    NotFitted,
    as_groups,
    as_labels,
    as_rows,
    check_columns,
    column_names,
    find_classes,
    known_to_scikit_learn,
    numbers_of,
)
from fastlt.stage2.estimators.params import Parameters
from fastlt.stage2.estimators.scale import scale_of
from fastlt.stage2.estimators.settings import settings_of
from fastlt.stage2.evaluate import Scores, evaluate
from fastlt.stage2.temperature import fit_temperature

UNTRAINED = settings_of({"crt": 1, "lws": 1}, 1, (1.0,), (0.0,))  # placeholder for classifiers without a training


@dataclass(eq=False, kw_only=True)
class LongTailClassifier(Parameters):
    """Base class of all estimators.

    scale: number that features are divided by. `rms` takes the root mean square of the training features, so that
        learning rates and weight decays suit any features; angles and ratios of distances do not change. `none` leaves
        features as they are. Or a number.
    device: cpu, cuda, cuda:N, or `auto`: the device of a tensor X, and for arrays a GPU if there is one.

    Attributes after `fit`:
        classes_: the labels, sorted, [C]. class_counts_: training images of each class, int64 [C].
        n_features_in_: D. feature_names_in_: the names of the columns, [D], if X had names, such as a DataFrame.
        choices_: hyperparameters that were set or chosen, and on what, as in results.json.
        temperature_: of `predict_proba`; 1 if `fit` was given no X_val, or if none fits, see `fit_temperature`.
        scale_: the number that features are divided by.
        tensors_: the tensors that scores are computed from, for features divided by scale_; on the CPU.
    """

    scale: str | float = "rms"
    device: str = "auto"

    def fit(self, X: Any, y: Any, X_val: Any = None, y_val: Any = None, groups: Any = None) -> Self:
        """Fits the classifier and returns it.

        X: training features [N, D], an array or a tensor, float16, float32 or float64 (converted to float32).
        y: labels [N], whole numbers or strings.
        X_val, y_val: features and labels of other images, on which hyperparameters are chosen, the temperature of
            probabilities is fitted, and prediction sets are calibrated. Without them, hyperparameters are chosen by a
            5-fold cross-validation on X.
        groups: the group of every row of X, such as its patient, [N], whole numbers or strings. The folds of that
            cross-validation keep rows of one group together. A row whose group is "" is a group alone.

        Raises UserError (a ValueError) for data that cannot be learned from; the classifier is then unchanged.
        """
        rows, names = as_rows(X), column_names(X)
        classes, numbers = find_classes(as_labels(y, len(rows)))
        device = self._device_for(rows)
        scale = scale_of(self.scale, rows)
        train = Features(_moved(rows, scale, device), torch.from_numpy(numbers).to(device))
        apart = self._apart(X_val, y_val, classes, rows.shape[1])
        check_columns(X_val, names, "X_val")
        held = None if apart is None else Features(_moved(apart.x, scale, device), apart.labels.to(device))
        counts = np.bincount(numbers, minlength=len(classes))
        numbered = None if groups is None else as_groups(groups, len(rows))
        classifier = self._classifier()
        task = replace(self._task(train, held, counts, scale), image_groups=numbered)
        fitted = classifier.fit(task)
        if not all(tensor.isfinite().all() for tensor in fitted.tensors.values()):
            raise UserError(f"the training of {type(self).__name__} diverged: lower lr, or standardize the features")
        tensors, temperature = {name: tensor.cpu() for name, tensor in fitted.tensors.items()}, 1.0
        if apart is not None:
            scores = self._scoring(tensors, scale, apart.x)
            temperature = fit_temperature(scores, Features(apart.x.to(device), apart.labels.to(device)))
        self.classes_, self.class_counts_, self.n_features_in_ = classes, counts, rows.shape[1]
        self.scale_, self.tensors_, self.choices_ = scale, tensors, dict(fitted.choices)
        self.temperature_ = temperature
        self._held = None if apart is None else self._unfit_of(apart)
        vars(self).pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names
        return self

    def decision_function(self, X: Any) -> Any:
        """Returns scores [N, C], of which the largest wins; float64 for features in float64, else float32.

        With two classes, the result is the score of the second minus that of the first, [N], as in scikit-learn.
        """
        scores = self._of_each(self._checked(X), lambda scores: scores)
        return _like(X, scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores)

    def predict(self, X: Any) -> Any:
        """Returns the labels [N] with the highest scores, as a tensor if X is one and labels are numbers."""
        best = self._of_each(self._checked(X), lambda scores: scores.argmax(1))
        labels = self.classes_[best.cpu().numpy()]
        return (
            torch.from_numpy(labels).to(X.device) if isinstance(X, Tensor) and labels.dtype.kind in "iufb" else labels
        )

    def predict_proba(self, X: Any) -> Any:
        """Returns probabilities softmax(scores / temperature_), [N, C].

        The temperature is 1 unless `fit` was given X_val. The probabilities of NCM, whose scores are distances, mean
        little without a fitted temperature.
        """
        return _like(X, self._of_each(self._checked(X), self._probabilities))

    def predict_log_proba(self, X: Any) -> Any:
        """Returns the logarithms of `predict_proba`, [N, C]; as in scikit-learn -inf where one is rounded to 0."""
        return _like(X, self._of_each(self._checked(X), lambda scores: self._probabilities(scores).log()))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Returns the share of images that are classified right, from 0 to 1. `report` returns it by group.

        sample_weight: a weight for each image, [N]; None for equal ones.
        """
        rows = self._checked(X)
        best = self._of_each(rows, lambda scores: scores.argmax(1))
        right = best.cpu().numpy() == self._numbers(y, len(rows), strict=False)
        if sample_weight is not None and np.shape(sample_weight) != right.shape:
            raise UserError(f"sample_weight has the shape {np.shape(sample_weight)}: give one for each of y")
        if sample_weight is not None and not 0 < np.sum(sample_weight) < np.inf:
            raise UserError(f"sample_weight adds up to {np.sum(sample_weight)}: it must be finite and greater than 0")
        return float(np.average(right, weights=sample_weight))

    def report(self, X: Any, y: Any) -> dict[str, Any]:
        """Measures the classifier and returns a dict of the measures, in percent, as in results.json.

        many, medium, few: mean accuracy of the classes with more than 100, 20 to 100 and fewer than 20 training
            images; None if there is no such class.
        all, mean_class: accuracy over images, and its mean over classes. macro_f1, top5.
        per_class: {label: accuracy, or None without test images}.
        confusions: the most frequent errors, [true label, predicted label, images, percent of the true class's].
        ece, reliability: expected calibration error of softmax(scores), and its bins.
        calibrated: the same for `predict_proba`, if a temperature was fitted.
        shifted: accuracies under other class priors, see `shifted_accuracies`.
        """
        rows = self._checked(X)
        labels = torch.from_numpy(self._numbers(y, len(rows)))
        device = self._device_for(rows)
        temperature = None if self._held is None else self.temperature_
        test = Features(rows.to(device), labels.to(device))
        found = evaluate(self._scoring(self.tensors_, self.scale_, rows), test, self.class_counts_, temperature)
        names = self.classes_.tolist()
        return {
            **found,
            "per_class": dict(zip(names, found["per_class"], strict=True)),
            "confusions": [[names[true], names[taken], *rest] for true, taken, *rest in found["confusions"]],
        }

    def predict_set(self, X: Any, coverage: float = 0.9) -> PredictionSets:
        """Returns for every image a set of classes that contains its true class with probability `coverage` or more.

        The predicted class is always in the set. The probability holds for images from the distribution of X_val. It
        holds for each class that has enough images in X_val (9 for a coverage of 0.9, 19 for 0.95); for the other
        classes it holds on average, and a warning says so. As hyperparameters were chosen on X_val as well, the true
        coverage may be slightly lower if many were tried on few images.

        Raises UserError if `fit` was not given X_val, or coverage is not between 0 and 1.
        """
        rows = self._checked(X)
        if self._held is None:
            raise UserError("prediction sets need images that were not trained on: fit(X, y, X_val, y_val)")
        calibration = Calibration(*self._held, len(self.classes_), coverage)
        if shortage := calibration.shortage("X_val"):
            warnings.warn(shortage, stacklevel=2)
        members = self._of_each(rows, lambda scores: calibration.members(self._probabilities(scores)))
        return PredictionSets(_like(X, members), self.classes_, coverage, calibration.own)

    def _classifier(self) -> Classifier:
        """Returns the Classifier of stage 2 that this estimator fits."""
        raise NotImplementedError

    def _task(self, train: Features, held: Features | None, counts: np.ndarray, scale: float) -> Task:
        nowhere = "none" if held is None else "val"
        empty = linear_layer(train.x.new_zeros(len(counts), train.x.shape[1]).float(), None)
        return Task(train, train, held, nowhere, empty, counts, class_groups(counts), UNTRAINED, 0)

    def _apart(self, x: Any, y: Any, classes: np.ndarray, dim: int) -> Features | None:
        """Returns X_val and y_val as Features, not scaled and not moved to another device; None if neither is given."""
        if x is None and y is None:
            return None
        if x is None or y is None:
            raise UserError("X_val and y_val: give both or neither")
        rows = as_rows(x, "X_val")
        if rows.shape[1] != dim:
            raise UserError(f"X_val has {counted(rows.shape[1], 'feature')}, X {dim}")
        numbers = numbers_of(as_labels(y, len(rows), "y_val"), classes, "y_val")
        return Features(rows, torch.from_numpy(numbers).to(rows.device))

    def _unfit_of(self, held: Features) -> tuple[np.ndarray, np.ndarray]:
        """Returns 1 - p_y of each held-out image, float64 [n], and its class index, int64 [n]."""
        parts = zip(held.x.split(ROWS), held.labels.split(ROWS), strict=True)
        found = [unfit_of(self._of_each(rows, self._probabilities), labels) for rows, labels in parts]
        return np.concatenate(found), held.labels.cpu().numpy()

    def _checked(self, x: Any) -> Tensor:
        name = type(self).__name__
        if not hasattr(self, "classes_"):
            raise known_to_scikit_learn("NotFittedError", NotFitted)(
                f"This {name} is not fitted yet: call fit(X, y) first"
            )
        rows = as_rows(x)
        if rows.shape[1] != self.n_features_in_:
            raise UserError(
                f"X has {rows.shape[1]} features, but {name} is expecting {self.n_features_in_} features as input"
            )
        check_columns(x, getattr(self, "feature_names_in_", None), "X")
        return rows

    def _numbers(self, y: Any, rows: int, strict: bool = True) -> np.ndarray:
        """Returns the class indices of labels. A label of no class gives -1, or with `strict` a UserError."""
        labels = as_labels(y, rows)
        if strict:
            return numbers_of(labels, self.classes_)
        place = {label: number for number, label in enumerate(self.classes_.tolist())}
        return np.array([place.get(label, -1) for label in labels.tolist()])

    def _scoring(self, tensors: Tensors, scale: float, rows: Tensor) -> Scores:
        """Returns a function from rows such as these to scores [n, C], float64 for float64 rows, else float32.

        The scores are on the device that the classifier runs on.
        """
        device, classifier = self._device_for(rows), self._classifier()
        there = {name: tensor.to(device, wide(rows[:0]).dtype) for name, tensor in tensors.items()}
        return lambda part: classifier.scores(there, wide(part.to(device)) / scale)

    @torch.inference_mode()
    def _of_each(self, rows: Tensor, found: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns what a function finds in the scores [n, C] of each part of the rows, on the device of the rows.

        The scores of all rows are never in memory at once.
        """
        scores = self._scoring(self.tensors_, self.scale_, rows)
        return torch.cat([found(scores(part)).to(rows.device) for part in rows.split(ROWS)])

    def _probabilities(self, scores: Tensor) -> Tensor:
        return (scores / self.temperature_).softmax(1)

    def _device_for(self, rows: Tensor) -> torch.device:
        return rows.device if self.device == "auto" and rows.is_cuda else pick_device(str(self.device))


def _moved(rows: Tensor, scale: float, device: torch.device) -> Tensor:
    """Returns features divided by their scale, on the device, as float32; not copied if nothing changes.

    Features in float16 with the scale 1 stay so.
    """
    if scale == 1:
        return rows.to(device, rows.dtype if rows.dtype == torch.float16 else torch.float32).contiguous()
    return rows.to(device, torch.float32, copy=True).contiguous().div_(scale)


def _like(x: Any, value: Tensor) -> Any:
    """Returns `value` as a tensor on the device of x if x is a tensor, else as an array."""
    return value.to(x.device) if isinstance(x, Tensor) else value.cpu().numpy()
