"""The contents of results.json as dataclasses. An experiment writes them; reports, predictions and users read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastlt.core.errors import UserError
from fastlt.core.groups import GROUPS
from fastlt.core.typed import plain, read_json, typed, write_json, wrong
from fastlt.stage2.decision_regions import read_regions

SCHEMA = 1
NAME = "results.json"
FROZEN = "frozen"  # protocol that is taken for epochs=0 where none is named
GIVEN = "features"  # backbone, and usual protocol, of runs on features that were given
AGAIN = "give its training command again: it writes the file anew and trains nothing that is there"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How test images were preprocessed.

    crop_pct: side of the central crop as a share of the image's short side, in (0, 1]. interpolation: of the resize.
    mean, std: of RGB in 0..1, by which images were normalized. kind, quality, max_short_side, orientation,
    background: options of the conversion that change pixels.
    """

    crop_pct: float
    interpolation: str = "bilinear"
    mean: list[float]
    std: list[float]
    kind: str
    quality: int
    max_short_side: int
    orientation: str
    background: str = ""

    def __post_init__(self) -> None:
        _check_length("mean", self.mean, 3)
        _check_length("std", self.std, 3)
        if not 0 < self.crop_pct <= 1:
            raise wrong("crop_pct", self.crop_pct, "a share above 0, 1 at most")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The epoch of stage 1 whose weights were taken, counted from 1, and how it was chosen, in words."""

    epoch: int
    chosen: str


@dataclass(frozen=True, kw_only=True)
class Bins:
    """The bins of a reliability diagram.

    count: images in each bin. confidence, accuracy: their mean confidence and accuracy, in percent; None if empty.
    """

    count: list[float]
    confidence: list[float | None]
    accuracy: list[float | None]

    def __post_init__(self) -> None:
        for name in ("confidence", "accuracy"):
            _check_length(name, getattr(self, name), len(self.count))


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The calibration of a classifier whose confidences are softmax(scores / temperature). ece: in percent."""

    temperature: float | None
    ece: float | None
    reliability: Bins | None


@dataclass(frozen=True, kw_only=True)
class ClassifierResult:
    """The measures of one classifier on the test split.

    Accuracies and shares are in percent; they are None for a group or class without test images.

    many, medium, few: mean accuracy of the classes of the group.
    all, mean_class: accuracy over images, and its mean over classes.
    macro_f1, top5, ece: see `fastlt.stage2.evaluate`.
    per_class: accuracy of each of the C classes.
    reliability, calibrated: calibration of the scores, and of the scores over a fitted temperature.
    confusions: the most frequent wrong pairs, [true class, predicted class, images, percent of the true class's].
    shifted: accuracy under other class priors, by the name of the prior.
    seeds: number of trainings. If there are several, every number is their mean, and std holds standard deviations.
    choices: hyperparameters, and how they were chosen.
    weight_norms: L2 norm of the weight vector of each class, [C].
    curves: by split, {"tau": [...], measure: [value at each tau]}.
    regions: decision regions, see `write_regions` in fastlt/stage2/decision_regions.py.
    seconds: wall time of fitting. key: hash of everything that the classifier depends on.
    source: hash of the source of a user's own classifier; None for one of fastlt's.
    """

    many: float | None
    medium: float | None
    few: float | None
    all: float | None
    mean_class: float | None
    macro_f1: float | None
    top5: float | None
    ece: float | None
    per_class: list[float | None]
    reliability: Bins | None
    confusions: list[list[float]]
    shifted: dict[str, float | None]
    calibrated: Calibrated | None = None
    seeds: int = 1
    std: dict[str, float | None] = field(default_factory=dict)
    choices: dict[str, Any]
    weight_norms: list[float] | None = None
    curves: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    seconds: float | None
    key: str
    source: str | None = None
    regions: list[str] | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise wrong("seeds", self.seeds, "a number of seeds")
        for row in self.confusions:
            if len(row) != 4 or not all(place >= 0 and place % 1 == 0 for place in row[:2]):
                raise wrong("confusions", row, "a list of [true class, predicted class, images, percent]")
        for split, curve in self.curves.items():
            tau = curve.get("tau")
            if not tau or None in tau:
                raise wrong(f"curves.{split}.tau", tau, "a list of numbers")
            for name, values in curve.items():
                _check_length(f"curves.{split}.{name}", values, len(tau))
        grid, bootstrap = self.choices.get("grid", []), self.choices.get("bootstrap", {})
        typed(list[dict[str, Any]], grid, "choices.grid")
        for name, value in typed(dict[str, Any], bootstrap, "choices.bootstrap").items():
            kind = list[float] if name == "tau" else float
            _check_length("choices.bootstrap.tau", typed(kind, value, f"choices.bootstrap.{name}"), 3)

    def check(self, classes: int) -> None:
        """Raises UserError if a list has another length than `classes`, or a class index is out of range."""
        for name in ("per_class", "weight_norms"):
            if (values := getattr(self, name)) is not None:
                _check_length(name, values, classes)
        for row in self.confusions:
            if max(row[:2]) >= classes:
                raise wrong("confusions", row, f"classes below {classes}")
        if self.regions is not None:
            try:
                highest = read_regions(self.regions).max()
            except ValueError as error:
                raise UserError(f"regions: {error}; allowed is a list with the rows of a square") from None
            if highest >= classes:
                raise UserError(f"regions holds class {highest}; allowed is a number below {classes}")


