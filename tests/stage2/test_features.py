"""The feature store: rows against a slow loop, float16, augmented passes, going on after kills, and what is refused."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from test_configs import options
from torch import nn

from fastlt.core.batches import Batch
from fastlt.core.errors import UserError
from fastlt.core.ranks import ALONE
from fastlt.data.pipeline.loader import Loader
from fastlt.data.shards.reader import Dataset
from fastlt.experiment.loaders import Loaders
from fastlt.longtail.sampler import InOrder
from fastlt.models.backbones import Model, build_model
from fastlt.stage2.features import FeatureStore
from fastlt.stage2.features import part as part_module
from fastlt.stage2.features.layout import note_complete

LENGTH = 7  # D


class Network(nn.Module):
    """tanh of a linear map of the mean colour."""

    def __init__(self, length: int = LENGTH):
        super().__init__()
        self.linear = nn.Linear(3, length)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(images.mean((2, 3))))


class Scaled(nn.Module):
    """The first `length` colours of the first pixel, as they are."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, 0, 0]


class One(Network):
    def __init__(self) -> None:
        super().__init__(1)


def model(network: str = "Network") -> Model:
    return build_model(f"test_features:{network}", 4, seed=3, image_size=4)


def slow(network: Model, images: torch.Tensor) -> np.ndarray:
    """What Network gives, one image after the other, in float64."""
    linear: Any = network.backbone.linear
    weight, bias = (x.detach().double().numpy() for x in (linear.weight, linear.bias))
    return np.stack([np.tanh(weight @ image.mean((1, 2)) + bias) for image in images.double().numpy()])


class Cut(Exception):
    """Stands for whatever ends a process."""


