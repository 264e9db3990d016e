"""What fastlt writes, each with what is done with it: the artefacts that tests/mutations.py damages."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import numpy as np
import torch
from finished_run import linear, make_run, model_state, seen
from made_results import made as made_results
from made_results import measured
from mutations import Artefact
from omegaconf import DictConfig, OmegaConf
from pictures import Pictures, conversion, picture
from test_classifiers import COUNTS, made
from test_classify import TRAINING, jobs
from test_features import Cut, Images
from test_features import model as feature_model
from test_given_features import arrays as given_arrays
from test_given_features import to_compressed, to_folder, to_hdf5, to_npz, to_parquet
from test_representation import SETTINGS, Noise, fit

from fastlt.core.batches import Batch
from fastlt.core.checkpoint import before, save_checkpoint
from fastlt.core.errors import UserError
from fastlt.core.structured import from_node, register, schema
from fastlt.core.typed import write_json
from fastlt.core.yaml_file import read_yaml, write_yaml
from fastlt.data.convert import convert
from fastlt.data.convert import engine as engine_module
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.index import INDEXED
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.experiment.config import TrainConfig
from fastlt.experiment.kept import take_from_run
from fastlt.experiment.results import from_json, read_results, write_results
from fastlt.grid.cells import failure_in
from fastlt.grid.job import write_failure
from fastlt.longtail.sampler import InOrder
from fastlt.models.checkpoint.store import load_model
from fastlt.predict.predictor import Predictor
from fastlt.report.compare.gaps import read_planned
from fastlt.report.page import page
from fastlt.report.per_class import write_per_class
from fastlt.stage2.classifiers.base import Stage2
from fastlt.stage2.classify import Job, classify
from fastlt.stage2.features import FeatureStore
from fastlt.stage2.features import part as part_module
from fastlt.stage2.features.given.given import GivenFeatures
from fastlt.training.recipe import Recipe
from fastlt.training.representation import train_representation


def digest(*values: Any) -> str:
    """Of arrays and of what has a repr."""
    found = hashlib.sha256()
    for value in values:
        found.update(np.ascontiguousarray(value).data if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()


# --- datasets ---

SOURCE = Pictures(counts=(8, 4), pixels=True)


def make_dataset(kind: str, source: Pictures = SOURCE) -> Any:
    return lambda folder: convert(source, conversion(kind), folder / "data", workers=1)


def everything(folder: Path) -> str:
    """All that a dataset tells of itself, and all bytes that a loader would be given."""
    data = Dataset(folder / "data")
    found: list[Any] = [
        data.name,
        data.class_names,
        {k: v for k, v in data.about.items() if k not in ("digest", "index")},
    ]
    for split, index in data.splits.items():
        found += [split, *(getattr(index, name) for name in INDEXED)]
        found += [(data.key(split, sample), data.data(split, sample).tobytes()) for sample in range(len(index))]
        if (name := data.key(split, 0)).startswith("unknown ("):
            raise UserError(f"the image's name is {name}")
    return digest(*found)


def epoch(folder: Path) -> str:
    """The batches of an epoch."""
    data = Dataset(folder / "data")
    index = data.split("train")
    order = InOrder(index.class_members)
    with Loader(data, "train", order, Augment(32, crop_pct=1.0), 4, threads=1, dtype=torch.uint8) as loader:
        return digest(*(part for batch in loader.epoch() for part in (batch.images.numpy(), batch.labels.numpy())))


def verified(folder: Path) -> str:
    verdict = verify(folder / "data")
    if verdict.findings:
        raise UserError(verdict.lines[0])
    return verdict.summary


def make_partial(folder: Path) -> None:
    """A conversion that was killed when its last shard was complete."""

    def kill(*_: object) -> None:
        raise Cut

    with mock.patch.object(engine_module, "SHARD_UNIT", 1000), mock.patch.object(engine_module, "write_dataset", kill):
        try:
            convert(SOURCE, conversion("png", shard_mb=10), folder / "out", workers=1)
        except Cut:
            return


def resume(folder: Path) -> str:
    with mock.patch.object(engine_module, "SHARD_UNIT", 1000):
        root = convert(SOURCE, conversion("png", shard_mb=10), folder / "out", workers=1)
    return digest(*((path.name, path.read_bytes()) for path in sorted(root.iterdir())))


# --- trainings ---


class Ended(Noise):
    """The process ends after two epochs."""

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        if epoch == 2:
            raise Cut
        return super().epoch(epoch, position)


def begin_training(folder: Path) -> None:
    try:
        train_representation(SETTINGS, fit(Recipe(), Ended()), folder)
    except Cut:
        assert before(folder / "checkpoint.pt").exists()


def begin_longer(folder: Path) -> None:
    """The newest checkpoint is gone, as between two renames."""
    begin_training(folder)
    (folder / "checkpoint.pt").unlink()


def train(folder: Path) -> str:
    """The weights, and what was measured but for the speed."""
    done = train_representation(SETTINGS, fit(Recipe()), folder)
    return digest(done.epoch, done.about, done.chosen, *(x.numpy() for x in done.model.state_dict().values()))


def make_trained(folder: Path) -> None:
    train(folder)


def measured_lines(folder: Path) -> str:
    """As `train`, and metrics.jsonl but for the speed."""
    weights = train(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return weights + repr([line for line in lines if '"epoch": 3' not in line])


def make_given(folder: Path) -> None:
    save_checkpoint(model_state(0), folder / "given.pt")


def given(folder: Path) -> str:
    model, state = load_model(folder / "given.pt")
    return digest(state["key"], state["settings"], *(x.numpy() for x in model.state_dict().values()))


# --- stage 2 ---

WIDTH = 40  # images of a split


def store_of(folder: Path) -> FeatureStore:
    return FeatureStore(folder / "features.h5", "abc", passes=1)


def fill_store(folder: Path, cut: int = 10**9) -> str:
    """Writes what is not there; all that is stored."""
    store, train = store_of(folder), Images(WIDTH, cut=cut)
    store.write({"val": Images(8, seed=1), "train": train}, feature_model(), augmented=train)
    return digest(*store.read("train", augmented=True), *store.read("val"), *store.read("train"))


def make_store(folder: Path) -> None:
    fill_store(folder)


def cut_store(folder: Path) -> None:
    with mock.patch.object(part_module, "SAVE_EVERY", 0.0):
        try:
            fill_store(folder, 12)
        except Cut:
            assert (folder / "features.h5.part").exists()


@cache
def classifier_jobs() -> list[Job]:
    return jobs(made(COUNTS, Stage2(TRAINING, TRAINING)), "joint", "ncm_l2", "crt", "tau_norm")


def fit_classifiers(folder: Path) -> str:
    listed = classifier_jobs()
    found = classify(iter(listed), folder / "classifiers", len(listed))
    assert not found.failed, found.failed
    rows = {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in found.rows.items()}
    return re.sub(r"\d+\.\d+(e-\d+)?", lambda number: f"{float(number[0]):.3f}", repr(rows))  # sums differ in last bits


def make_classifiers(folder: Path) -> None:
    fit_classifiers(folder)


# --- results and what reads them ---


def make_finished(folder: Path) -> None:
    make_run(folder / "run", {"crt": linear(1), "joint": linear(0)})
    write_results(read_results(folder / "run"), folder / "run")


def predicted(folder: Path) -> str:
    predictor = Predictor(folder / "run", "crt", torch.device("cpu"))
    images = torch.stack([seen(Encoding()).input(picture(seed, 40, 50)) for seed in range(3)])
    return digest(
        predictor.class_names,
        predictor.temperature,
        *(x.numpy() for x in predictor.most_probable(predictor.forward(images)[1], 3)),
    )


def make_results(folder: Path) -> None:
    (folder / "run").mkdir()
    write_results(from_json(measured(made_results([300, 50, 5]))), folder / "run")


def reported(folder: Path) -> str:
    results = read_results(folder / "run")
    write_per_class(results, folder / "per_class.csv")
    return page(results, []) + (folder / "per_class.csv").read_text()


def composed(*overrides: str) -> DictConfig:
    register("train", TrainConfig)
    with hydra.initialize_config_module("fastlt.conf", version_base="1.3"):
        return hydra.compose("train", list(overrides))


def make_config(folder: Path) -> None:
    config = from_node(composed("protocol=demo", "seed=3", "data=photos"), TrainConfig)
    write_yaml(folder / "config.yaml", asdict(config))
    (folder / "results.json").touch()


def taken(folder: Path) -> str:
    overrides = [f"run={folder}"]
    if not os.path.lexists(folder / "config.yaml"):
        overrides.append("protocol=demo")  # which the dataset names then
    return repr(from_node(take_from_run(composed(*overrides), overrides), TrainConfig))


def make_cell(folder: Path) -> None:
    config = from_node(composed("protocol=demo", "seed=3"), TrainConfig)
    write_yaml(folder / "cell.yaml", {"key": "abc", "departures": {"epochs": [20, 2]}, "config": asdict(config)})


def cell(folder: Path) -> str:
    told = read_yaml(folder / "cell.yaml", "give the command of the grid again", always=True)
    config = from_node(OmegaConf.merge(schema(TrainConfig), told.config), TrainConfig)
    return repr((told.key, OmegaConf.to_container(told.departures), config))


def make_grid(folder: Path) -> None:
    about = {"dataset": "shapes", "backbone": "resnet32", "sampler": "class", "protocol": "demo", "epochs": 20}
    cells = [{"name": name, "run": name, "key": name, "seed": place, **about} for place, name in enumerate("ab")]
    write_json(folder / "grid.json", {"grid": "mine", "cells": cells})
    (folder / "a").mkdir()
    write_failure(folder / "a", "its training diverged", 1.0)


def planned(folder: Path) -> str:
    found, failure = read_planned([folder]), failure_in(folder / "a")
    if not found:
        raise UserError("there is no plan")
    for one in found:
        if one.name == "a" and one.reason in ("not finished", "failed (failed.json cannot be read)"):
            raise UserError(one.reason)
    return repr((found, failure and failure.error))


KINDS = (to_npz, to_compressed, to_folder, to_hdf5, to_parquet)


def make_given_features(folder: Path) -> None:
    for kind in KINDS:
        kind(given_arrays(), folder / f"given_{kind.__name__}")


def given_features(folder: Path) -> str:
    """Whether they are read: they are the user's own files, and nothing else says what is in them."""
    for path in sorted(folder.iterdir()):
        assert len(GivenFeatures(path).survey.digest) == 64
    return "read"


