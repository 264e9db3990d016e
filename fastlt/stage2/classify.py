"""Stage 2: fits classifiers, measures them on the test features, and stores them, reusing those already stored."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from fastlt.core.config import changed
from fastlt.core.errors import DEBUG, UserError, first_line
from fastlt.core.files import NotWritten
from fastlt.core.identity import Identity
from fastlt.core.log import Progress, regret, say
from fastlt.core.torch_file import Unreadable, read_torch_file, write_torch_file
from fastlt.core.typed import plain
from fastlt.registry import is_own, own_sources
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers.base import Classifier, Features, Task, Tensors
from fastlt.stage2.code_digest import SOURCES, code_digest
from fastlt.stage2.conformal import unfit_of
from fastlt.stage2.decision_regions import SIDE, lattice, write_regions
from fastlt.stage2.evaluate import ROWS, Scores, average, evaluate
from fastlt.stage2.temperature import fit_temperature

SCHEMA = 1
CLASSIFIERS = "classifiers"  # folder of their files, in the run folder
# Modules that compute the results of every classifier; their code is part of each classifier's key.
MEASURING = ("fastlt.stage2.evaluate", "fastlt.stage2.temperature", "fastlt.stage2.conformal")


@dataclass(frozen=True)
class Job:
    """A classifier to fit and measure.

    name: of the classifier. task: what it learns from. test: the features that it is measured on.
    counts: training images of each class, held-out ones included, int64 [C]; they determine the groups.
    about: settings that the task depends on, besides Stage2.
    checkpoint: path of the checkpoint with the weights that the features were extracted with.
    frame: as `region_frame` returns it, if decision regions are wanted.
    trained: how these weights were trained, if the classifier was trained on images.
    """

    name: str
    task: Task
    test: Features
    counts: np.ndarray
    about: Mapping[str, Any]
    checkpoint: str
    frame: dict[str, Any] | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)


class FeaturesChanged(UserError):
    """A user's own classifier changed the features in place, which the next classifiers would have learned from."""


class Classified(NamedTuple):
    """What `classify` returns.

    rows: by name, the entry of results.json of each fitted classifier. failed: by name, why another was not fitted.
    """

    rows: dict[str, dict[str, Any]]
    failed: dict[str, str]


def classify(
    jobs: Iterable[Job], folder: Path, total: int, check: Callable[[dict[str, Any]], object] = lambda row: None
) -> Classified:
    """Fits and measures the classifiers of `total` jobs, one after the other.

    The file FOLDER/NAME.pt stores the tensors and the results of each. It is reused if everything that the classifier
    depends on is unchanged: its settings, fastlt's code, and the source of a user's own classifier. A job is released
    before the next one is taken from the iterator, so the features of several representations need not fit into memory.

    check: raises an error for a row that results.json cannot hold, as of `choices` of an own classifier.

    An exception in one classifier is noted in `failed` and does not stop the others. Raises NotWritten if a file cannot
    be written, and FeaturesChanged.
    """
    rows: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with Progress("classifiers", total, "classifiers") as progress:
        for job in jobs:
            try:
                state = _kept(job, folder) or _fit(job, folder, check)
                rows[job.name] = {**state["row"], **_regions(job, state["tensors"])}
            except (NotWritten, FeaturesChanged):
                raise
            except Exception as error:  # one classifier, perhaps the user's own, must not stop the others
                if os.environ.get(DEBUG) == "1":
                    raise
                failed[job.name] = first_line(error)
                regret(f"classifier {job.name}: {failed[job.name]}")
            progress.advance(1, job.name)
    return Classified(rows, failed)


def joined(names: Iterable[str], *parts: Classified) -> Classified:
    """Returns several Classified as one, with the classifiers in the order of `names`."""
    rows = {name: row for part in parts for name, row in part.rows.items()}
    failed = {name: reason for part in parts for name, reason in part.failed.items()}
    return Classified(
        {name: rows[name] for name in names if name in rows}, {name: failed[name] for name in names if name in failed}
    )


def file_of(folder: Path, name: str) -> Path:
    """Returns the path of the file that stores a classifier."""
    return folder / f"{name.replace(':', '.')}.pt"


def _key(job: Job) -> str:
    passes = len(job.task.augmented) // len(job.task.train) - 1
    settings = {**changed(job.task.stage2), **({"augmented_passes": passes} if passes else {})}
    classifier = find_classifier(job.name)
    uses = {name: value for name, value in settings.items() if name.partition(".")[0] in classifier.uses}
    uses |= {**own_sources(classifier=job.name), "options": _options(job)}
    about = {"classifier": job.name, "choose_on": job.task.choose_on, **job.about, **uses}
    return Identity({**about, "code": _code(classifier, job.name)}).key


def _options(job: Job) -> dict[str, Any]:
    """Returns the keyword arguments that the user sets for an own classifier; none for a built-in one."""
    return job.task.stage2.options_of(job.name) if is_own(job.name) else {}


def _code(classifier: Classifier, name: str) -> str:
    """Returns a digest of the code of fastlt that computes this classifier; it is fitted again if that changes."""
    own = vars(sys.modules[name.partition(":")[0]]) if is_own(name) else {}
    parts = own.values() or [
        one.func if isinstance(one, partial) else one for one in (classifier.fit, classifier.scores)
    ]
    modules = [str(getattr(one, "__module__", None) or getattr(one, "__name__", None)) for one in parts]
    return code_digest([*modules, *MEASURING], SOURCES, alone=[__name__])