@dataclass
class Images:
    """Looks like a Loader: images of labels that never fall; other images in every epoch."""

    count: int
    batch: int = 4
    seed: int = 0
    cut: int = 10**9  # batches until Cut
    pause: float = 0.0  # seconds a batch takes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    asked: list[tuple[int, int]] = field(default_factory=list)  # (epoch, position)

    @property
    def images(self) -> int:
        return self.count

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    @property
    def labels(self) -> np.ndarray:
        return np.arange(self.count) * 4 // max(1, self.count)

    def pixels(self, epoch: int) -> torch.Tensor:
        drawn = np.random.default_rng([self.seed, epoch]).standard_normal((self.count, 3, 4, 4))
        return torch.from_numpy(drawn.astype(np.float32))

    def epoch(self, epoch: int = 0, position: int = 0) -> Iterator[Batch]:
        self.asked.append((epoch, position))
        images, labels = self.pixels(epoch), torch.from_numpy(self.labels)
        for begin in range(position, self.count, self.batch):
            if not self.cut:
                raise Cut
            self.cut -= 1
            time.sleep(self.pause)
            part = slice(begin, begin + self.batch)
            ids = 1000 + np.arange(self.count)[part]
            yield Batch(images[part].to(self.device), labels[part].to(self.device), ids)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """All that lies in a file, by name."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
        found |= {f"{name or 'file'}@{key}": value for name in ("/", *file) for key, value in file[name].attrs.items()}
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.asarray(a[x]).tobytes() == np.asarray(b[x]).tobytes() for x in a)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(store: FeatureStore, loaders: dict[str, Images], network: Model) -> str:
    with pytest.raises(UserError) as error:
        store.write(loaders, network)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- rows ---


def test_rows_are_those_of_a_slow_loop_and_open_with_plain_h5py(tmp_path: Path) -> None:
    network, loaders = model(), {"train": Images(37), "test": Images(9, seed=1)}
    store = FeatureStore(tmp_path / "new" / "features.h5", "abc")
    assert not store.has("train")
    store.write(loaders, network)
    assert store.has("train") and store.has("test") and not store.has("val")
    for split, loader in loaders.items():
        x, labels = store.read(split)
        assert x.dtype == np.float32 and labels.dtype == np.int64
        np.testing.assert_allclose(x, slow(network, loader.pixels(0)), atol=1e-6)
        np.testing.assert_array_equal(labels, loader.labels)
        assert (np.diff(labels) >= 0).all()
    with h5py.File(store.path) as file:
        assert dict(file.attrs) == {"schema": 3, "key": "abc", "dtype": "float32"}
        group: Any = file["train"]
        assert group.attrs["augmented_passes"] == 0 and list(group) == ["features", "ids", "labels"]
        assert group["features"].chunks is None and group["features"].shape == (37, LENGTH)
        np.testing.assert_array_equal(group["ids"][:], 1000 + np.arange(37))
    assert left(store.path.parent) == ["features.h5"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_row_one_feature_or_nothing_at_all(tmp_path: Path, count: int) -> None:
    network = model("One")
    store = FeatureStore(tmp_path / "features.h5", "abc", passes=1)
    loaders = {"train": Images(count), "val": Images(0)}
    store.write(loaders, network, augmented=loaders["train"])
    assert store.read("val")[0].shape == (0, 1) and store.read("train")[0].shape == (count, 1)
    x, labels = store.read("train", augmented=True)
    both = torch.cat([loaders["train"].pixels(0), loaders["train"].pixels(1)])
    np.testing.assert_allclose(x, slow(network, both) if count else np.empty((0, 1)), atol=1e-6)
    np.testing.assert_array_equal(labels, np.tile(loaders["train"].labels, 2))


def test_bf16_is_of_the_model_not_of_what_is_stored(tmp_path: Path) -> None:
    network, loader = model(), Images(20)
    plain, bf16 = FeatureStore(tmp_path / "a.h5", "abc"), FeatureStore(tmp_path / "b.h5", "abc")
    plain.write({"test": loader}, network)
    bf16.write({"test": loader}, network, "bf16")
    a, b = plain.read("test")[0], bf16.read("test")[0]
    assert b.dtype == np.float32 and (a != b).any()
    np.testing.assert_allclose(a, b, atol=0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    network, loader = model(), Images(203)
    there = Images(203, device=torch.device("cuda"))
    cpu, gpu = (FeatureStore(tmp_path / name, "abc", passes=2) for name in ("cpu.h5", "gpu.h5"))
    cpu.write({"train": loader}, network, augmented=loader)
    gpu.write({"train": there}, network.to("cuda"), augmented=there)
    a, b = arrays(cpu.path), arrays(gpu.path)
    np.testing.assert_allclose(a["train/features"], b["train/features"], atol=1e-3)
    np.testing.assert_array_equal(a["train/labels"], b["train/labels"])
    np.testing.assert_array_equal(a["train/ids"], b["train/ids"])


# --- float16 ---


@dataclass
class Values(Images):
    """Images whose first pixels are these values."""

    values: tuple[float, ...] = ()

    def pixels(self, epoch: int) -> torch.Tensor:
        filled = torch.zeros(self.count, 3, 4, 4)
        filled.view(-1)[:: 4 * 4] = torch.tensor(self.values)
        return filled


def test_float16_halves_the_features_within_the_stated_error(tmp_path: Path) -> None:
    powers = 2.0 ** np.arange(-30, 16)
    values = np.concatenate([powers, -powers * 1.2345, powers * 1.000976, [0, -0.0, 65504, -65504, 1 / 3, 6e-5]])
    loader = Values(len(values) // 3, values=tuple(values))
    network = model("Scaled")
    full, half = (FeatureStore(tmp_path / name, "abc", name) for name in ("float32", "float16"))
    for store in (full, half):
        store.write({"test": loader}, network)
    (a, labels), (b, labels_half) = full.read("test"), half.read("test")
    assert b.dtype == np.float16 and 2 * b.nbytes == a.nbytes
    np.testing.assert_array_equal(labels, labels_half)
    exact = values.reshape(-1, 3).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(a, exact)
    off = np.abs(b.astype(np.float64) - exact)
    assert (off <= np.where(np.abs(exact) < 6.1e-5, 6e-8, 2.0**-11 * np.abs(exact))).all()
    assert off.max() > 0 and np.isfinite(b).all()


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features.h5", "abc", "float16")
    loader = Values(5, 2, values=(1.0,) * 10 + (-65505.0,) + (2.0,) * 4)
    assert refused(store, {"val": Images(3), "test": loader}, model("Scaled")) == (
        "the model gives -65505 for image 1003 of the test split, float16 holds at most 65504: use "
        "feature_dtype=float32"
    )
    assert left(tmp_path) == []
    FeatureStore(store.path, "abc").write({"test": loader}, model("Scaled"))


def test_features_of_another_dtype_do_not_count(tmp_path: Path) -> None:
    network, loader, path = model(), Images(9), tmp_path / "features.h5"
    for stored, asked in (("float32", "float16"), ("float16", "float32")):
        FeatureStore(path, "abc", stored).write({"test": loader}, network)
        other = FeatureStore(path, "abc", asked)
        assert not other.has("test")
        with pytest.raises(
            UserError, match=rf"holds no test features of this representation in {asked}, augmented_passes=0: "
        ):
            other.read("test")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^feature_dtype=float64 is unknown: allowed are float32, float16$"):
        FeatureStore(tmp_path / "features.h5", "abc", "float64")
    with pytest.raises(UserError, match=r"^augmented_passes=-1: it must be 0 or more$"):
        FeatureStore(tmp_path / "features.h5", "abc", passes=-1)


# --- augmented passes of a real dataset ---


def loaders_of(dataset: Dataset, seed: int = 1) -> Loaders:
    given = ("image_size=24", f"seed={seed}", "protocol.batch=16", "protocol.scale=[0.3,1.0]")
    config = options("protocol=imagenet_lt_90", *given, "protocol.crop_pct=1.0")
    return Loaders(dataset, config, torch.device("cpu"), 1, ALONE)


def stored_passes(path: Path, dataset: Dataset, ids: np.ndarray, seed: int = 1) -> FeatureStore:
    loaders, store = loaders_of(dataset, seed), FeatureStore(path, "abc", passes=2)
    with (
        loaders.evaluation("train", ids) as train,
        loaders.evaluation("val", np.arange(12)) as val,
        loaders.augmented(ids) as augmented,
    ):
        store.write({"train": train, "val": val}, model(), augmented=augmented)
    return store


def test_augmented_passes_are_passes_of_the_training_augmentation(mixed_dataset: Dataset, tmp_path: Path) -> None:
    index = mixed_dataset.split("train")
    ids = index.class_members[1::2]  # as when some are held out
    n = len(ids)
    store = stored_passes(tmp_path / "a.h5", mixed_dataset, ids)
    x, labels = store.read("train", augmented=True)
    assert x.shape == (3 * n, LENGTH) and arrays(store.path)["train@augmented_passes"] == 2
    for number in range(3):
        part = slice(number * n, (number + 1) * n)
        augment = loaders_of(mixed_dataset).augment if number else loaders_of(mixed_dataset)._evaluation
        with Loader(mixed_dataset, "train", InOrder(ids), augment, 1, seed=1, threads=1) as one_by_one:
            images = torch.cat([batch.images for batch in one_by_one.epoch(number)])
        np.testing.assert_allclose(x[part], slow(model(), images), atol=1e-5)
        np.testing.assert_array_equal(labels[part], index.label[ids])
        np.testing.assert_array_equal(arrays(store.path)["train/ids"][part], ids)
        assert (np.diff(labels[part]) >= 0).all()
    assert all((np.abs(x[a : a + n] - x[b : b + n]).max(1) > 1e-4).all() for a, b in ((0, n), (0, 2 * n), (n, 2 * n)))

    seen, seen_labels = store.read("train")
    np.testing.assert_array_equal(seen, x[:n])
    np.testing.assert_array_equal(seen_labels, labels[:n])
    np.testing.assert_array_equal(store.read("val", augmented=True)[0], store.read("val")[0])
    assert len(store.read("val")[0]) == 12

    assert same(arrays(store.path), arrays(stored_passes(tmp_path / "b.h5", mixed_dataset, ids).path))
    other = stored_passes(tmp_path / "c.h5", mixed_dataset, ids, seed=2).read("train", augmented=True)[0]
    np.testing.assert_array_equal(other[:n], x[:n])
    assert (np.abs(other[n:] - x[n:]).max(1) > 1e-4).mean() > 0.9


def test_another_number_of_passes_makes_train_anew_and_nothing_else(tmp_path: Path) -> None:
    network, path = model(), tmp_path / "features.h5"
    FeatureStore(path, "abc", passes=2).write({"train": Images(9), "val": Images(5)}, network, augmented=Images(9))
    for passes in (0, 1, 3):
        store, train, val = FeatureStore(path, "abc", passes=passes), Images(9), Images(5)
        assert not store.has("train") and store.has("val")
        store.write({"train": train, "val": val}, network, augmented=train)
        assert store.has("train") and store.has("val")
        assert train.asked == [(number, 0) for number in range(passes + 1)] and val.asked == []
        assert len(store.read("train", augmented=True)[0]) == 9 * (passes + 1)


def test_rows_are_complete_where_images_are_damaged(jpeg_dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(jpeg_dataset.root, tmp_path / "data")
    index = jpeg_dataset.split("train")
    ids = index.class_members
    with (tmp_path / "data" / "train-000000.tar").open("r+b") as shard:
        for sample in ids[[0, 45]].tolist():
            shard.seek(int(index.offset[sample]))
            shard.write(bytes(400))
    store = stored_passes(tmp_path / "features.h5", Dataset(tmp_path / "data"), ids)
    found = arrays(store.path)
    expected = ids.copy()
    expected[[0, 45]] = ids[[1, 46]]
    np.testing.assert_array_equal(found["train/ids"], np.tile(expected, 3))
    np.testing.assert_array_equal(found["train/labels"], np.tile(index.label[ids], 3))
    whole = stored_passes(tmp_path / "whole.h5", jpeg_dataset, ids).read("train", augmented=True)[0]
    untouched = np.tile(expected == ids, 3)
    np.testing.assert_array_equal(found["train/features"][untouched], whole[untouched])


# --- what is there already ---


def test_finished_splits_stay_and_what_belongs_to_another_representation_goes(tmp_path: Path) -> None:
    network, path = model(), tmp_path / "features.h5"
    store = FeatureStore(path, "abc")
    store.write({"val": Images(8)}, network)
    first = arrays(path)
    again, test = Images(8), Images(6)
    store.write({"val": again, "test": test}, network)
    assert again.asked == [] and test.asked == [(0, 0)]
    assert {name: value.tobytes() for name, value in arrays(path).items() if name in first and "val/" in name} == {
        name: value.tobytes() for name, value in first.items() if "val/" in name
    }
    store.write({"val": again, "test": test}, network)
    assert again.asked == [] and test.asked == [(0, 0)]

    other = FeatureStore(path, "xyz")
    assert not other.has("val") and not other.has("test")
    with pytest.raises(UserError, match=r"features\.h5 holds no val features of this representation"):
        other.read("val")
    other.write({"val": again}, network)
    assert again.asked == [(0, 0)]
    assert other.has("val") and not other.has("test") and not store.has("val")
    with pytest.raises(UserError, match=r"holds no test features"):
        other.read("test")


def test_damaged_files_are_made_anew(tmp_path: Path) -> None:
    network, path = model(), tmp_path / "features.h5"
    store = FeatureStore(path, "abc")
    store.write({"val": Images(800)}, network)
    whole, expected = path.read_bytes(), arrays(path)
    damages = (whole[: len(whole) // 2], b"", b"no HDF5 file" * 100, bytes(100) + whole[100:], whole[:-1])
    for place in (path, path.with_name("features.h5.part")):
        for damage in damages:
            path.unlink(missing_ok=True)
            place.write_bytes(damage)
            assert not store.has("val")
            store.write({"val": Images(800)}, network)
            assert same(arrays(path), expected) and left(tmp_path) == ["features.h5"]


def swap_rows(path: Path, column: str, one: int, other: int) -> None:
    """Two rows of a file change places."""
    with h5py.File(path, "r") as file:
        rows: Any = file[column]
        mapped = np.memmap(path, rows.dtype, "r+", rows.id.get_offset(), rows.shape)
    mapped[[one, other]] = mapped[[other, one]]
    mapped.flush()


@pytest.mark.parametrize("column", ["features", "labels", "ids"])
def test_a_damaged_column_is_told_and_its_split_extracted_anew(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, path = model(), tmp_path / "features.h5"
    FeatureStore(path, "abc").write({"val": Images(50), "test": Images(9)}, network)
    expected = arrays(path)
    swap_rows(path, f"val/{column}", 3, 45)
    assert not same(arrays(path), expected)
    store, val, test = FeatureStore(path, "abc"), Images(50), Images(9)
    assert store.has("test") and not store.has("val")
    assert capsys.readouterr().err == (
        f"{path} is damaged ({column} of val do not match their checksum): they are extracted anew\n"
    )
    store.write({"val": val, "test": test}, network)
    assert val.asked == [(0, 0)] and test.asked == []
    assert same(arrays(path), expected)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [("features", np.nan, "finite"), ("features", np.inf, "finite"), ("labels", -1, "0 or more")],
)
def test_impossible_values_under_a_right_checksum_are_extracted_anew(
    column: str, value: float, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a file was written by somebody else."""
    network, path = model(), tmp_path / "features.h5"
    FeatureStore(path, "abc").write({"val": Images(50)}, network)
    expected = arrays(path)
    with h5py.File(path, "r") as file:
        rows: Any = file[f"val/{column}"]
        mapped = np.memmap(path, rows.dtype, "r+", rows.id.get_offset(), rows.shape)
    mapped[7] = value
    mapped.flush()
    note_complete(path)
    FeatureStore(path, "abc").write({"val": Images(50)}, network)
    assert capsys.readouterr().err == (
        f"{path} is damaged ({column} of val are not all {told}): they are extracted anew\n"
    )
    assert same(arrays(path), expected)


