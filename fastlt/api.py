"""fastlt from Python: data sets, experiments and finished runs, with the keys of the commands."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import torch
from hydra.errors import HydraException

from fastlt.core.cli import one_line, own_parts
from fastlt.core.errors import UserError
from fastlt.data.convert.build import convert_configured, convert_source
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.examples import Examples
from fastlt.experiment.config import ConvertConfig, TrainConfig
from fastlt.predict.predictor import Predictor
from fastlt.report import read_results, write_report
from fastlt.report.table import results_table
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.features.store import FeatureStore
from fastlt.train import run_configured

TOP = 5


def write_dataset(
    source: str | Path | Mapping[str, Iterable[tuple[Any, Any]]], out: str | Path, **keys: Any
) -> Dataset:
    """Converts labelled images into a data set that training reads; returns it opened.

    source: the name of a kind of source (`"cifar100_lt"`, `"image_list"`, ...: the command's `dataset=`); or a folder
    with train/CLASS/... and test/CLASS/...; or the images themselves, {"train": pairs, "test": pairs} of (image,
    label), where an image is a path, a file's bytes, a uint8 array [H, W, 3] or a PIL image.
    out: the data set's folder. keys: those of `python tools/convert.py`, such as root=, encode= or workers=.

    Raises UserError where the command would end with its message.

    Example: fastlt.write_dataset({"train": [(array, "cat"), ...], "test": [...]}, "data/pets", encode="png")
    """
    if isinstance(source, Mapping):
        name = keys.pop("name", None) or Path(out).name
        class_names = keys.pop("class_names", None) or []
        with _composed("convert", {"dataset": "image_folder", "out": out, **keys}, ConvertConfig) as (cfg, _):
            return Dataset(convert_source(Examples(source, name, list(class_names)), cfg))
    given = {"dataset": "image_folder", "root": source} if Path(source).is_dir() else {"dataset": source}
    with _composed("convert", {**given, "out": out, **keys}, ConvertConfig) as (cfg, _):
        return Dataset(convert_configured(cfg))


def run_experiment(**keys: Any) -> "Run":
    """Trains, classifies, evaluates and reports, as `python -m fastlt.train` with these keys does; the finished run.

    keys: those of the command: data="data/c100", backbone="resnet32", classifiers=["crt"], epochs=10; a key with a dot
    as part of a dictionary: run_experiment(**{"protocol.lr": 0.05}). What is finished already is used again.

    Raises UserError where the command would end with its message.
    """
    with _composed("train", keys, TrainConfig) as (cfg, overrides):
        folder = run_configured(cfg, overrides)
    assert folder is not None, "one process trains here"
    return open_run(folder)


def open_run(folder: str | Path) -> "Run":
    """A finished run. Raises UserError if `folder` holds no results.json, or one that is damaged."""
    return Run(Path(folder), read_results(Path(folder) / "results.json"))


class Features(NamedTuple):
    """x: float32 or float16 [N, D]; y: int64 [N], class numbers; in class order."""

    x: np.ndarray
    y: np.ndarray


class Predictions(NamedTuple):
    """Of every image of a split, in the order of `Run.features`: y int64 [N]; the classes with the highest scores, best
    first, int64 [N, k], and these scores, float32 [N, k]; k is 5, or the number of classes if that is less."""

    y: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Run:
    """A finished run.

    folder: where it lies. results: what results.json holds.

    Example: run = fastlt.open_run("runs/mine"); run.results["classifiers"]["crt"]["few"]
    """

    folder: Path
    results: dict[str, Any]

    def __repr__(self) -> str:
        about = ", ".join(f"{self.results[key]}" for key in ("dataset", "backbone", "sampler", "protocol"))
        return f"Run {self.folder}: {about}, seed {self.results['seed']}\n{results_table(self.results)}"

    @property
    def classifiers(self) -> list[str]:
        """Names of the classifiers that were fitted."""
        return list(self.results["classifiers"])

    def features(self, split: str = "test") -> Features:
        """The features of a split as evaluation saw its images. Raises UserError if there is no such split."""
        store = FeatureStore(
            self.folder / "features.h5",
            self.results["key"],
            self.results["feature_dtype"],
            self.results["views"],
        )
        return Features(*store.read(split))

    def predictor(self, classifier: str | None = None, device: str = "cpu") -> Predictor:
        """Predicts new images with a classifier; None for the one that `python -m fastlt.predict` would take."""
        return Predictor(self.folder, classifier, torch.device(device))

    @torch.inference_mode()
    def predictions(self, split: str = "test", classifier: str | None = None) -> Predictions:
        """What a classifier (as in `predictor`) says of every image of a split, from its features.

        Raises UserError for a classifier that does not go with the features of the run, as its backbone was retrained.
        """
        predictor = self.predictor(classifier)
        if (self.folder / predictor.name / "features.h5").exists():
            raise UserError(f"classifier {predictor.name} has a backbone of its own: its features are not the run's")
        x, y = self.features(split)
        scores = find_classifier(predictor.name).scores(predictor.tensors, torch.from_numpy(x).float())
        best = scores.float().topk(min(TOP, scores.shape[1]), dim=1)
        return Predictions(y, best.indices.numpy(), best.values.numpy())

    def report(self) -> Path:
        """Writes report.md and its figures anew; the path of report.md."""
        return write_report(self.results, self.folder)


@contextlib.contextmanager
def _composed(name: str, keys: Mapping[str, Any], schema: type) -> Iterator[tuple[Any, list[str]]]:
    """(the configuration that a command's keys make, the keys as overrides); errors as the command has them."""
    overrides = own_parts([f"{key}={_written(value)}" for key, value in keys.items()])
    try:
        with hydra.initialize_config_module("fastlt.conf", version_base="1.3"):
            yield hydra.compose(name, overrides), overrides
    except UserError:
        raise
    except (HydraException, ValueError, TypeError) as error:
        raise UserError(one_line(error, schema)) from error


def _written(value: Any) -> str:
    """A value as Hydra reads it: strings quoted, so that any path is taken as it is."""
    if isinstance(value, str | Path):
        text = str(value)
        plain = text.replace("\\", "\\\\").replace("'", "\\'")
        return text if text.isidentifier() else f"'{plain}'"
    return json.dumps(value)