def _kept(job: Job, folder: Path) -> dict[str, Any] | None:
    path = file_of(folder, job.name)
    if not path.exists():
        return None
    try:
        state = read_torch_file(path)
    except Unreadable as error:
        say(f"{path} {error}; the classifier is fitted anew")
        return None
    known = isinstance(state, dict) and state.get("schema") == SCHEMA and state.get("key") == _key(job)
    return state if known else None


def _fit(job: Job, folder: Path, check: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Fits, measures and stores a classifier; returns what is stored."""
    with _unchanged(job):
        state = _fitted(job, check)
    write_torch_file(state, file_of(folder, job.name))
    return state


@contextlib.contextmanager
def _unchanged(job: Job) -> Iterator[None]:
    """Context manager that raises FeaturesChanged if a user's own classifier changes features or labels in place."""
    if not is_own(job.name):
        yield
        return
    before = _sums(job)
    try:
        yield
    finally:
        if not all(map(torch.equal, before, _sums(job))):
            raise FeaturesChanged(
                f"classifier {job.name} changed the features or labels that it was given, which others learn from, "
                "too: let it change a copy, such as x.clone(), and give the same command again"
            )


def _sums(job: Job) -> list[torch.Tensor]:
    """Returns sums over the bits of every row of all features, int64, and copies of the labels.

    Copies of features would need their memory again.
    """
    splits = [one for one in (job.task.train, job.task.augmented, job.task.choose, job.test) if one is not None]
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return [
        tensor
        for split in splits
        for tensor in (split.x.view(bits[split.x.element_size()]).sum(1, dtype=torch.int64), split.labels.clone())
    ]


def _fitted(job: Job, check: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    classifier, task = find_classifier(job.name, _options(job)), job.task
    start = time.monotonic()
    fitted = classifier.fit(task)
    seconds = time.monotonic() - start
    if not all(tensor.isfinite().all() for tensors in (fitted.tensors, *fitted.others) for tensor in tensors.values()):
        raise UserError("its training diverged: lower its learning rate, such as stage2.lr=[0.01]")
    measured = [_measured(classifier, tensors, job) for tensors in (fitted.tensors, *fitted.others)]
    temperature = measured[0].get("calibrated", {}).get("temperature", 1.0)
    row = average(measured)
    row["choices"] = plain({**job.trained, **fitted.choices})
    try:
        json.dumps(row["choices"], allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"its choices cannot be written as JSON ({error}): allowed are texts, finite numbers, true, false, null, "
            "and lists and dicts of them"
        ) from None
    if "weight" in fitted.tensors and fitted.tensors["weight"].shape == task.weight.shape:
        row["weight_norms"] = fitted.tensors["weight"].double().norm(dim=1).tolist()  # squares may overflow float32
    if fitted.curves is not None:
        splits = {task.choose_on: task.choose, "test": job.test}
        row["curves"] = {name: fitted.curves(features) for name, features in splits.items() if features is not None}
    row |= {"seconds": round(seconds, 3), "key": _key(job)}
    check(row)
    return {
        "schema": SCHEMA,
        "classifier": job.name,
        "key": row["key"],
        "checkpoint": job.checkpoint,
        "temperature": temperature,
        "held_out": _unfit(partial(classifier.scores, fitted.tensors), temperature, _apart(task)),
        "tensors": {name: tensor.cpu() for name, tensor in fitted.tensors.items()},
        "row": row,
    }


def _measured(classifier: Classifier, tensors: Tensors, job: Job) -> dict[str, Any]:
    scores = partial(classifier.scores, tensors)
    apart = _apart(job.task)
    temperature = None if apart is None else fit_temperature(scores, apart)
    return evaluate(scores, job.test, job.counts, temperature)


def _apart(task: Task) -> Features | None:
    """Returns images that were not trained on, for temperature and prediction sets; None if there are none.

    Classifiers are more confident on the images that they were trained on.
    """
    return None if task.choose_on == "train" else task.choose


@torch.inference_mode()
def _unfit(scores: Scores, temperature: float, apart: Features | None) -> dict[str, torch.Tensor] | None:
    """Returns what prediction sets are calibrated by: `unfit`, 1 - p_y of each image, float64 [n], and its `labels`."""
    if apart is None:
        return None
    tiles = zip(apart.x.split(ROWS), apart.labels.split(ROWS), strict=True)
    parts = [unfit_of((scores(x.float()).float() / temperature).softmax(1), y) for x, y in tiles]
    return {"unfit": torch.from_numpy(np.concatenate(parts)), "labels": apart.labels.cpu()}


@torch.inference_mode()
def _regions(job: Job, tensors: Tensors) -> dict[str, list[str]]:
    """Returns {"regions": decision regions} of the first seed's classifier, or {} if the job has no frame."""
    if job.frame is None:
        return {}
    scores = partial(find_classifier(job.name).scores, tensors)
    tiles = torch.from_numpy(lattice(job.frame)).split(ROWS)
    predicted = torch.cat([scores(x).max(1)[1] for x in tiles])
    return {"regions": write_regions(predicted.view(SIDE, SIDE).numpy())}
