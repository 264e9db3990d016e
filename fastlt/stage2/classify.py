"""Stage 2: fits every classifier that is not fitted yet, measures it on test, and keeps it."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlt.core.checkpoint import write_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.log import Progress, say
from fastlt.core.settings import Settings
from fastlt.core.torch_file import Unreadable, read_torch_file
from fastlt.registry import is_own, own_sources
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers.base import Classifier, Features, Task, Tensors
from fastlt.stage2.decision_regions import SIDE, lattice, write_regions
from fastlt.stage2.evaluate import ROWS, average, evaluate
from fastlt.stage2.temperature import fit_temperature

SCHEMA = 1
CODE = (
    "stage2/classifiers/*.py",
    "longtail/*.py",
    "longtail/losses/*.py",
    "kernels/*.py",
    "stage2/classify.py",
    "stage2/evaluate.py",
    "stage2/temperature.py",
)


@dataclass(frozen=True)
class Job:
    """A classifier to fit. counts: int64 [C], training images that decide on groups, those held out included. about:
    what its task depends on, besides Stage2. checkpoint: the weights below it. plane: as in `plane_of`, where its
    features lie in one and its regions are wanted. trained: how these weights were, where they were on images."""

    name: str
    task: Task
    test: Features
    counts: np.ndarray
    about: Mapping[str, Any]
    checkpoint: str
    plane: dict[str, Any] | None = None
    trained: Mapping[str, Any] = field(default_factory=dict)


def classify(jobs: Iterable[Job], folder: Path, total: int) -> dict[str, dict[str, Any]]:
    """A row of results.json for each of `total` jobs; `folder`/NAME.pt keeps its tensors and the row. What is there and
    depends on the same, the source of a user's own classifier included, is taken from there. A job is let go before the
    next is asked for: features of several representations need not fit into memory.

    Raises UserError where some could not be fitted, when all others are done and kept.
    """
    rows: dict[str, dict[str, Any]] = {}
    failed = []
    folder.mkdir(parents=True, exist_ok=True)
    with Progress("classifiers", total, "classifiers") as progress:
        for job in jobs:
            try:
                state = _kept(job, folder) or _fit(job, folder)
                rows[job.name] = {**state["row"], **_regions(job, state["tensors"])}
            except UserError as error:
                failed.append(f"{job.name}: {error}")
            progress.advance(1, job.name)
    if failed:
        raise UserError(f"{'; '.join(failed)}, or leave it out of classifiers=[...]; the others are kept")
    return rows


def file_of(folder: Path, name: str) -> Path:
    """Where a classifier is kept."""
    return folder / f"{name.replace(':', '.')}.pt"


def _key(job: Job) -> str:
    settings = {**asdict(job.task.stage2), "views": len(job.task.views) // len(job.task.train) - 1}
    uses = {name: settings[name] for name in find_classifier(job.name).uses}
    uses |= {**own_sources(classifier=job.name), **_options(job)}
    about = {"classifier": job.name, "code": _code(), "choose_on": job.task.choose_on, **job.about, **uses}
    return Settings(about).key


def _options(job: Job) -> dict[str, Any]:
    """What the user sets for an own classifier."""
    return dict(job.task.stage2.options.get(job.name.rpartition(":")[2], {})) if is_own(job.name) else {}


@cache
def _code() -> str:
    """Digest of the source that rows come from: an older fastlt's are fitted again."""
    here, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in here.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_code()  # while it is the source that was imported: a run may go on for hours


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


def _fit(job: Job, folder: Path) -> dict[str, Any]:
    classifier, task = find_classifier(job.name, _options(job)), job.task
    start = time.monotonic()
    fitted = classifier.fit(task)
    seconds = time.monotonic() - start
    if not all(tensor.isfinite().all() for tensors in (fitted.tensors, *fitted.others) for tensor in tensors.values()):
        raise UserError("its training diverged: lower its learning rate, such as stage2.lr=[0.01]")
    measured = [_measured(classifier, tensors, job) for tensors in (fitted.tensors, *fitted.others)]
    row = average(measured)
    row["choices"] = {**job.trained, **fitted.choices}
    if "weight" in fitted.tensors and fitted.tensors["weight"].shape == task.weight.shape:
        row["weight_norms"] = fitted.tensors["weight"].double().norm(dim=1).tolist()  # squares may leave float32
    if fitted.curves is not None:
        splits = {task.choose_on: task.choose, "test": job.test}
        row["curves"] = {name: fitted.curves(features) for name, features in splits.items() if features is not None}
    row |= {"seconds": round(seconds, 3), "key": _key(job)}
    state = {
        "schema": SCHEMA,
        "classifier": job.name,
        "key": row["key"],
        "checkpoint": job.checkpoint,
        "temperature": measured[0].get("calibrated", {}).get("temperature", 1.0),
        "tensors": {name: tensor.cpu() for name, tensor in fitted.tensors.items()},
        "row": row,
    }
    write_checkpoint(state, file_of(folder, job.name))
    return state


def _measured(classifier: Classifier, tensors: Tensors, job: Job) -> dict[str, Any]:
    scores = partial(classifier.scores, tensors)
    # A classifier is surer on the images it was fitted to, and rightly: a temperature from there misleads.
    apart = None if job.task.choose_on == "train" else job.task.choose
    temperature = None if apart is None else fit_temperature(scores, apart)
    return evaluate(scores, job.test, job.counts, temperature)


@torch.inference_mode()
def _regions(job: Job, tensors: Tensors) -> dict[str, list[str]]:
    """What is predicted where in the plane, with several seeds by the first; nothing where there is no plane."""
    if job.plane is None:
        return {}
    scores = partial(find_classifier(job.name).scores, tensors)
    tiles = torch.from_numpy(lattice(job.plane)).split(ROWS)
    predicted = torch.cat([scores(x).max(1)[1] for x in tiles])
    return {"regions": write_regions(predicted.view(SIDE, SIDE).numpy())}
