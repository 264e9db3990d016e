"""Images of the GPU graph beside those of the CPU graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from codings import CODINGS, Codings
from loaders import (
    ALL,
    AUGMENTS,
    EACH,
    KINDS,
    Epoch,
    assert_same,
    class_order,
    cpu_graph,
    gpu_graph,
    joined,
    off,
    pixels,
)
from pictures import conversion
from test_graph_gpu import OnCpu

from fastlt.data.convert import convert
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder

pytestmark = pytest.mark.gpu


def both(dataset: Dataset, device: torch.device, augment: Augment) -> tuple[Epoch, Epoch]:
    """An epoch by the GPU graph and by the CPU graph."""
    with gpu_graph(dataset, device, augment, 16) as there, cpu_graph(dataset, augment, 16) as here:
        return joined(there.epoch(1), dataset), joined(here.epoch(1), dataset)


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_cpu_graphs(kind: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    found, expected = both(request.getfixturevalue(f"{kind}_dataset"), device, AUGMENTS[kind])
    assert_same(found, expected)
    if kind == "raw":  # without a decoder only float16 differs
        assert off(found.images, expected.images).max() <= 0.25
    # What the bound of a single image is worth: a flip left out, or a crop one pixel beside the right one.
    assert off(found.images, expected.images.flip(3)).min() > EACH
    assert off(found.images, expected.images.roll(1, 3)).min() > EACH
    assert off(found.images, expected.images.roll(1, 2)).min() > EACH


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_every_format(dtype: torch.dtype, channels_last: bool, device: torch.device, mixed_dataset: Dataset) -> None:
    augment, layout = AUGMENTS["mixed"], torch.channels_last if channels_last else torch.contiguous_format
    with gpu_graph(mixed_dataset, device, augment, dtype=dtype, channels_last=channels_last) as there:
        batches = list(there.epoch(1))
    for batch in batches:
        assert batch.images.dtype == dtype and batch.images.is_contiguous(memory_format=layout)
        assert batch.images.device.type == batch.labels.device.type == device.type
    with cpu_graph(mixed_dataset, augment) as here:
        assert_same(joined(batches, mixed_dataset), joined(here.epoch(1), mixed_dataset))


@pytest.mark.parametrize("kind", KINDS)
def test_jitter(kind: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    dataset, augment = request.getfixturevalue(f"{kind}_dataset"), replace(AUGMENTS[kind], jitter=0.4)
    found, expected = both(dataset, device, augment)
    np.testing.assert_array_equal(found.ids, expected.ids)
    # Pillow's three steps each cut the fraction off, half a level on average, and clamp: the graph clamps once.
    difference = off(found.images, expected.images)
    assert difference.mean() < 2.5
    assert (difference < off(found.images, expected.images.flip(3))).all()
    with cpu_graph(dataset, AUGMENTS[kind]) as plain:
        assert off(found.images, joined(plain.epoch(1), dataset).images).mean() > 10
    # Operator for operator it is the graph as it runs on a CPU.
    with OnCpu(dataset, "train", class_order(dataset), augment, 16, seed=1, dtype=torch.float16) as same:
        assert_same(found, joined(same.epoch(1), dataset))


@pytest.mark.parametrize(("batch", "sizes"), [(16, [16, 16, 16, 16, 7]), (71, [71]), (1, [1] * 71)])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_any_size(
    kind: str, batch: int, sizes: list[int], device: torch.device, request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(f"{kind}_dataset")
    with gpu_graph(dataset, device, AUGMENTS[kind], batch) as there, cpu_graph(dataset, AUGMENTS[kind]) as here:
        batches = list(there.epoch(1))
        assert [len(part.images) for part in batches] == [len(part.labels) for part in batches] == sizes
        assert_same(joined(batches, dataset), joined(here.epoch(1), dataset))
    with gpu_graph(dataset, device, AUGMENTS[kind], batch, drop_last=True) as there:
        assert [len(part.ids) for part in there.epoch(1)] == [size for size in sizes if size == batch]


def test_evaluation_images_are_the_cpu_graphs(device: torch.device, jpeg_dataset: Dataset) -> None:
    order, augment = InOrder(np.arange(71)), Augment(24, crop_pct=0.875)
    with (
        gpu_graph(jpeg_dataset, device, augment, order=order) as there,
        cpu_graph(jpeg_dataset, augment, order=order) as here,
    ):
        assert_same(joined(there.epoch(), jpeg_dataset), joined(here.epoch(), jpeg_dataset))


@pytest.mark.parametrize("crop", ["resized", "center"])
def test_every_coding_decodes_as_on_the_cpu(crop: str, device: torch.device, tmp_path: Path) -> None:
    dataset = Dataset(convert(Codings(), conversion(), tmp_path / "data", workers=1))
    order, augment = InOrder(np.arange(len(CODINGS))), Augment(64, crop, scale=(0.3, 1.0), flip=True)
    with gpu_graph(dataset, device, augment, order=order) as there, cpu_graph(dataset, augment, order=order) as here:
        found, expected = joined(there.epoch(1), dataset), joined(here.epoch(1), dataset)
    difference = off(found.images, expected.images).tolist()
    worst = {name: round(value, 2) for (name, *_), value in zip(CODINGS, difference, strict=True) if value > EACH}
    assert not worst
    assert np.mean(difference) <= ALL


def test_pixels_are_not_normalized_twice(device: torch.device, raw_dataset: Dataset) -> None:
    """uint8 images are the stored pixels themselves where nothing is resized."""
    order = InOrder(np.arange(71))
    with gpu_graph(raw_dataset, device, Augment(32), order=order, dtype=torch.uint8) as there:
        found = pixels(torch.cat([batch.images for batch in there.epoch()]), raw_dataset)
    stored = np.stack([raw_dataset.pixels("train", sample) for sample in range(71)])
    np.testing.assert_array_equal(found.numpy(), stored.transpose(0, 3, 1, 2))