def test_what_lies_in_the_place_of_features_is_neither_followed_nor_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, path, store = model(), tmp_path / "features.h5", FeatureStore(tmp_path / "features.h5", "abc")
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["features"] = np.zeros((3, LENGTH), np.float32)
    with h5py.File(path, "w") as file:
        file.attrs.update(schema=3, key="abc", dtype="float32")
        file["val/features"] = h5py.ExternalLink(str(secret), "features")
    os.mkfifo(tmp_path / "features.h5.part")
    store.write({"val": Images(3)}, network)
    assert [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"{path} cannot be used (it does not end as it was written)",
        f"{path}.part cannot be used (it is no file)",
    ]
    np.testing.assert_allclose(store.read("val")[0], slow(network, Images(3).pixels(0)), atol=1e-6)


def test_rows_of_a_cut_off_file_are_compared_before_they_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(part_module, "SAVE_EVERY", 0.0)
    network, path = model(), tmp_path / "features.h5"
    with pytest.raises(Cut):
        FeatureStore(path, "abc").write({"val": Images(40, cut=5)}, network)
    part = path.with_name("features.h5.part")
    swap_rows(part, "val/features", 3, 9)
    val = Images(40)
    FeatureStore(path, "abc").write({"val": val}, network)
    assert val.asked == [(0, 0)]
    assert capsys.readouterr().err == (
        f"{part} is damaged (features of val do not match their checksum): they are extracted anew\n"
    )
    np.testing.assert_allclose(FeatureStore(path, "abc").read("val")[0], slow(network, val.pixels(0)), atol=1e-6)


