"""The Python interface to the commands: `write_dataset`, `run_experiment`, `open_run` and `Run`.

Its keyword arguments are the keys that the commands take as key=value.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import torch
from hydra.errors import HydraException

from fastlt.convert import configuration
from fastlt.core.cli import one_line, own_parts
from fastlt.core.device import pick_device
from fastlt.core.errors import UserError
from fastlt.core.log import printed, regrets, say
from fastlt.core.overrides import quoted, quoted_strings
from fastlt.core.structured import register
from fastlt.data.convert.build import arranged, convert_configured, convert_source
from fastlt.data.convert.config import ConvertConfig
from fastlt.data.convert.keys import check_keys
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.classes import read_class_names
from fastlt.data.sources.csv_rows import Columns
from fastlt.data.sources.examples import Examples
from fastlt.data.sources.given import given_examples, is_table
from fastlt.data.sources.guess import SPLIT, guessed
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.results import Results, read_results
from fastlt.predict.predictor import Predictor, read_classifier
from fastlt.report import write_report
from fastlt.report.table import results_table
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.features.store import FeatureStore
from fastlt.train import run_configured

TOP = 5
ROWS = 8192  # features that are scored at once, which bounds the memory of scores


def write_dataset(
    source: Any,
    /,
    out: str | Path,
    **keys: Any,
) -> Dataset:
    """Converts labelled images into a dataset that training reads, and returns it opened.

    source: one of three things.
        - A path: a folder with one folder of images per class, such a folder for each split, a CSV table, a list of
          image files, ... The kind of source is guessed from the path, as `python -m fastlt.convert PATH` does.
        - The name of a kind of source, such as `"cifar100_lt"` or `"image_list"`: the command's key `dataset=`.
        - The images themselves, or a dict such as {"train": images, "test": images}: an iterable of (image, label)
          pairs; a map-style dataset such as those of torchvision (without a transform), whose images are fetched one
          by one; or a table of pandas, polars or pyarrow with a column of images and one of labels. An image is a path,
          the bytes of an image file, a uint8 array [H, W, 3] or a PIL image, whose pixels become those of its file.
          Triples (image, label, group), or a column group_by= of a table, keep images of a group in one split.
    out: the folder of the dataset.
    keys: keys of `python -m fastlt.convert`, such as split=(0.7, 0.1, 0.2), seed=, source=, root=, encode= or
        workers=.
        class_names may be a list of names, or the path of a file of names (see `read_class_names`).

    A source without splits is divided into train, val and test by the shares 0.7, 0.1 and 0.2, unless the keys say
    otherwise.

    Raises UserError, with the message of the command, where the command would end with an error.

    Examples:

        fastlt.write_dataset("photos", "data/photos", test=0.25)
        fastlt.write_dataset({"train": [(array, "cat"), ...], "test": [...]}, "data/pets", encode="png")
    """
    if keys.get("part") is not None:
        raise UserError(f"part={keys['part']}: parts are converted by the command, python -m fastlt.convert")
    keys = {"out": out, **keys}
    if isinstance(keys.get("split"), Iterable) and not isinstance(keys["split"], str):
        keys["split"] = ",".join(map(str, keys["split"]))
    if isinstance(source, str | Path):
        path = isinstance(source, Path) or "/" in source or Path(source).exists()
        chosen = {*keys, "split"} if keys.get("append") else keys
        given = guessed(Path(source), chosen) if path and "dataset" not in keys else {"dataset": source}
        with _composed("convert", {**given, **keys}, ConvertConfig) as (node, _):
            return _opened(convert_configured(configuration(node)))
    splits: Any = source if isinstance(source, Mapping) else {"train": source}
    names = keys.pop("class_names", None) or []
    names = read_class_names(Path(names)) if isinstance(names, str | Path) else list(names)
    columns = Columns(*(keys.pop(f"{one}_column", "") or "" for one in ("path", "label", "split")))
    grouped = keys.get("group_by") if any(map(is_table, splits.values())) else ""
    root = keys.pop("root", None) if any(map(is_table, splits.values())) else None
    given = given_examples(splits, replace(columns, group=grouped or ""), Path(root) if root else None)
    if len(given.examples) == 1 and splits is not source and not {"split", "val", "test"} & set(keys):
        keys["split"] = SPLIT
    kind = {"dataset": "image_folder", "dataset.name": "examples", "dataset.kind": "examples"}
    with _composed("convert", {**kind, **keys}, ConvertConfig) as (node, _):
        config = configuration(node)
        check_keys(config, "examples")
        return _opened(
            convert_source(
                arranged(Examples(given.examples, Path(out).name, names or given.class_names), config), config
            )
        )


def _opened(folder: Path | None) -> Dataset:
    assert folder is not None, "only with part= the dataset may be incomplete"
    return Dataset(folder)


def run_experiment(**keys: Any) -> "Run":
    """Trains a representation, fits classifiers on it, evaluates them, writes a report, and returns the finished run.

    It does what `python -m fastlt.train` does with the same keys. Whatever the run folder already holds is reused: the
    representation, its features, every classifier.

    keys: the keys of the command, such as data="data/c100", backbone="resnet32", classifiers=["crt"] or epochs=10. A
        key with a dot is given in a dict: run_experiment(**{"protocol.lr": 0.05}). With run= the folder of a finished
        run, keys that are not given are taken from that run's config.yaml.

    Raises UserError, with the message of the command, where the command would end with an error.

    Example:

        run = fastlt.run_experiment(data="data/c100", backbone="resnet32", sampler="class", seed=1)
        print(run.results.classifiers["crt"].few)
    """
    with _composed("train", keys, TrainConfig) as (config, overrides):
        folder = run_configured(config, overrides)
    for line in regrets():
        say(f"failed: {line}")
    assert folder is not None, "one process trains here"
    return open_run(folder)


def open_run(folder: str | Path) -> "Run":
    """Opens the folder of a finished run.

    Raises UserError if the folder holds no results.json, or a damaged one.

    Example: fastlt.open_run("runs/mine").classifiers
    """
    return Run(Path(folder), read_results(Path(folder)))


class Features(NamedTuple):
    """Features of a split and their classes, sorted by class.

    x: the features, float32 or float16 [N, D]. y: class indices, int64 [N].
    """

    x: np.ndarray
    y: np.ndarray


class Predictions(NamedTuple):
    """The highest scores of every image of a split, in the order of `Run.features`.

    y: true class indices, int64 [N]. classes: indices of the k classes with the highest scores, the highest first,
    int64 [N, k]. scores: the scores of these classes, float32 [N, k]. k is 5, or the number of classes if that is less.
    """

    y: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Run:
    """A finished run: its results, its features, its classifiers' predictions.

    folder: the folder of the run. results: the contents of its results.json, as dataclasses.

    Example:

        run = fastlt.open_run("runs/mine")
        print(run.results.classifiers["crt"].few)  # accuracy on the few-shot classes, in percent
        y, classes, scores = run.predictions("test", "crt")
        x, y = run.features("train")
    """

    folder: Path
    results: Results

    def __repr__(self) -> str:
        about = ", ".join(getattr(self.results, key) for key in ("dataset", "backbone", "sampler", "protocol"))
        head = f"Run {self.folder}: {about}, seed {self.results.seed}"
        return f"{printed(head)}\n{results_table(self.results)}"

    @property
    def classifiers(self) -> list[str]:
        """Returns the names of the classifiers that were fitted."""
        return list(self.results.classifiers)

    def features(self, split: str = "test") -> Features:
        """Returns the features of a split, computed from images with the evaluation transform (no augmentation).

        Raises UserError if the run has no such split.
        """
        store = FeatureStore(
            self.folder / "features.h5",
            self.results.features_key or self.results.key,
            self.results.feature_dtype,
            self.results.augmented_passes,
        )
        return Features(*store.read(split))

    def predictor(self, classifier: str | None = None, device: str = "cpu") -> Predictor:
        """Returns a Predictor for new images, or for new features if the run was trained on features.

        classifier: the name of a fitted classifier; None takes the one that `python -m fastlt.predict` would take.
        device: such as "cpu" or "cuda:0".
        """
        return Predictor(self.folder, classifier, pick_device(device))

    @torch.inference_mode()
    def predictions(self, split: str = "test", classifier: str | None = None) -> Predictions:
        """Returns the highest scores of every image of a split, computed from the stored features.

        classifier: as in `predictor`.

        Raises UserError for a classifier whose backbone was retrained: the features of the run are not its own.
        """
        _, name, kept = read_classifier(self.folder, classifier)
        if (self.folder / name / "features.h5").exists():
            raise UserError(f"classifier {name} has a backbone of its own: its features are not the run's")
        x, y = self.features(split)
        scores = partial(find_classifier(name).scores, kept["tensors"])
        best = [
            part.topk(min(TOP, part.shape[1]), dim=1)
            for part in (scores(rows.float()).float() for rows in torch.from_numpy(x).split(ROWS))
        ]
        return Predictions(y, *(torch.cat([one[place] for one in best]).numpy() for place in (1, 0)))

    def report(self) -> Path:
        """Writes report.md and its figures again and returns the path of report.md."""
        return write_report(self.results, self.folder)


@contextlib.contextmanager
def _composed(name: str, keys: Mapping[str, Any], schema: type) -> Iterator[tuple[Any, list[str]]]:
    """Yields the configuration that Hydra composes from a command's keys, and these keys as a list of overrides.

    Turns errors of Hydra, and of the code inside, into the UserError that the command would print.
    """
    register(name, schema)
    overrides = quoted_strings(own_parts([f"{key}={_given(key, value)}" for key, value in keys.items()]), schema)
    try:
        with hydra.initialize_config_module("fastlt.conf", version_base="1.3"):
            yield hydra.compose(name, overrides), overrides
    except UserError:
        raise
    except (HydraException, ValueError, TypeError) as error:
        raise UserError(one_line(error, schema)) from error


def _given(key: str, value: Any) -> str:
    """Returns the value of a key as text for a Hydra override. Raises UserError if it has no such text."""
    if isinstance(value, str) and value.isidentifier():
        return value  # as on the command line, where sampler=class names a file and run=null is none
    try:
        return _written(value)
    except TypeError as error:
        raise UserError(f"{key}: {error}; allowed are text, numbers, True, False, None, lists and dicts") from None


def _written(value: Any) -> str:
    """Returns a value in Hydra's grammar; strings are quoted so that any path is read unchanged."""
    if isinstance(value, str | Path):
        return quoted(str(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(one)}" for key, one in value.items()) + "}"
    if hasattr(value, "tolist"):  # of NumPy or torch
        return _written(value.tolist())
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
