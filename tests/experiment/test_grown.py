"""A dataset grew: a representation of the old one is taken for it, and features of old images are used again."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import train
from pictures import Pictures, conversion

from fastlt.data.convert import convert
from fastlt.data.convert.append import Growth
from fastlt.data.convert.remove import remove
from fastlt.data.shards.encode import MAX_PIXELS
from fastlt.data.shards.history import ids_since
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.grown import with_new_classes
from fastlt.stage2.classifiers.base import Features
from fastlt.stage2.features import FeatureStore
from fastlt.stage2.features.earlier import Earlier
from fastlt.stage2.features.extract import Rows

SEEN = ("data=data", "image_size=32", "precision=fp32", "protocol.batch=8", "threads=1", "classifiers=[joint,ncm_l2]")


def grow(out: Path, source: Pictures) -> None:
    with contextlib.redirect_stderr(io.StringIO()), Growth(out, MAX_PIXELS, 0, 1) as growth:
        new = growth.new(source)
        assert new is not None
        growth.add(new)


def rows(run: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and sample ids of a split, whatever their key."""
    import h5py

    with h5py.File(run / "features.h5") as file:
        return file[split]["features"][:], file[split]["ids"][:]  # pyright: ignore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data of two classes and run r0 on it; then data has grown by images of the two and by a third class."""
    folder = tmp_path_factory.mktemp("grown")
    convert(Pictures(counts=(12, 6)), conversion(), folder / "data", workers=1)
    shutil.copytree(folder / "data", folder / "before")
    done = train(*SEEN, "run=r0", "backbone=resnet32", "epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    grow(folder / "data", Pictures(counts=(12, 6, 9)))
    return folder


def test_features_of_old_images_are_not_extracted_again(folder: Path) -> None:
    done = train(*SEEN, "run=r1", "representation=r0", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "r0 was trained on 2 classes: its classifier gets rows for those added since" in done.stderr
    assert (
        "features: those of 30 images are taken from r0/features.h5, as the dataset grew since; those of 15 images are "
        "extracted" in done.stderr
    )
    (folder / "alone").mkdir()
    shutil.copy(folder / "r0" / "checkpoint.pt", folder / "alone")
    done = train(*SEEN, "run=r2", "representation=alone", cwd=folder)
    assert done.returncode == 0 and "are taken from" not in done.stderr, done.stderr
    dataset = Dataset(folder / "data")
    first = dataset.about["history"][0]["from"]
    for split in ("train", "val", "test"):
        old, old_ids = rows(folder / "r0", split)
        now, ids = rows(folder / "r1", split)
        anew, same_ids = rows(folder / "r2", split)
        assert np.array_equal(ids, same_ids) and np.array_equal(ids, dataset.split(split).class_members)
        np.testing.assert_allclose(now, anew, rtol=1e-4, atol=1e-5)
        place = {one: row for row, one in enumerate(ids.tolist())}
        since = ids_since(dataset.about, first, split)[old_ids]
        assert np.array_equal(now[[place[one] for one in since.tolist()]], old)  # to the bit


def test_the_rows_of_old_classes_stay(folder: Path) -> None:
    train(*SEEN, "run=r1", "representation=r0", cwd=folder)
    joint = torch.load(folder / "r1" / "classifiers" / "joint.pt", weights_only=True)["tensors"]["weight"]
    was = torch.load(folder / "r0" / "checkpoint.pt", weights_only=True)["model"]["classifier.weight"]
    assert joint.shape[0] == 3 and torch.equal(joint[:2], was)


def test_pretrained_begins_with_the_rows_of_the_old_classifier(folder: Path) -> None:
    own = ("backbone=resnet32", "epochs=1", "protocol.pretrained=r0", "protocol.lr=1e-12", "protocol.weight_decay=0")
    done = train(*SEEN, *own, "run=r3", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "its classifier begins with the rows of 2 classes; the rows of 1 new class are as they are drawn" in (
        done.stderr
    )
    was = torch.load(folder / "r0" / "checkpoint.pt", weights_only=True)["model"]["classifier.weight"]
    now = torch.load(folder / "r3" / "checkpoint.pt", weights_only=True)["model"]["classifier.weight"]
    torch.testing.assert_close(now[:2], was)


def test_the_same_command_after_a_removal_extracts_nothing(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert train(*SEEN, "run=r1", "representation=r0", cwd=copy).returncode == 0
    with contextlib.redirect_stderr(io.StringIO()):
        remove(["train/größe 20.jpg", "train/größe 3.jpg"], copy / "data")
    done = train(*SEEN, "run=r1", "representation=r0", cwd=copy)
    assert done.returncode == 0, done.stderr
    assert "those of 43 images are taken from r1/features.h5" in done.stderr
    assert "those of 0 images are extracted" in done.stderr
    x, ids = rows(copy / "r1", "train")
    assert len(x) == 25 and sorted(ids.tolist()) == list(range(25))


def test_other_classes_and_other_views_are_not_taken(folder: Path) -> None:
    done = train(*SEEN, "run=r5", "representation=r0", "image_size=40", cwd=folder)
    assert done.returncode == 0 and "are taken from" not in done.stderr, done.stderr
    convert(Pictures(counts=(12, 6, 9)), conversion(), folder / "unrelated", workers=1)
    done = train(*SEEN, "data=unrelated", "run=r4", "representation=r0", cwd=folder)
    assert done.returncode == 2 and "has 2 classes, unrelated 3: choose another of the two" in done.stderr


def test_rows_of_new_classes_point_at_their_means() -> None:
    torch.manual_seed(0)
    joint = torch.nn.Linear(4, 2)
    x = torch.randn(20, 4)
    labels = torch.arange(20) % 4
    grown = with_new_classes(joint, Features(x, labels), 4)
    weight, bias = grown.weight, grown.bias
    assert torch.equal(weight[:2], joint.weight) and torch.equal(bias[:2], joint.bias)  # type: ignore
    length = joint.weight.norm(dim=1).mean()
    for label in (2, 3):
        mean = x[labels == label].mean(0)
        torch.testing.assert_close(weight[label], mean / mean.norm() * length)  # type: ignore
    torch.testing.assert_close(bias[2:], joint.bias.mean().expand(2))  # type: ignore


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("done", [0, 1, 4, 9, 12])
def test_extracted_and_stored_rows_are_merged_in_order(batch: int, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlt.stage2.features.earlier.AT_ONCE", 3)
    ids = np.array([7, 3, 9, 1, 0, 5, 2, 8, 4, 6, 11, 10])
    known = np.array([2, -1, 0, 1, -1, -1, 3, 4, 5, 6, -1, 7])
    stored = np.full((8, 1), -1.0, np.float32)
    stored[known[known >= 0], 0] = ids[known >= 0]
    earlier = Earlier(ids, ids % 3, stored, known)
    missing = earlier.missing[earlier.missing_before(done) :]
    parts = np.split(missing, range(batch, len(missing), batch)) if len(missing) else []
    extracted = [Rows(part[:, None].astype(np.float32), part % 3, part) for part in parts]
    merged = list(earlier.merged(extracted, done))
    assert np.concatenate([np.empty(0), *(row.features[:, 0] for row in merged)]).tolist() == ids[done:].tolist()
    assert np.concatenate([np.empty(0), *(row.ids for row in merged)]).tolist() == ids[done:].tolist()
    assert all(len(row.ids) <= 3 for row in merged)


def test_a_store_tells_its_rows_of_any_key_it_has(tmp_path: Path) -> None:
    assert FeatureStore(tmp_path / "none.h5", "abc").stored("train") is None
