"""What the README shows runs."""

import re
from pathlib import Path

import pytest

from fastlt.shards.reader import Dataset

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
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "loader.epoch" in block]
    for there, here in {**SMALLER, "range(90)": "range(2)", "    ...\n": f"    {PRINT}\n"}.items():
        assert there in code
        code = code.replace(there, here)
    monkeypatch.chdir(tmp_path)
    known: dict = {"root": jpeg_dataset.root, "loss": []}
    exec(code, known)
    assert [images for _, _, images in known["loss"]] == [32, 32, 32, 32]  # 71 images, two full batches each epoch
    assert known["torch"].load("checkpoint.pt", weights_only=False)["loader"] == known["loader"].state()
