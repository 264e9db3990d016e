"""Predicts with a finished run: loads its backbone, one of its classifiers, and the preprocessing of its images."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastlt.core.errors import UserError
from fastlt.core.groups import GROUPS, class_groups
from fastlt.core.torch_file import Unreadable, read_torch_file
from fastlt.core.words import counted
from fastlt.data.shards.encode import BadImage, Encoding, decode
from fastlt.experiment.results import NAME as RESULTS
from fastlt.experiment.results import Results, read_results
from fastlt.models.checkpoint.store import load_model
from fastlt.predict.images import Evaluation
from fastlt.predict.output import Prediction
from fastlt.registry import is_own
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classify import file_of
from fastlt.stage2.conformal import Calibration, PredictionSets

PREFERRED = ("crt", "tau_norm")
CLASSIFIERS = "classifiers"
NOT_FINITE = "the model gives scores that are not finite"
STAGE_1 = "checkpoint.pt"  # the checkpoint of the run's own representation
_AGAIN = "give its training command again, which trains no representation anew"


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
    """Predicts the classes of images with a classifier of a finished run.

    ```python
    predictor = fastlt.Predictor(Path("runs/mine"), "crt", torch.device("cpu"))
    for best in predictor.predict([Image.open("a.jpg"), array, "b.png"], top=3):
        print(best[0].name, best[0].confidence, best[0].group)
    ```

    run: the folder of the run. name: the classifier; None for `default_classifier`. device: where the model runs.

    If the run has a backbone or classifier of the user's own, `package.module:NAME`, that module is imported and its
    code runs. Do not open runs from people you do not trust.

    Attributes: name, the classifier; class_names; groups, the name of each class's group; dim, the length of a feature;
    results, those of the run; evaluation, which loads images as the model expects them.

    Raises UserError if the run is not finished or has no such classifier.
    """

    def __init__(self, run: Path, name: str | None, device: torch.device):
        results, self.name, kept = read_classifier(run, name)
        self.results, self.class_names = results, results.class_names
        self.groups = [GROUPS[group] for group in class_groups(np.array(results.class_counts["train"]))]
        self.evaluation = _evaluation(run, results)
        self._scores = find_classifier(self.name).scores
        self.temperature: float = kept["temperature"]
        self.checkpoint: str = kept["checkpoint"]  # path of its backbone, absolute or relative to the run's folder
        self.tensors = {key: tensor.to(device) for key, tensor in kept["tensors"].items()}
        self._held_out: Mapping[str, torch.Tensor] | None = kept.get("held_out")
        own = results.backbone if is_own(results.backbone) else None
        model, state = load_model(run / kept["checkpoint"], own)
        if kept["checkpoint"] == STAGE_1 and state["key"] != results.key:
            raise UserError(f"{run / STAGE_1} is newer than {run / RESULTS}: {_AGAIN}")
        self.backbone_options, self.dim = model.backbone_options, int(model.classifier.weight.shape[1])
        self.backbone = model.backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        # A classifier that was trained on images, with a backbone of its own, has features that were not scaled.
        self.scale: float = (results.feature_scale or 1.0) if kept["checkpoint"] == STAGE_1 else 1.0
        # The precision is that of training on a GPU. On a CPU float32 is used, which is more exact than bfloat16 and
        # mostly faster.
        self._bf16 = device.type == "cuda" and state["settings"].get("precision") == "bf16"

    def predict(
        self, images: Iterable[np.ndarray | Image.Image | Path | str], top: int = 5, batch: int = 64
    ) -> list[list[Prediction]]:
        """Predicts the `top` most probable classes of every image, best first; returns a list of predictions per image.

        images: uint8 arrays [H, W, 3] of RGB, PIL images, or paths of files, of any size. Files are preprocessed as in
        the command `fastlt.predict`, and so are PIL images, as their files would be. Arrays are taken as they are.
        top: classes per image. batch: how many images the model processes at once.

        Raises UserError for anything that is no such image, naming its position, and for scores that are not finite.
        """
        found: list[list[Prediction]] = []
        for _, probability in self._each(images, batch):
            found += [self.told(*best) for best in zip(*most_probable(probability, top), strict=True)]
        return found

    def told(self, confidences: torch.Tensor, classes: torch.Tensor) -> list[Prediction]:
        """Returns predictions with names and groups. confidences, classes: of one image, [k] each."""
        pairs = zip(confidences.tolist(), classes.tolist(), strict=True)
        return [Prediction(self.class_names[one], value, self.groups[one]) for value, one in pairs]

    def predict_set(
        self, images: Iterable[np.ndarray | Image.Image | Path | str], coverage: float = 0.9, batch: int = 64
    ) -> PredictionSets:
        """Returns for every image a set of classes that contains its true class with probability `coverage` or more.

        images, batch: as in `predict`. The sets are those of `LongTailClassifier.predict_set`, from the held-out images
        of the run: class by class where a class has enough of them, else on average, and a warning says so.

        Raises what `predict` and `calibration` raise.
        """
        calibration = self.calibration(coverage)
        if shortage := calibration.shortage("the held-out split"):
            warnings.warn(shortage, stacklevel=2)
        members = [calibration.members(probability).cpu().numpy() for _, probability in self._each(images, batch)]
        classes = np.array(self.class_names)
        found = np.concatenate(members) if members else np.empty((0, len(classes)), bool)
        return PredictionSets(found, classes, coverage, calibration.own)

    def features(self, images: Iterable[np.ndarray | Image.Image | Path | str], batch: int = 64) -> np.ndarray:
        """Returns the features of images as the backbone gives them, float32 [N, D].

        images, batch, errors: as in `predict`.
        """
        found = [features.cpu().numpy() for features, _ in self._each(images, batch)]
        return np.concatenate(found) if found else np.empty((0, self.dim), np.float32)

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
        about = [self.name, self.temperature, self.scale, asdict(self.evaluation), self.class_names, self.groups]
        found = hashlib.sha256(json.dumps(about).encode())
        for tensors in (self.backbone.state_dict(), self.tensors, self._held_out or {}):
            for name, tensor in sorted(tensors.items()):
                found.update(name.encode())
                found.update(tensor.cpu().contiguous().numpy().data)
        return found.hexdigest()

    def _each(
        self, images: Iterable[np.ndarray | Image.Image | Path | str], batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields what `forward` returns for every `batch` images. Raises what `predict` raises."""
        waiting, first = iter(images), 0
        while part := list(islice(waiting, batch)):
            inputs = torch.stack([self._input(image, first + place) for place, image in enumerate(part)])
            features, probability = self.forward(inputs)
            unfit = probability[:, 0].isnan()
            if unfit.any():
                raise UserError(f"image {first + int(unfit.int().argmax())}: {NOT_FINITE}")
            yield features, probability
            first += len(part)

    def _input(self, image: np.ndarray | Image.Image | Path | str, place: int) -> torch.Tensor:
        """Preprocesses an image; returns float32 [size, size, 3]. place: its position, for error messages."""
        if isinstance(image, Path | str):
            loaded = self.evaluation.load(str(image))
            if isinstance(loaded, str):
                raise UserError(f"image {place}, {image}: {loaded}")
            return loaded
        pixels = image
        if isinstance(image, Image.Image):
            try:
                pixels = decode(image, self.evaluation.encoding)
            except BadImage as error:
                raise UserError(f"image {place}: {error}") from None
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            what = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(image).__name__
            raise UserError(f"image {place} is {what}: allowed are uint8 arrays [H, W, 3], PIL images and paths")
        if not pixels.size:
            raise UserError(f"image {place} is empty, {list(pixels.shape)}: it must have pixels")
        return self.evaluation.input(np.ascontiguousarray(pixels))

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes features and probabilities of images.

        images: float32 [n, size, size, 3], as `evaluation.load` returns them.

        Returns (features float32 [n, D], probabilities float32 [n, C]) on the model's device. Probabilities are
        softmax(scores / T), where T is the temperature that was fitted for the classifier, or 1. They are NaN for an
        image whose scores are not finite.
        """
        inputs = images.to(self._device).permute(0, 3, 1, 2)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            features = self.backbone(inputs)
        features = features.float()
        scores = self._scores(self.tensors, features / self.scale).float()
        if scores.shape[1] != len(self.class_names):
            raise UserError(
                f"classifier {self.name} gives {counted(scores.shape[1], 'score')} for "
                f"{counted(len(self.class_names), 'class')}: "
                f"{RESULTS} and {CLASSIFIERS}/ are of two runs; {_AGAIN}"
            )
        probability = (scores / self.temperature).softmax(1)
        probability[~scores.isfinite().all(1)] = torch.nan
        return features, probability

    def top(self, images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the most probable classes of images. images: as in `forward`; the rest as in `most_probable`."""
        return most_probable(self.forward(images)[1], count)


