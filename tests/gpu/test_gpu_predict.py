"""python -m fastlt.predict on a GPU names the classes that a CPU names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from colours import EACH, Colours
from PIL import Image
from run_inside import inside, results

from fastlt.predict.__main__ import main

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def photos(place: Path) -> Path:
    """The test images as files, one of them damaged."""
    source = Colours()
    for number, label in enumerate(source.splits["test"].labels):
        folder = place / "photos" / source.class_names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.array("test", number)).save(folder / f"{number:02}.png")
    (place / "photos" / "zz.jpg").write_bytes(b"no image")
    return place / "photos"


def predicted(run: Path, photos: Path, device: torch.device, classifier: str, batch: int = 64) -> list[dict[str, Any]]:
    """The rows of the command."""
    out = run.parent / f"{run.name}_{device.type}_{classifier}_{batch}.jsonl"
    options = ("--format", "jsonl", "--top", "4", "--threads", "2", "--out", out, "--batch", batch)
    done = inside(
        lambda: main([*map(str, (run, photos, "--classifier", classifier, "--device", device, *options))]), run.parent
    )
    assert done.code == 1, done.stderr  # for the one that is no image
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("classifier", ["joint", "crt", "ncm_l2", "mlp_1", "cosine"])
@pytest.mark.parametrize("trained_on", ["first", "first_cpu"])
def test_a_gpu_names_the_cpus_classes(
    trained_on: str, classifier: str, device: torch.device, photos: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(trained_on)
    here = predicted(run, photos, torch.device("cpu"), classifier)
    there = predicted(run, photos, device, classifier, batch=7)
    assert [row["path"] for row in there] == [row["path"] for row in here]
    assert len(there) == 4 * EACH + 1
    same = []
    for ours, theirs in zip(there, here, strict=True):
        assert ours["error"] == theirs["error"]
        if ours["error"] is None:
            (best, *_), confidences = (
                theirs["predictions"],
                {row["class"]: row["confidence"] for row in ours["predictions"]},
            )
            assert sum(confidences.values()) == pytest.approx(1, abs=1e-3)
            # In bf16 a class may only give way to one that is about as probable.
            same.append(ours["predictions"][0]["class"] == best["class"])
            assert same[-1] or best["confidence"] < 0.75
            assert confidences[best["class"]] == pytest.approx(best["confidence"], abs=0.2)
    assert sum(same) >= len(same) - 2
    right = [row["predictions"][0]["class"] == Path(row["path"]).parent.name for row in there if row["error"] is None]
    accuracy = results(run)["classifiers"][classifier]["all"]
    assert 100 * sum(right) / len(right) == pytest.approx(accuracy, abs=5)