@dataclass(frozen=True, kw_only=True)
class RegionFrame:
    """The part of the plane in which two-dimensional test features lie.

    x: features [n, 2] of some test images. labels: their class indices [n]. low, high: ends of both axes, [2] each.
    """

    x: list[list[float]]
    labels: list[int]
    low: list[float]
    high: list[float]

    def __post_init__(self) -> None:
        _check_length("low", self.low, 2)
        _check_length("high", self.high, 2)
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise wrong("low", self.low, "a pair of numbers below decision_regions.high")
        _check_length("x", self.x, len(self.labels))
        for place, point in enumerate(self.x):
            _check_length(f"x[{place}]", point, 2)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of one finished experiment: the contents of results.json.

    sampler, drawing, epochs: of stage 1; unknown or None if an imported representation does not say.
    key: of the representation. features_key: of its stored features, if that is another (epochs=0).
    trained_by: hash of what other fields do not tell of the training: of a given representation, of all that
        determined it but its seed; else of the sources of the user's own parts; with both, of the settings of the
        user's own protocol; None without any.
    image_size, evaluation: None for features of another network.
    feature_scale: number that features were divided by for the classifiers, if they were.
    parameters: number of parameters of the model.
    seconds, images_per_second: wall time and throughput of stage 1. trained_on: its devices, one after the other; None
        if that is not known. device: that of stage 2.
    class_counts: by split, the number of images of each class.
    groups: by group, the number of its classes.
    choose_on, temperature_on: the split on which hyperparameters were chosen and temperatures fitted.
    classifiers: by name, the results of each classifier.
    failed: by name, why a classifier could not be fitted. In the file it is among `classifiers`, as {"error": ...}.
    departures: by key, [the protocol's value, the value used] of settings that differ from the protocol.
    cell: key of the grid cell that the experiment belongs to.

    Example:

        results = read_results(Path("runs/mine"))
        print(results.classifiers["crt"].few)
    """

    schema: int
    dataset: str
    dataset_digest: str
    backbone: str
    sampler: str
    drawing: str | None
    seed: int
    protocol: str
    key: str
    features_key: str | None = None
    trained_by: str | None = None
    epochs: int | None
    image_size: int | None
    evaluation: Evaluation | None
    feature_scale: float | None = None
    parameters: int
    checkpoint: Checkpoint
    seconds: float | None
    images_per_second: float | None
    trained_on: str | None = None
    class_names: list[str]
    class_counts: dict[str, list[int]]
    groups: dict[str, int]
    choose_on: str
    temperature_on: str | None = None
    hold_out: float
    precision: str
    mode: str
    bn: str
    augmented_passes: int
    feature_dtype: str
    decision_regions: RegionFrame | None = None
    classifiers: dict[str, ClassifierResult]
    failed: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str]
    device: str
    departures: dict[str, list[Any]]
    cell: str | None = None

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise wrong("schema", self.schema, f"{SCHEMA}, the one this fastlt writes")
        for split in ("train", "test"):
            if not self.class_counts.get(split):
                raise wrong(f"class_counts.{split}", self.class_counts.get(split), "a list of numbers")
        classes = len(self.class_counts["train"])
        for split, counts in self.class_counts.items():
            _check_length(f"class_counts.{split}", counts, classes)
            if min(counts) < 0:
                raise wrong(f"class_counts.{split}", counts, "a list of numbers of images")
        _check_length("class_names", self.class_names, classes)
        if self.image_size is not None and self.image_size < 1:
            raise wrong("image_size", self.image_size, "a number of pixels")
        for group in GROUPS:
            typed(int, self.groups.get(group), f"groups.{group}")
        for key, values in self.departures.items():
            if len(values) != 2:
                raise wrong(f"departures.{key}", values, "[the protocol's value, the value used]")
        if self.decision_regions is not None and not all(
            0 <= label < classes for label in self.decision_regions.labels
        ):
            raise wrong(
                "decision_regions.labels", self.decision_regions.labels, f"a list of class numbers below {classes}"
            )
        if not self.classifiers and not self.failed:
            raise UserError("classifiers is empty; allowed is at least one classifier")
        for name, result in self.classifiers.items():
            try:
                result.check(classes)
            except UserError as error:
                raise UserError(f"classifiers.{name}.{error}") from None


def read_results(run: Path) -> Results:
    """Reads results.json from the folder of a run.

    Raises UserError, in one line, if there is no such file, or if a field is missing or has a value that is not
    allowed.
    """
    path = run / NAME
    if not run.is_dir():
        raise UserError(f"{run}: no such folder of a run")
    try:
        return from_json(read_json(path))
    except UserError as error:
        told = str(error)
        raise UserError(f"{told if told.startswith(str(path)) else f'{path}: {told}'}; {AGAIN}") from None


def write_results(results: Results, run: Path) -> Path:
    """Writes results.json atomically into the folder of a run and returns its path. Raises NotWritten."""
    write_json(run / NAME, to_json(results))
    return run / NAME


def from_json(value: Any) -> Results:
    """Returns the Results of a parsed results.json. Raises UserError, naming the field, for a value not allowed."""
    rows = value.get("classifiers") if isinstance(value, dict) else None
    if isinstance(rows, dict):
        failed = {name: row["error"] for name, row in rows.items() if isinstance(row, dict) and "error" in row}
        value = {**value, "classifiers": {name: rows[name] for name in rows if name not in failed}, "failed": failed}
    return typed(Results, value)


def to_json(results: Results) -> dict[str, Any]:
    """Returns the results as dicts and lists, in the form of results.json."""
    value = plain(results)
    for name, error in value.pop("failed", {}).items():
        value["classifiers"][name] = {"error": error}
    return value


def _check_length(name: str, values: Any, length: int) -> None:
    if isinstance(values, list) and len(values) != length:
        raise wrong(name, values, f"a list of {length} {'names' if name == 'class_names' else 'numbers'}")
