"""What the README shows runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_classifiers import COUNTS, made

from fastlt.data.shards.reader import Dataset
from fastlt.stage2.classifiers.base import Stage2, Training

README = (Path(__file__).parents[1] / "README.md").read_text()
SMALLER = {
    '"data/places_lt"': "root",
    "batch=256": "batch=32",
    "threads=16": "threads=1",
    '"cuda"': '"cpu"',
    "224": "32",
}
PRINT = "loss.append((float(images.mean()), int(labels.sum()), len(ids)))"


def test_the_loop_of_ones_own(jpeg_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        if "for images, labels, ids in loader" in block
    ]
    for there, here in {**SMALLER, "range(90)": "range(2)", "    ...\n": f"    {PRINT}\n"}.items():
        assert there in code
        code = code.replace(there, here)
    monkeypatch.chdir(tmp_path)
    known: dict = {"root": jpeg_dataset.root, "loss": []}
    exec(code, known)
    assert [images for _, _, images in known["loss"]] == [32, 32, 32, 32]  # 71 images, two full batches each epoch
    state = known["torch"].load("checkpoint.pt", weights_only=False)["loader"]
    assert (state["epoch"], state["position"]) == (1, 64)


def test_the_kernels_on_their_own() -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "nearest_mean" in block]
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [20, 10, 5, 2])
    x = (rng.standard_normal((37, 6)) + 3 * np.eye(4, 6)[labels]).astype(np.float32)
    weight = (np.eye(4, 6) * np.array([4, 3, 2, 1])[:, None]).astype(np.float32)
    known: dict = {f"{split}_x": x for split in ("train", "val", "test")}
    known |= {f"{split}_labels": labels for split in ("train", "val")}
    known |= {"classes": 4, "weight": weight, "groups": np.array([0, 0, 1, 2], np.int8)}
    exec(code, known)
    assert (known["predicted"] == labels).mean() > 0.9
    assert 0.2 < known["tau"] < 3 and known["accuracy"] > 80
    assert known["sure"].shape == (3,) and known["balanced"].shape == (4, 6)


def test_a_classifier_of_ones_own() -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "prior_free" in block]
    assert len(code.splitlines()) < 30
    known: dict = {}
    exec(code, known)
    task = made(COUNTS, Stage2(Training(1, 64, (0.1,), (0.0,)), Training(1, 64, (0.1,), (0.0,))))
    fitted = known["prior_free"](task)
    log_prior = np.log(COUNTS / COUNTS.sum())
    strength = fitted.choices["strength"]
    assert strength > 0  # the joint classifier favours the head
    np.testing.assert_allclose(fitted.tensors["bias"], task.bias.numpy() - strength * log_prior, rtol=1e-5)
    assert fitted.choices["chosen_on"] == "val"
