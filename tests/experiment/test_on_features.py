"""features=FILE: the whole of stage 2 on features that came from elsewhere."""

import importlib
import json
import re
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run

import fastlt
from fastlt.classifiers import CRT, LWS, NCM, TauNorm
from fastlt.core.errors import UserError
from fastlt.experiment.results import Results, read_results
from fastlt.registry import part_digest
from fastlt.report.compare import write_across
from fastlt.report.compare.runs import gather

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSIFIERS = ["joint", "ncm_l2", "crt", "tau_norm", "lws", "logit_adjust"]
SIZES = np.array([150, 60, 25, 12, 6])


def drawn(seed: int, val: int = 0) -> dict[str, Any]:
    """Five Gaussian classes, 150 images to 6; 20 of each for test and `val` of each for val."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(5, 16))
    sizes = {"train": SIZES, "val": np.full(5, val), "test": np.full(5, 20)}
    y = np.concatenate([np.repeat(np.arange(5), each) for each in sizes.values()])
    split = np.repeat(list(sizes), [each.sum() for each in sizes.values()])
    mixed = rng.permutation(len(y))
    x = 10 * (centers[y] + rng.normal(scale=1.3, size=(len(y), 16)))
    names = np.array(["ash", "birch", "cedar", "date palm", "elm"])
    return {"x": x[mixed], "y": names[y[mixed]], "split": split[mixed]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "fastlt.Run":
    place = tmp_path_factory.mktemp("features")
    np.savez(place / "trees.npz", **drawn(0, val=8))
    return fastlt.run_experiment(
        features=place / "trees.npz", run=place / "run", classifiers=CLASSIFIERS, threads=1, device="cpu"
    )


def test_the_whole_of_stage_2(finished: "fastlt.Run") -> None:
    results = finished.results
    assert finished.classifiers == CLASSIFIERS and results.dataset == "trees"
    assert (results.backbone, results.protocol, results.choose_on) == ("features", "features", "val")
    assert results.class_names == ["ash", "birch", "cedar", "date palm", "elm"]
    assert results.class_counts == {"train": SIZES.tolist(), "val": [8] * 5, "test": [20] * 5}
    assert results.groups == {"many": 1, "medium": 2, "few": 2}
    assert (results.image_size, results.evaluation) == (None, None)
    few = {name: row.few or 0.0 for name, row in results.classifiers.items()}
    assert few["crt"] > few["joint"] and few["ncm_l2"] > few["joint"]
    data = np.load(finished.folder.parent / "trees.npz")
    rms = np.sqrt(np.square(data["x"][data["split"] == "train"]).mean())
    assert results.feature_scale == pytest.approx(rms)
    x, y = finished.features("test")
    here = data["split"] == "test"
    assert sorted(np.round(x[:, 0] * rms, 3).tolist()) == pytest.approx(sorted(data["x"][here, 0].tolist()), abs=2e-3)
    assert y.tolist() == sorted(y.tolist())
    found = finished.predictions("test", "crt")
    assert 100 * (found.classes[:, 0] == found.y).mean() == pytest.approx(results.classifiers["crt"].all)
    inputs = finished.predictor("crt").inputs
    rows = torch.stack([inputs.input(row, 0) for row in data["x"][here][np.argsort(data["y"][here], kind="stable")]])
    assert np.array_equal(inputs.scaled(inputs.raw(rows)), x)  # the stored features, to the last bit
    best = finished.predictor("crt").predict(data["x"][here], top=1)
    assert 100 * np.mean([one[0].name for one in best] == data["y"][here]) == pytest.approx(
        results.classifiers["crt"].all
    )
    report = (finished.folder / "report.md").read_text()
    assert "trees" in report and "cRT" in report and "224" not in report
    assert "A linear joint classifier was trained on the features of trees (" in report
    rows = [line.split(" | ")[0] for line in report.splitlines()]
    assert "| rows" in rows and "| images" not in rows and "| backbone" not in rows


def test_estimators_give_the_numbers_of_the_run(finished: "fastlt.Run") -> None:
    """The same code with the same settings: the same tensors, to the last bit."""
    joint = torch.load(finished.folder / "joint.pt")
    splits = {name: finished.features(name) for name in ("train", "val", "test")}
    below = {"scale": "none", "joint": (joint["weight"], joint["bias"])}
    for name, clf in {
        "ncm_l2": NCM(scale="none"),
        "crt": CRT(scale="none"),
        "tau_norm": TauNorm(**below),
        "lws": LWS(**below),
    }.items():
        clf.fit(*splits["train"], *splits["val"])
        kept = torch.load(finished.folder / "classifiers" / f"{name}.pt")
        assert all(torch.equal(clf.tensors_[key], tensor) for key, tensor in kept["tensors"].items()), name
        found, row = clf.report(*splits["test"]), finished.results.classifiers[name]
        groups = ("many", "few", "all")
        assert [found[group] for group in groups] == [getattr(row, group) for group in groups]
        assert found["ece"] == pytest.approx(row.ece, rel=1e-6)  # scores of features elsewhere in memory


def test_what_is_finished_is_used_again(finished: "fastlt.Run") -> None:
    files = [finished.folder / name for name in ("joint.pt", "features.h5", "classifiers/crt.pt")]
    before = [path.stat().st_mtime_ns for path in files]
    keys = {"features": finished.folder.parent / "trees.npz", "run": finished.folder, "threads": 1, "device": "cpu"}
    again = fastlt.run_experiment(**keys, classifiers=["crt", "cosine"])
    assert [path.stat().st_mtime_ns for path in files] == before
    assert again.results.classifiers["crt"] == finished.results.classifiers["crt"]
    assert "cosine" in again.classifiers


def test_results_tell_the_source_of_an_own_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two runs by hand, before and after an edit, the report makes no mean."""
    monkeypatch.syspath_prepend(str(tmp_path))
    np.savez(tmp_path / "trees.npz", **drawn(0, val=8))
    own = "from fastlt.stage2.classifiers.base import Fitted\n\n\ndef shifted(task):\n"
    sources = []
    for seed in (0, 1):
        (tmp_path / "own_shift.py").write_text(
            f"{own}    return Fitted({{'weight': task.weight, 'bias': {seed} * task.bias}})\n"
        )
        monkeypatch.delitem(sys.modules, "own_shift", raising=False)
        importlib.invalidate_caches()
        keys: dict[str, Any] = {"classifiers": ["joint", "own_shift:shifted"], "threads": 1, "device": "cpu"}
        done = fastlt.run_experiment(features=tmp_path / "trees.npz", run=tmp_path / f"runs/{seed}", seed=seed, **keys)
        rows = done.results.classifiers
        assert rows["joint"].source is None and rows["own_shift:shifted"].source == part_digest(
            "classifiers", "own_shift:shifted"
        )
        sources.append(rows["own_shift:shifted"].source)
    assert sources[0] != sources[1]
    write_across([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"own_shift:shifted, source {source[:12]}" in text for source in sources if source)


def test_runs_before_and_after_an_edit_of_an_own_protocol_are_kept_apart(tmp_path: Path) -> None:
    """No name or departure tells them apart: a protocol's departures are from its file as it is at that time."""
    np.savez(tmp_path / "trees.npz", **drawn(0, val=8))
    usual = files("fastlt.conf").joinpath("protocol", "features.yaml").read_text()
    own = tmp_path / "conf" / "protocol" / "mine.yaml"
    own.parent.mkdir(parents=True)

    def trained(seed: int, lr: float, classifier: str = "crt") -> Results:
        text = usual.replace("name: features", "name: mine")
        own.write_text(re.sub("crt: .*", f"crt: {{epochs: 2, batch: 32, lr: {lr}, weight_decay: 0.0005}}", text))
        given = ["--config-dir", "conf", "features=trees.npz", "protocol=mine", f"run=runs/{seed}", f"seed={seed}"]
        done = run("-m", "fastlt.train", *given, f"classifiers=[{classifier}]", "threads=1", "device=cpu", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return read_results(tmp_path / "runs" / str(seed))

    results = [trained(0, 0.2), trained(1, 0.2), trained(2, 0.01)]
    assert [one.departures for one in results] == [{}, {}, {}]
    groups, _ = gather((str(one.seed), one) for one in results)
    assert sorted([one.seed for one in group.runs] for group in groups) == [[0, 1], [2]]
    assert set(trained(1, 0.2, "ncm_l2").classifiers) == {"crt", "ncm_l2"}
    report = (tmp_path / "runs/0/report.md").read_text()
    assert "python -m fastlt.train features=FILE sampler=instance protocol=mine seed=0 'classifiers=[crt]'\n" in report
    assert "A linear joint classifier was trained on the features of trees (" in report


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"backbone": "resnet10"}, "backbone: with features=.* there are no images, leave it out"),
        ({"mode": "images"}, "mode: with features="),
        ({"protocol.loss": "focal"}, "protocol.loss=focal: with features=.* it is cross_entropy"),
        ({"classifiers": ["retrain_all"]}, r"classifiers=\['retrain_all'\]: these are trained on images"),
        ({"sampler": "collections:OrderedDict"}, "sampler=collections:OrderedDict: with .* allowed are instance"),
        ({"feature_scale": "std"}, "feature_scale=std is unknown: allowed are rms, none, or a number"),
    ],
)
def test_what_concerns_images_is_refused(keys: dict, message: str, finished: "fastlt.Run", tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fastlt.run_experiment(**{"features": finished.folder.parent / "trees.npz", "run": tmp_path / "run", **keys})
    assert not (tmp_path / "run").exists()


def test_results_of_another_network_are_not_replaced_unasked(finished: "fastlt.Run", tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **drawn(1, val=8))
    mine, folder = finished.folder.parent / "trees.npz", tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    keys: dict[str, Any] = {"run": folder, "classifiers": ["joint"], "threads": 1, "device": "cpu"}
    before = [(folder / name).read_bytes() for name in ("results.json", "joint.pt", "config.yaml")]
    for given, told in (
        ({"features": tmp_path / "other.npz"}, "holds results of another network .features on trees. or of other"),
        ({"features": mine, "seed": 1}, "seed=1: .* holds results of seed=0: choose another run=DIR, or overwrite"),
    ):
        with pytest.raises(UserError, match=told):
            fastlt.run_experiment(**given, **keys)
    assert [(folder / name).read_bytes() for name in ("results.json", "joint.pt", "config.yaml")] == before
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match=r"joint\.pt holds the weights of another network"):
        fastlt.run_experiment(features=mine, seed=1, **keys)
    assert fastlt.run_experiment(features=mine, seed=1, overwrite=True, **keys).results.seed == 1


def test_a_grid_of_features(finished: "fastlt.Run", tmp_path: Path) -> None:
    """Without a val split: folds, said so; the joint classifier trained in the order that is asked for."""
    np.savez(tmp_path / "mine.npz", **drawn(1))
    keys = ["grid=features", "features=mine.npz", "seed=0", "sampler=class", "classifiers=[joint,tau_norm]"]
    planned = run("-m", "fastlt.grid", *keys, "out=runs", "dry_run=true", cwd=tmp_path)
    assert planned.returncode == 0 and "1 of 1 cell to compute" in planned.stdout, planned.stderr
    done = run("-m", "fastlt.grid", *keys, "out=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").glob("*/results.json")
    results = json.loads(path.read_text())
    assert (results["sampler"], results["choose_on"]) == ("class", "folds")
    assert list((tmp_path / "runs").rglob("index.html"))