ARTEFACTS = {
    "index.h5": Artefact(make_dataset("raw"), everything, "data/index.h5"),
    "dataset.json": Artefact(make_dataset("raw"), everything, "data/dataset.json"),
    "shards, raw": Artefact(make_dataset("raw"), epoch, "data/train*.tar", differs=True),
    "shards, JPEG": Artefact(make_dataset("jpeg", Pictures(counts=(8, 4))), epoch, "data/train*.tar", differs=True),
    ".idx, by verify": Artefact(make_dataset("raw"), verified, "data/*.idx"),
    "conversion's journal": Artefact(make_partial, resume, "out.partial/**/*.*[nge]"),
    "partial shards": Artefact(make_partial, resume, "out.partial/dataset/*"),
    "checkpoint, unfinished": Artefact(begin_training, train, "checkpoint.pt"),
    "checkpoint before": Artefact(begin_longer, train, "checkpoint.before.pt"),
    "checkpoint, finished": Artefact(make_trained, train, "checkpoint.pt"),
    "metrics.jsonl": Artefact(begin_training, measured_lines, "metrics.jsonl", differs=True),
    "representation=": Artefact(make_given, given, "given.pt"),
    "features.h5": Artefact(make_store, fill_store, "features.h5"),
    "features.h5.part": Artefact(cut_store, fill_store, "features.h5.part"),
    "classifiers": Artefact(make_classifiers, fit_classifiers, "classifiers/*.pt"),
    "a run read by predict": Artefact(make_finished, predicted, "run/**/*.[pj]*"),
    "results.json": Artefact(make_results, reported, "run/results.json"),
    "config.yaml": Artefact(make_config, taken, "config.yaml", differs=True),
    "grid: a cell's file": Artefact(make_cell, cell, "cell.yaml"),
    "grid.json, failed.json": Artefact(make_grid, planned, "**/*.json"),
    "features=FILE": Artefact(make_given_features, given_features, "**/*"),
}