@pytest.mark.parametrize(("value", "name"), [(float("nan"), "NaN"), (float("inf"), "inf"), (-float("inf"), "inf")])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_feature_that_is_not_finite_is_refused(tmp_path: Path, dtype: str, value: float, name: str) -> None:
    values = [1.0] * 18
    values[10] = value
    store = FeatureStore(tmp_path / "features.h5", "abc", dtype)
    loaders = {"val": Images(3), "test": Values(6, 2, values=tuple(values))}
    line = refused(store, loaders, model("Scaled"))
    assert line.startswith(f"the model gives {name} for image 1003 of the test split, features must be finite: ")
    assert left(tmp_path) == [] and not store.has("val")


def test_a_full_disk_is_said_and_costs_nothing_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    network, loader = model(), Images(9)
    store = FeatureStore(tmp_path / "features.h5", "abc")
    for call, remains in (("posix_fallocate", []), ("fdatasync", ["features.h5.part"])):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            line = refused(store, {"test": loader}, network)
        assert "features.h5.part cannot be written (No space left on device): make room and give " in line
        assert left(tmp_path) == remains and not store.has("test")
    store.write({"test": loader}, network)
    np.testing.assert_allclose(store.read("test")[0], slow(network, loader.pixels(0)), atol=1e-6)


