"""Predictions for new features with a run that was trained on features: the command, from Python, and exports."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from finished_run import linear, make_run, predict, rows
from safetensors.torch import load_file

import fastlt
from fastlt.core.errors import UserError
from fastlt.predict.export.formats import export_run
from fastlt.predict.feature_file import FeatureFile

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["ash", "birch", "cedar"]
D = 6


def drawn(sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three Gaussian classes, float32 [N, D], and class indices."""
    y = np.repeat(np.arange(3), sizes)
    centers = np.random.default_rng(9).normal(size=(3, D))
    return (7 * (centers[y] + np.random.default_rng(seed).normal(size=(len(y), D)))).astype(np.float32), y


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "fastlt.Run":
    place = tmp_path_factory.mktemp("features")
    columns: dict[str, Any] = {}
    for seed, (split, sizes) in enumerate({"train": [120, 30, 8], "val": [20] * 3, "test": [15] * 3}.items()):
        columns[f"x_{split}"], numbers = drawn(sizes, seed)
        columns[f"y_{split}"] = np.array(NAMES)[numbers]
    np.savez(place / "trees.npz", **columns)
    return fastlt.run_experiment(
        features=place / "trees.npz",
        run=place / "run",
        classifiers=["joint", "ncm_l2", "ncm_cosine", "crt", "tau_norm", "lws", "mlp_1"],
        feature_dtype="float16",
        threads=1,
        device="cpu",
        **{"protocol.crt.epochs": 2, "protocol.lws.epochs": 2},
    )


def test_every_classifier_predicts_given_features_as_the_run_did(finished: "fastlt.Run") -> None:
    data = np.load(finished.folder.parent / "trees.npz")
    x, y = data["x_test"], data["y_test"]
    for name, row in finished.results.classifiers.items():
        predictor = finished.predictor(name)
        probability = predictor.predict_proba(x, batch=len(x))
        assert probability.dtype == np.float32 and probability.shape == (45, 3)
        assert 100 * (np.array(NAMES)[probability.argmax(1)] == y).mean() == pytest.approx(row.all), name
        expected = finished.predictions("test", name)
        scores = np.log(probability) * predictor.temperature
        best = np.take_along_axis(scores, expected.classes, 1)
        apart = best - best[:, :1] - (expected.scores - expected.scores[:, :1])
        assert np.abs(apart).max() < 1e-3 * max(1.0, np.abs(expected.scores).max()), name
        assert [one[0].name for one in predictor.predict(x, top=1, batch=7)] == [
            NAMES[k] for k in probability.argmax(1)
        ]


def test_from_python_rows_may_be_any_numbers(finished: "fastlt.Run") -> None:
    predictor = finished.predictor("crt")
    x, _ = drawn([4, 4, 4], 5)
    expected = predictor.predict_proba(x)
    for given in (torch.from_numpy(x), x.astype(np.float64), x.tolist(), iter(x), np.asfortranarray(x)):
        assert np.array_equal(predictor.predict_proba(given), expected)
    table: Any = SimpleNamespace(to_numpy=lambda: x)  # as those of pandas and polars, whose iterators give columns
    assert np.array_equal(predictor.predict_proba(table), expected)
    assert np.array_equal(predictor.features(x), x)
    sets = predictor.predict_set(x, coverage=0.8)
    assert sets.members.shape == (12, 3) and sets.members[np.arange(12), expected.argmax(1)].mean() > 0.5
    assert predictor.predict_proba([]).shape == (0, 3)


def test_classes_are_in_the_order_of_their_scores_where_probabilities_round_to_0(tmp_path: Path) -> None:
    """Squared distances of long features differ by hundreds, and without held-out images no temperature is fitted."""
    rng, classes, length = np.random.default_rng(0), 12, 1024
    means, columns = rng.normal(size=(classes, length)), {}
    for split, count in (("train", 6), ("test", 4)):
        y = np.repeat(np.arange(classes), count)
        columns[f"x_{split}"], columns[f"y_{split}"] = means[y] + 3 * rng.normal(size=(len(y), length)), y
    np.savez(tmp_path / "long.npz", **columns)
    keys: dict[str, Any] = {"protocol.crt.epochs": 1, "choose_on": "train", "classifiers": ["ncm_un_l2"]}
    run = fastlt.run_experiment(features=tmp_path / "long.npz", run=tmp_path / "run", threads=1, device="cpu", **keys)
    found = run.predictor().predict(columns["x_test"], top=5)
    assert any(best[4].confidence == 0 for best in found)
    names = run.results.class_names
    assert [[names.index(one.name) for one in best] for best in found] == run.predictions().classes.tolist()