def most_probable(probability: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the most probable classes of images, best first.

    probability: [n, C]. count: classes per image.

    Returns (confidences [n, k], class indices int64 [n, k]) on the CPU, where k is `count`, but at most C.
    """
    best = probability.topk(min(count, probability.shape[1]), dim=1)
    return best.values.cpu(), best.indices.cpu()


def read_classifier(run: Path, name: str | None) -> tuple[Results, str, dict[str, Any]]:
    """Reads a classifier of a run; returns (results of the run, name of the classifier, content of its file).

    name: None for `default_classifier`. Raises UserError if there is no such classifier, or if its file is damaged.
    """
    results = read_results(run)
    known = results.classifiers
    if not known:
        raise UserError(f"{run / RESULTS}: no classifier could be fitted; {_AGAIN} and classifiers=[crt]")
    if name is not None and name not in known:
        raise UserError(f"--classifier={name} is not in {run}: allowed are {', '.join(known)}")
    name = name or default_classifier(list(known))
    return results, name, _kept(run, name, known[name].key)


def _kept(run: Path, name: str, key: str) -> dict[str, Any]:
    """Reads the file of a fitted classifier: a dict with `tensors`, `temperature`, and the path `checkpoint` of its
    backbone."""
    path = file_of(run / CLASSIFIERS, name)
    if not path.exists():
        raise UserError(f"{path} does not exist: the run is of an older fastlt or not finished; {_AGAIN}")
    try:
        kept = read_torch_file(path)
    except Unreadable as error:
        raise UserError(f"{path} {error}; {_AGAIN}") from None
    if (
        not isinstance(kept, dict)
        or not kept.keys() >= {"tensors", "checkpoint", "temperature"}
        or kept.get("key") != key
    ):
        raise UserError(f"{path} is not the classifier that {run / RESULTS} tells of; {_AGAIN}")
    return kept


def _evaluation(run: Path, results: Results) -> Evaluation:
    seen = results.evaluation
    if seen is None or results.image_size is None:
        raise UserError(
            f"{run} has no network that sees images, as it was trained on features of another: fastlt.classifiers "
            "predicts from features"
        )
    stored = Encoding(
        seen.kind, seen.quality, seen.max_short_side, orientation=seen.orientation, background=seen.background
    )
    return Evaluation(results.image_size, seen.crop_pct, tuple(seen.mean), tuple(seen.std), stored, seen.interpolation)