# --- going on ---


def test_what_was_cut_off_goes_on_behind_the_last_saved_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "SAVE_EVERY", 0.0)
    network = model()

    def write(path: Path, cut: int = 10**9) -> tuple[FeatureStore, Images, Images]:
        store, val = FeatureStore(path, "abc", passes=2), Images(6, seed=1, cut=cut)
        train = Images(10, cut=cut - 2)
        if cut < 10**9:
            with pytest.raises(Cut):
                store.write({"val": val, "train": train}, network, augmented=train)
        else:
            store.write({"val": val, "train": train}, network, augmented=train)
        return store, val, train

    whole = arrays(write(tmp_path / "whole.h5")[0].path)
    # Batches: two of val; then three in each of three passes of train, of 4, 4 and 2 images.
    for cut, asked in {
        1: [(0, 0), (1, 0), (2, 0)],
        4: [(0, 8), (1, 0), (2, 0)],
        6: [(1, 4), (2, 0)],
        10: [(2, 8)],
    }.items():
        path = tmp_path / f"{cut}.h5"
        store, *_ = write(path, cut)
        assert not path.exists() and not store.has("val") and not store.has("train")
        shutil.copy(path.with_name(f"{cut}.h5.part"), path)
        assert not store.has("train") and store.has("val") == (cut > 1)  # nor a half file under the whole one's name
        path.unlink()
        _, val, train = write(path)
        assert val.asked == ([(0, 4)] if cut == 1 else []) and train.asked == asked
        assert same(arrays(path), whole)