def test_of_equal_scores_the_first_classes_are_told(finished: "fastlt.Run") -> None:
    """As in the evaluation. A row of zeros, of a dead image, has equal scores of tau_norm for all classes."""
    predictor, scores = finished.predictor("tau_norm"), torch.zeros(4, 300)
    scores[1, [50, 200, 250]], scores[2, 299], scores[3] = 1.0, 2.0, torch.arange(300.0)
    confidences, classes = predictor.most_probable(scores, 3)
    assert classes.tolist() == [[0, 1, 2], [50, 200, 250], [299, 0, 1], [299, 298, 297]]
    assert torch.equal(confidences, predictor.probabilities(scores).gather(1, classes))


def test_what_is_no_list_of_rows_is_told(finished: "fastlt.Run") -> None:
    predictor, x = finished.predictor("crt"), drawn([2, 2, 2], 5)[0]
    for given, message in (("photo.jpg", "str is no list: give a list, also of one row"), (3, "int is no list")):
        with pytest.raises(UserError, match=message):
            predictor.predict(given)  # type: ignore[arg-type]
    for numbers, message in (({"top": 0}, "top=0: it must be 1 or more"), ({"batch": 0}, "batch=0: it must be 1")):
        with pytest.raises(UserError, match=message):
            predictor.predict(x, **numbers)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, D + 1)), rf"row 0 is float64 \[{D + 1}\]: allowed are {D} numbers"),
        (np.zeros(D), rf"row 0 is float64 \[\]: allowed are {D} numbers"),
        ([[0.0] * D, ["a"] * D], f"row 1 is list: allowed are {D} numbers"),
        (["photo.jpg"], f"row 0 is str: allowed are {D} numbers"),
        ([[0.0] * D, [np.nan] * D], "row 1: the model gives scores that are not finite"),
        (np.full((1, D), 1e30), "row 0: the model gives scores that are not finite"),
    ],
)
def test_what_is_no_row_is_told(finished: "fastlt.Run", given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        finished.predictor("crt").predict(given)


def write(path: Path, x: np.ndarray, names: list[str] | None) -> Path:
    columns: dict[str, Any] = {"x": x} | ({} if names is None else {"path": np.array(names)})
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["x"] = x
            if names is not None:
                file.create_dataset("path", data=names, dtype=h5py.string_dtype())
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = {"x": x.tolist()} | ({} if names is None else {"path": names})
        parquet.write_table(pyarrow.table(table), path)
    else:
        path.mkdir()
        for name, column in columns.items():
            np.save(path / f"{name}.npy", column)
    return path


@pytest.mark.parametrize("kind", ["new.npz", "new.h5", "new.parquet", "folder"])
@pytest.mark.parametrize("named", [False, True])
def test_the_command_reads_every_format(kind: str, named: bool, finished: "fastlt.Run", tmp_path: Path) -> None:
    x, _ = drawn([5, 5, 5], 6)
    x[3, 2] = np.inf
    names = [f"é/{number}.jpg" for number in range(15)] if named else None
    new = write(tmp_path / kind, x, names)
    code, out, err = predict(finished.folder, new, "--format", "jsonl", "--classifier", "lws", "--batch", 4, "--top", 2)
    assert code == 1 and f"classifier lws of {finished.folder}, 15 rows" in err and "15 rows in" in err
    found = list(map(json.loads, out.splitlines()))
    assert [row["path" if named else "row"] for row in found] == (names or list(range(15)))
    assert found[3]["error"] == "its features are not finite in float32"
    rest = [number for number in range(15) if number != 3]
    expected = finished.predictor("lws").predict(x[rest], top=2)
    assert [
        [(one["class"], one["confidence"], one["group"]) for one in found[number]["predictions"]] for number in rest
    ] == [[(one.name, round(one.confidence, 4), one.group) for one in best] for best in expected]
    _, table, _ = predict(finished.folder, new)
    assert table.splitlines()[0].split()[0] == ("image" if named else "row")
    _, text, _ = predict(finished.folder, new, "--format", "csv", "--coverage", 0.8)
    assert [row["path" if named else "row"] for row in rows(text)] == (names or [str(n) for n in range(15)])
    assert json.loads(rows(text)[0]["set"])


def test_an_interrupted_command_goes_on(
    finished: "fastlt.Run", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = drawn([20, 20, 20], 7)
    new, out = write(tmp_path / "new.npz", x, [f"{number}.jpg" for number in range(60)]), tmp_path / "new.csv"
    arguments = (finished.folder, new, "--format", "csv", "--batch", 8)
    _, expected, _ = predict(*arguments)
    loaded = FeatureFile.loaded

    def broken(self: FeatureFile, done: int) -> Any:
        for number, one in enumerate(loaded(self, done)):
            if number == 30:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(FeatureFile, "loaded", broken)
    monkeypatch.setattr("fastlt.predict.parts.SAVE_SECONDS", 0.0)
    assert predict(*arguments, "--out", out)[0] == 130
    assert (tmp_path / "new.csv.part").exists() and not out.exists()
    monkeypatch.undo()
    _, _, err = predict(*arguments, "--out", out)
    assert "going on after 24 rows" in err
    assert out.read_text() == expected and sorted(one.name for one in tmp_path.iterdir()) == ["new.csv", "new.npz"]


def test_another_file_is_not_gone_on_with(finished: "fastlt.Run", tmp_path: Path) -> None:
    first, second = (FeatureFile(write(tmp_path / f"{n}.npz", drawn([2, 2, 2], n)[0], None), D) for n in (1, 2))
    assert first.digest != second.digest and first.digest == FeatureFile(tmp_path / "1.npz", D).digest


def test_wrong_input_is_one_line(finished: "fastlt.Run", tmp_path: Path) -> None:
    run, x = finished.folder, drawn([2, 2, 2], 1)[0]
    new = write(tmp_path / "new.npz", x, None)
    np.savez(tmp_path / "none.npz", features=x)
    np.savez(tmp_path / "short.npz", x=x, path=np.array(["a"]))
    cases = {
        (tmp_path / "gone.npz",): "gone.npz: there is no such file",
        (tmp_path / "none.npz",): f"none.npz: there is no x [N, {D}], features; it holds features",
        (tmp_path / "short.npz",): "short.npz: path is (1,), x has 6 rows: one name each is needed",
        (write(tmp_path / "wide.npz", np.zeros((2, 9)), None),): f"wide.npz: x is float64 [2, 9]: numbers [N, {D}] are",
        (write(tmp_path / "empty.npz", x[:0], None),): f"x is float32 [0, {D}]: numbers [N, {D}] are needed",
        (tmp_path / "photo.jpg",): "photo.jpg: there is no such file",
        (new, new): "was trained on features, so one file of features is predicted, not 2",
        (new, "--features", tmp_path / "x.npz"): "x.npz is for images, and",
        (new, "--max-pixels", 9): "--max-pixels=9 is for images, and",
    }
    for arguments, message in cases.items():
        code, out, err = predict(run, *arguments)
        assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1, arguments


def test_the_classifier_alone_is_exported(finished: "fastlt.Run", tmp_path: Path) -> None:
    x, _ = drawn([5, 5, 5], 8)
    for name in ("joint", "crt", "tau_norm", "lws"):
        out = tmp_path / f"{name}.safetensors"
        assert "3 classes, the linear layer fc on features" in export_run(finished.folder, name, "safetensors", out)
        kept = load_file(out)
        assert sorted(kept) == ["fc.bias", "fc.weight"]
        logits = torch.from_numpy(x) @ kept["fc.weight"].T + kept["fc.bias"]
        assert np.allclose(logits.softmax(1), finished.predictor(name).predict_proba(x), atol=2e-3), name  # float16
    with pytest.raises(UserError, match=r"--format=onnx needs a network, and .* was trained on features of another"):
        export_run(finished.folder, "crt", "onnx", tmp_path / "crt.onnx")
    with pytest.raises(UserError, match=r"ncm_cosine looks at directions of features, .*: choose another classifier"):
        export_run(finished.folder, "ncm_cosine", "safetensors", tmp_path / "out.safetensors")


def test_a_joint_classifier_of_another_training_is_refused(finished: "fastlt.Run", tmp_path: Path) -> None:
    run = shutil.copytree(finished.folder, tmp_path / "run")
    state = torch.load(run / "joint.pt")
    torch.save({**state, "key": "another"}, run / "joint.pt")
    new = write(tmp_path / "new.npz", drawn([2, 2, 2], 1)[0], None)
    code, _, err = predict(run, new)
    assert code == 2 and "joint.pt is not of the training that results.json tells of" in err


def test_probabilities_of_images_are_those_of_predict(tmp_path: Path) -> None:
    predictor = fastlt.open_run(make_run(tmp_path / "run", {"crt": linear(2)})).predictor("crt")
    images = list(np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8))
    told = [{one.name: one.confidence for one in best} for best in predictor.predict(images, top=9, batch=2)]
    expected = [[of[name] for name in predictor.class_names] for of in told]
    assert np.array_equal(predictor.predict_proba(images, batch=2), np.array(expected, np.float32))
