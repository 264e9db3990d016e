"""python -m fastlt.bench train: its cases, rows, and what it says about wrong input."""

import json
from pathlib import Path

import pytest
from commands import refusal, run
from pictures import jpeg, picture

from fastlt.bench.__main__ import main
from fastlt.experiment.precision import computes_in_bf16


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(9):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(picture(i, 60, 80)))
    return tmp_path


def bench(photos: Path, *keys: str) -> list[str]:
    options = "images=.", "batch=4", "copies=1", "rounds=1", "backbone=resnet32", "image_size=32", "threads=1"
    return ["-m", "fastlt.bench", "train", *options, *keys]


def test_rows(photos: Path) -> None:
    done = run(*bench(photos), cwd=photos)
    assert done.returncode == 0, done.stderr
    rows = {row["case"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    sources, ratios = ["real", "synthetic", "torch"], ["real / synthetic", "real / torch"]
    if computes_in_bf16():
        sources, ratios = [*sources, "real_bf16"], [*ratios, "real_bf16 / real"]
    assert list(rows) == [*sources, *ratios, "data_stall"]
    assert all(rows[name]["median"] > 0 and rows[name]["unit"] == "images/s" for name in sources)
    assert rows["data_stall"]["median"] == pytest.approx(1 - rows["real / synthetic"]["median"])


def test_cases(photos: Path) -> None:
    done = run(*bench(photos, "cases=[synthetic,real]"), cwd=photos)
    assert done.returncode == 0, done.stderr
    rows = [row["case"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]]
    assert rows == ["real", "synthetic", "real / synthetic", "data_stall"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("batch=10", "batch=10 is larger than the 9 images"),
        ("rounds=0", "rounds=0: it must be at least 1"),
        ("backbone=vgg", "backbone=vgg is unknown: allowed are resnet10"),
        ("compile=fast", "compile=fast is unknown"),
        ("cases=[real,ffcv]", "cases: ffcv is unknown, allowed are real, synthetic, torch"),
    ],
)
def test_wrong_input(photos: Path, key: str, message: str) -> None:
    assert message in refusal(main, *bench(photos, key)[2:], cwd=photos)
