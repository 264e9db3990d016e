"""Predicts with a finished run: loads its backbone, one of its classifiers, and the preprocessing of its images."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt.core.errors import UserError
from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.torch_file import Unreadable, read_torch_file
from fastlt.core.words import counted
from fastlt.experiment.results import NAME as RESULTS
from fastlt.experiment.results import Results, read_results
from fastlt.predict.inputs import AGAIN, FeatureVectors, Images, Inputs
from fastlt.predict.output import Prediction
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classify import file_of
from fastlt.stage2.conformal import Calibration, PredictionSets

PREFERRED = ("crt", "tau_norm")
CLASSIFIERS = "classifiers"
NOT_FINITE = "the model gives scores that are not finite"


def default_classifier(names: Sequence[str]) -> str:
    """Returns the classifier that is used by default: crt, else tau_norm, else the first that is not joint.

    The rule is fixed, because accuracies on test must not be used for choosing. Class-balanced classifiers have
    priority over joint, which hardly ever predicts a rare class.

    Example:

        >>> default_classifier(["joint", "ncm_l2", "crt"])
        'crt'
    """
    for name in (*PREFERRED, *names):
        if name in names and name != "joint":
            return name
    return names[0]


class Predictor:
    """Predicts classes with a classifier of a finished run: of images, or of features if it was trained on features.

    ```python
    predictor = fastlt.Predictor(Path("runs/mine"), "crt", torch.device("cpu"))
    for best in predictor.predict([Image.open("a.jpg"), array, "b.png"], top=3):
        print(best[0].name, best[0].confidence, best[0].group)

    predictor = fastlt.Predictor(Path("runs/dino"), "crt", torch.device("cpu"))  # of train features=dino.npz
    predictor.predict_proba(x)  # x: [N, D], features of the same network
    ```

    run: the folder of the run. name: the classifier; None for `default_classifier`. device: where the model runs.

    Its methods take one of two things, for which `given` stands:

    - of a run on images: an iterable of uint8 arrays [H, W, 3] of RGB, PIL images, or paths of files, of any size.
      Files are preprocessed as in the command `fastlt.predict`, and so are PIL images, as their files would be. Arrays
      are taken as they are.
    - of a run on features: an array or a tensor [N, D], a table with D columns of numbers, or an iterable of rows. They
      are scaled as those of the run were.

    They raise UserError for anything else, naming its position, and for scores that are not finite.

    If the run has a backbone or classifier of the user's own, `package.module:NAME`, that module is imported and its
    code runs. Do not open runs from people you do not trust.

    Attributes: name, the classifier; class_names; groups, the name of each class's group; results, those of the run;
    inputs, which turns what is given into features, Images or FeatureVectors.

    Raises UserError if the run is not finished or has no such classifier.
    """

    def __init__(self, run: Path, name: str | None, device: torch.device):
        results, self.name, kept = read_classifier(run, name)
        self.results, self.class_names = results, results.class_names
        self.groups = [GROUPS[group] for group in class_groups(np.array(results.class_counts["train"]))]
        self._scores = find_classifier(self.name).scores
        self.temperature: float = kept["temperature"]
        self.tensors = {key: tensor.to(device) for key, tensor in kept["tensors"].items()}
        self._held_out: Mapping[str, torch.Tensor] | None = kept.get("held_out")
        inputs = FeatureVectors if results.evaluation is None else Images
        self.inputs: Inputs = inputs(run, results, kept["checkpoint"], device)

    def predict(self, given: Iterable[Any], top: int = 5, batch: int = 64) -> list[list[Prediction]]:
        """Returns for each image, or row of features, its `top` most probable classes, best first.

        given: see `Predictor`. top: classes told of each. batch: how many the model processes at once.
        """
        if top < 1:
            raise UserError(f"top={top}: it must be 1 or more")
        found: list[list[Prediction]] = []
        for _, scores in self._each(given, batch):
            found += [self.told(*best) for best in zip(*self.most_probable(scores, top), strict=True)]
        return found

    def predict_proba(self, given: Iterable[Any], batch: int = 64) -> np.ndarray:
        """Returns the probabilities of all classes, float32 [N, C], in the order of `class_names`.

        They are those of `predict`: softmax(scores / T), where T is the temperature that was fitted for the classifier,
        or 1. given, batch: as in `predict`.
        """
        found = [self.probabilities(scores).cpu().numpy() for _, scores in self._each(given, batch)]
        return np.concatenate(found) if found else np.empty((0, len(self.class_names)), np.float32)

    def told(self, confidences: torch.Tensor, classes: torch.Tensor) -> list[Prediction]:
        """Returns predictions with names and groups. confidences, classes: of one image or row, [k] each."""
        pairs = zip(confidences.tolist(), classes.tolist(), strict=True)
        return [Prediction(self.class_names[one], value, self.groups[one]) for value, one in pairs]

    def predict_set(self, given: Iterable[Any], coverage: float = 0.9, batch: int = 64) -> PredictionSets:
        """Returns for each image, or row of features, a set of classes that contains its true class with probability
        `coverage` or more.

        given, batch: as in `predict`. The sets are those of `LongTailClassifier.predict_set`, from the held-out images
        of the run: class by class where a class has enough of them, else on average, and a warning says so.

        Raises what `calibration` raises.
        """
        calibration = self.calibration(coverage)
        if shortage := calibration.shortage("the held-out split"):
            warnings.warn(shortage, stacklevel=2)
        each = self._each(given, batch)
        members = [calibration.members(self.probabilities(scores)).cpu().numpy() for _, scores in each]
        classes = np.array(self.class_names)
        found = np.concatenate(members) if members else np.empty((0, len(classes)), bool)
        return PredictionSets(found, classes, coverage, calibration.own)

    def features(self, given: Iterable[Any], batch: int = 64) -> np.ndarray:
        """Returns the features of images as the backbone gives them, float32 [N, D]; of features, themselves.

        given, batch: as in `predict`.
        """
        found = [features.cpu().numpy() for features, _ in self._each(given, batch)]
        return np.concatenate(found) if found else np.empty((0, self.inputs.dim), np.float32)

    def calibration(self, coverage: float) -> Calibration:
        """Returns what decides prediction sets with this coverage, a probability between 0 and 1.

        Raises UserError for another coverage, and if the run had no held-out images.
        """
        if self._held_out is None:
            raise UserError(
                f"coverage={coverage}: {self.name} has no held-out images that prediction sets could be calibrated on: "
                "train with a val split, or with hold_out=0.1"
            )
        unfit, labels = (self._held_out[name].numpy() for name in ("unfit", "labels"))
        return Calibration(unfit, labels, len(self.class_names), coverage)

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of everything that predictions depend on: weights, preprocessing, classes."""
        about = [self.name, self.temperature, *self.inputs.facts(), self.class_names, self.groups]
        found = hashlib.sha256(json.dumps(about).encode())
        for tensors in (self.inputs.weights(), self.tensors, self._held_out or {}):
            for name, tensor in sorted(tensors.items()):
                found.update(name.encode())
                found.update(tensor.cpu().contiguous().numpy().data)
        return found.hexdigest()

    def _each(self, given: Iterable[Any], batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields what `forward` returns for every `batch` of what is given. Raises what `predict` raises."""
        if batch < 1:
            raise UserError(f"batch={batch}: it must be 1 or more")
        table: Any = given
        rows = table.to_numpy() if hasattr(table, "to_numpy") else table
        if isinstance(rows, str) or not (hasattr(rows, "__iter__") or hasattr(rows, "__getitem__")):
            raise UserError(f"{type(given).__name__} is no list: give a list, also of one {self.inputs.one}")
        waiting, first = iter(rows), 0
        while part := list(islice(waiting, batch)):
            inputs = torch.stack([self.inputs.input(one, first + place) for place, one in enumerate(part)])
            features, scores = self.forward(inputs)
            unfit = ~scores.isfinite().all(1)
            if unfit.any():
                raise UserError(f"{self.inputs.one} {first + int(unfit.int().argmax())}: {NOT_FINITE}")
            yield features, scores
            first += len(part)

    @torch.inference_mode()
    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes features and scores.

        inputs: tensors as `inputs.input` returns them, stacked: images float32 [n, size, size, 3], or features float64
        [n, D].

        Returns (features float32 [n, D], scores float32 [n, C]) on the model's device.
        """
        features = self.inputs.raw(inputs)
        scores = self._scores(self.tensors, self.inputs.scaled(features)).float()
        if scores.shape[1] != len(self.class_names):
            raise UserError(
                f"classifier {self.name} gives {counted(scores.shape[1], 'score')} for "
                f"{counted(len(self.class_names), 'class')}: "
                f"{RESULTS} and {CLASSIFIERS}/ are of two runs; {AGAIN}"
            )
        return features.float(), scores

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns the probabilities of scores [n, C], NaN for a row whose scores are not finite."""
        found = (scores / self.temperature).softmax(1)
        found[~scores.isfinite().all(1)] = torch.nan
        return found

    def most_probable(self, scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the most probable classes, best first.

        scores: [n, C]. count: classes told of each.

        Returns (confidences [n, k], class indices int64 [n, k]) on the CPU, where k is `count`, but at most C. Classes
        are in the order of their scores, of their numbers where these are equal, as in the evaluation of a run: many
        probabilities may round to 0.
        """
        best, order = scores.topk(min(count, scores.shape[1]), dim=1)  # much faster than sorting thousands of classes
        tied = (best[:, 1:] == best[:, :-1]).any(1) | ((scores >= best[:, -1:]).sum(1) > best.shape[1])
        order[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, : best.shape[1]]
        return self.probabilities(scores).gather(1, order).cpu(), order.cpu()


def read_classifier(run: Path, name: str | None) -> tuple[Results, str, dict[str, Any]]:
    """Reads a classifier of a run; returns (results of the run, name of the classifier, content of its file).

    name: None for `default_classifier`. Raises UserError if there is no such classifier, or if its file is damaged.
    """
    results = read_results(run)
    known = results.classifiers
    if not known:
        raise UserError(f"{run / RESULTS}: no classifier could be fitted; {AGAIN} and classifiers=[crt]")
    if name is not None and name not in known:
        raise UserError(f"--classifier={name} is not in {run}: allowed are {', '.join(known)}")
    name = name or default_classifier(list(known))
    return results, name, _kept(run, name, known[name].key)


def _kept(run: Path, name: str, key: str) -> dict[str, Any]:
    """Reads the file of a fitted classifier: a dict with `tensors`, `temperature`, and the path `checkpoint` of its
    backbone."""
    path = file_of(run / CLASSIFIERS, name)
    if not path.exists():
        raise UserError(f"{path} does not exist: the run is of an older fastlt or not finished; {AGAIN}")
    try:
        kept = read_torch_file(path)
    except Unreadable as error:
        raise UserError(f"{path} {error}; {AGAIN}") from None
    if (
        not isinstance(kept, dict)
        or not kept.keys() >= {"tensors", "checkpoint", "temperature"}
        or kept.get("key") != key
    ):
        raise UserError(f"{path} is not the classifier that {run / RESULTS} tells of; {AGAIN}")
    return kept
