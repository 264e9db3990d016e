"""Class-aware storage: the right images are raw, and they serve what is said."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from commands import convert
from pictures import Pictures, conversion

from fastlt.data.convert import convert as convert_source
from fastlt.data.convert.storage import draws_served, raw_choice
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset

LABELS = np.repeat([2, 0, 1, 3], [50, 20, 20, 10])


def test_rarest_classes_come_first_and_the_last_one_in_part() -> None:
    assert not raw_choice(LABELS, 0).any()
    assert raw_choice(LABELS, 1).all()
    chosen = raw_choice(LABELS, 0.35)
    np.testing.assert_array_equal(np.bincount(LABELS[chosen], minlength=4), [20, 5, 0, 10])
    assert np.flatnonzero(chosen & (LABELS == 1)).tolist() == [70, 71, 72, 73, 74]


def test_draws_served_by_hand() -> None:
    raw = raw_choice(LABELS, 0.35)
    assert draws_served(LABELS, raw, "class") == pytest.approx((1 + 5 / 20 + 0 + 1) / 4)
    assert draws_served(LABELS, raw, "instance") == pytest.approx(0.35)


def test_real_places_lt(shared: Path) -> None:
    with gzip.open(shared / "data" / "lists" / "Places_LT_train.txt.gz", "rt") as lines:
        labels = np.array([int(line.split()[-1]) for line in lines])
    raw = raw_choice(labels, 0.2)
    assert draws_served(labels, raw, "class") == pytest.approx(0.71, abs=0.01)
    assert draws_served(labels, raw, "sqrt") == pytest.approx(0.44, abs=0.01)
    assert draws_served(labels, raw_choice(labels, 0.1), "class") == pytest.approx(0.54, abs=0.01)


def test_only_training_images_are_raw(tmp_path: Path) -> None:
    dataset = Dataset(convert_source(Pictures(), conversion(raw_fraction=0.2), tmp_path / "data", workers=1))
    train = dataset.split("train")
    assert np.bincount(train.label, train.encoding == RAW).tolist() == [0, 3, 8, 3]
    for split in ("val", "test"):
        assert not (dataset.split(split).encoding == RAW).any()


def test_the_command_says_what_it_gives_and_costs(tmp_path: Path) -> None:
    keys = ("dataset=shapes", "classes=3", "imbalance=10", "encode=auto", "raw_fraction=0.3")
    done = convert(*keys, "out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "raw:" in line]
    train = Dataset(tmp_path / "out").split("train")
    raw = train.encoding == RAW
    assert f"raw: {raw.sum():,} training images (30 %), {train.length[raw].sum() / 1e6:,.1f} MB" in line
    assert f"{100 * draws_served(train.label, raw, 'class'):.0f} % of class-balanced draws" in line
