"""The plane of two-dimensional features: what results.json holds of it, and that any classifier gets its regions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_classifiers import drawn, made

from fastlt.stage2 import classify as module
from fastlt.stage2.classifiers import find_classifier
from fastlt.stage2.classifiers.base import Features, Stage2, Task, Training
from fastlt.stage2.classify import Job, classify, file_of
from fastlt.stage2.decision_regions import POINTS, SIDE, lattice, read_regions, region_frame, write_regions

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = Training(1, 64, 0.2, 5e-4)
COUNTS = np.array([200, 40, 5])
OWN = """
import torch
from fastlt.stage2.classifiers.base import Classifier, Fitted

STRIPES = Classifier(lambda task: Fitted({"edge": torch.tensor([0.0])}), lambda tensors, x: torch.stack(
    [x[:, 0] < tensors["edge"], x[:, 0] >= tensors["edge"], torch.zeros(len(x))], 1).float())
"""


def test_points_are_spread_evenly_and_lie_within() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [3000, 1500, 500])
    features = (rng.standard_normal((5000, 2)) * [1e-3, 400] + labels[:, None]).astype(np.float32)
    frame = region_frame(features, labels)
    points = np.array(frame["x"])
    assert len(points) == len(frame["labels"]) == POINTS
    assert np.bincount(frame["labels"]).tolist() == [1200, 600, 200]
    np.testing.assert_allclose(points, features[[place * 5000 // POINTS for place in range(POINTS)]], rtol=6e-4)
    assert all(value == float(f"{value:.4g}") for value in points.ravel())
    assert np.all((points > frame["low"]).mean(0) > 0.98) and np.all((points < frame["high"]).mean(0) > 0.98)
    span = points.max(0) - points.min(0)
    assert np.all(np.abs(points.min(0) - frame["low"]) < span) and np.all(np.abs(frame["high"] - points.max(0)) < span)
    assert json.loads(json.dumps(frame, allow_nan=False)) == frame


def test_a_point_far_away_leaves_room_for_the_others() -> None:
    features = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    features[7] = [1e6, 0.5]
    frame = region_frame(features, np.zeros(300, np.int64))
    assert frame["x"][7] == [1e6, 0.5]
    for low, high in zip(frame["low"], frame["high"], strict=True):
        assert -1.4 < low < -1 and 1 < high < 1.4


@pytest.mark.parametrize("features", [[[0.0, 3.0]], [[-7.0, 1.0], [-7.0, 2.0]], [[65504.0, 0.0]] * 3])
def test_points_on_a_line_have_a_plane_around_them(features: list[list[float]]) -> None:
    frame = region_frame(np.array(features, np.float16), np.zeros(len(features), np.int64))
    assert frame["x"] == [[float(f"{value:.4g}") for value in point] for point in features]
    for axis in range(2):
        assert frame["low"][axis] < min(point[axis] for point in frame["x"])
        assert frame["high"][axis] > max(point[axis] for point in frame["x"])


def test_the_lattice_holds_the_middles_of_equal_cells() -> None:
    points = lattice({"low": [-1.0, 10.0], "high": [3.0, 30.0]})
    assert points.shape == (SIDE * SIDE, 2) and points.dtype == np.float32
    for row, column in ((0, 0), (0, 1), (7, 3), (SIDE - 1, SIDE - 1)):
        expected = (-1 + 4 * (column + 0.5) / SIDE, 10 + 20 * (row + 0.5) / SIDE)
        assert points[row * SIDE + column] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", [1, 3, 8142])
def test_regions_come_back(classes: int) -> None:
    regions = np.sort(np.random.default_rng(classes).integers(0, classes, (20, 20)), axis=1)
    assert np.array_equal(read_regions(json.loads(json.dumps(write_regions(regions)))), regions)
    assert write_regions(np.array([[0, 2], [1, 1]])) == ["0*1 2*1", "1*2"]


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        "0*2",
        [2, 2],
        ["0*2", None],
        ["0*2"],
        ["0*2", "0*3"],
        ["0*2", "0*1  1*1"],
        ["0*2", "-1*2"],
        ["0*2", "0*2 "],
        ["0*2", "0"],
        ["0*2", ""],
        ["0*2", "0*99999999999999999999"],
    ],
)
def test_other_rows_are_refused(rows: object) -> None:
    with pytest.raises(ValueError, match=r"no (list|row)"):
        read_regions(rows)


@pytest.fixture(scope="module")
def task() -> Task:
    full = made(COUNTS, Stage2(TRAINING, TRAINING))

    def flat(features: Features) -> Features:
        return Features(features.x[:, :2].contiguous(), features.labels)

    joint = torch.nn.Linear(2, len(COUNTS))
    torch.nn.init.normal_(joint.weight, generator=torch.Generator().manual_seed(0))
    assert full.choose is not None
    train, choose = flat(full.train), flat(full.choose)
    return replace(full, train=train, augmented=train, choose=choose, joint=joint)


def jobs(task: Task, names: list[str], flat: bool = True) -> list[Job]:
    test = drawn(np.full(len(COUNTS), 30), 3)
    test = Features(test.x[:, :2].contiguous(), test.labels)
    frame = region_frame(test.x.numpy(), test.labels.numpy()) if flat else None
    return [Job(name, task, test, COUNTS, {"representation": "r"}, "checkpoint.pt", frame) for name in names]


NAMES = ["joint", "ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws", "mlp_1", "cosine", "logit_adjust"]


def test_every_classifier_gets_the_regions_of_its_own_scores(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_stripes.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    listed = jobs(task, [*NAMES, "own_stripes:STRIPES"])
    rows = classify(iter(listed), tmp_path / "kept", len(listed)).rows
    assert listed[0].frame is not None
    points = torch.from_numpy(lattice(listed[0].frame))
    for name, row in rows.items():
        tensors = torch.load(file_of(tmp_path / "kept", name), weights_only=True)["tensors"]
        with torch.inference_mode():
            scores = find_classifier(name).scores(tensors, points).numpy()
        regions = read_regions(row["regions"])
        assert regions.shape == (SIDE, SIDE)
        # Batches of another size may round another way, and then the best of nearly equal scores is another one.
        picked = scores[np.arange(len(scores)), regions.ravel()]
        np.testing.assert_allclose(picked, scores.max(1), rtol=1e-4, atol=1e-4, err_msg=name)
    stripes = read_regions(rows["own_stripes:STRIPES"]["regions"])
    assert np.array_equal(stripes.ravel(), (points[:, 0] >= 0).numpy())
    weight, bias = task.weight.double().numpy(), task.bias.double().numpy()
    joint = read_regions(rows["joint"]["regions"])
    for row, column in np.random.default_rng(0).integers(0, SIDE, (200, 2)):
        scores = weight @ points[row * SIDE + column].double().numpy() + bias
        assert scores[joint[row, column]] == pytest.approx(scores.max(), abs=1e-5)


def test_what_was_kept_gets_its_regions(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["joint", "ncm_l2", "crt"]
    without = classify(iter(jobs(task, names, flat=False)), tmp_path, 3).rows
    assert not any("regions" in row for row in without.values())

    def fit(*_: object) -> None:
        raise AssertionError("it is fitted again")

    monkeypatch.setattr(module, "_fit", fit)
    again = classify(iter(jobs(task, names)), tmp_path, 3).rows
    assert {name: {key: row[key] for key in row if key != "regions"} for name, row in again.items()} == without
    assert all(read_regions(row["regions"]).shape == (SIDE, SIDE) for row in again.values())
    assert "regions" not in torch.load(file_of(tmp_path, "crt"), weights_only=True)["row"]