def test_the_rest_of_something_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_module, "SAVE_EVERY", 0.0)
    network, path = model(), tmp_path / "features.h5"
    others: list[tuple[FeatureStore, dict[str, int], Model]] = [
        (FeatureStore(path, "xyz", passes=1), {"train": 12}, network),
        (FeatureStore(path, "abc", "float16", passes=1), {"train": 12}, network),
        (FeatureStore(path, "abc", passes=2), {"train": 12}, network),
        (FeatureStore(path, "abc", passes=1), {"train": 13}, network),
        (FeatureStore(path, "abc", passes=1), {"train": 12}, model("One")),
        (FeatureStore(path, "abc", passes=1), {"train": 12, "val": 9}, network),  # train alone would not end this one
        (FeatureStore(path, "abc", passes=1), {"test": 9}, network),
    ]
    for store, counts, cut_off in others:
        loaders = {split: Images(count, cut=2) for split, count in counts.items()}
        with pytest.raises(Cut):
            store.write(loaders, cut_off, augmented=next(iter(loaders.values())))
        assert left(tmp_path) == ["features.h5.part"]
        asked = Images(12)
        mine = FeatureStore(path, "abc", passes=1)
        mine.write({"train": asked}, network, augmented=asked)
        assert asked.asked == [(0, 0), (1, 0)] and mine.has("train") and left(tmp_path) == ["features.h5"]
        path.unlink()


# Imports everything once, then extracts in a child for every path it is given.
EXTRACTIONS = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(os.pathsep)
from test_features import FeatureStore, Images, model, part_module
part_module.SAVE_EVERY = 0.0
network = model()
for line in sys.stdin:
    child = os.fork()
    if not child:
        train, val = Images(120, pause=0.001), Images(60, seed=1, pause=0.001)
        store = FeatureStore(Path(line.strip()), "abc", "float16", passes=2)
        store.write({"val": val, "train": train}, network, augmented=train)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", EXTRACTIONS, os.pathsep.join(sys.path)]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    out, into = process.stdout, process.stdin
    assert out is not None and into is not None

    def start(path: Path) -> int:
        into.write(f"{path}\n")
        into.flush()
        return int(out.readline())

    try:
        start(tmp_path / "warm.h5")
        assert int(out.readline()) == 0
        begun = time.monotonic()
        start(tmp_path / "whole.h5")
        assert int(out.readline()) == 0
        length = time.monotonic() - begun
        whole, chance = arrays(tmp_path / "whole.h5"), random.Random(1)
        kills = rounds = 0
        log = tmp_path / "log.txt"
        while kills < 8 or "going on after the" not in log.read_text():  # all may have come before the first rows
            rounds += 1
            assert rounds < 30, "no extraction goes on after what is there"
            path = tmp_path / f"cut{rounds}.h5"
            while not path.exists():
                child = start(path)
                time.sleep(chance.random() * length)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                code = int(out.readline())
                assert code in (0, -signal.SIGKILL)
                kills += code != 0
            assert same(arrays(path), whole)
    finally:
        process.kill()
        process.communicate()
    assert not [name for name in left(tmp_path) if name.endswith((".part", ".tmp"))]
