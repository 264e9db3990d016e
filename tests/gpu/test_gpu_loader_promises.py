"""What the loader promises on a GPU: the same samples in any way they are asked for, and batches that may be kept."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loaders import ALL, AUGMENTS, EACH, KINDS, Epoch, assert_same, class_order, gpu_graph, joined, pixels

from fastlt.core.errors import UserError
from fastlt.data.pipeline.damage import CHECKED
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder

pytestmark = pytest.mark.gpu

DAMAGED = (2, 3, 45, 70)  # of the first class, the second and the last, which is stored raw in `mixed`
BUSY = 4096  # side of the matrices that keep a GPU busy for longer than a batch takes


def part(epoch: Epoch, places: slice) -> Epoch:
    return Epoch(epoch.images[places], epoch.labels[places], epoch.ids[places])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_samples_however_they_are_asked_for(
    kind: str, device: torch.device, request: pytest.FixtureRequest
) -> None:
    dataset, augment = request.getfixturevalue(f"{kind}_dataset"), AUGMENTS[kind]
    with gpu_graph(dataset, device, augment) as loader:
        whole = joined(loader.epoch(2), dataset)
        assert_same(joined(loader.epoch(2), dataset), whole)
        assert_same(joined(loader.epoch(2, 37), dataset), part(whole, slice(37, None)))
    for batch, threads, prefetch in ((5, 1, 1), (71, 8, 2), (2, 3, 4)):
        with gpu_graph(dataset, device, augment, batch, threads=threads, prefetch=prefetch) as loader:
            assert_same(joined(loader.epoch(2), dataset), whole)
    for rank in range(3):
        with gpu_graph(dataset, device, augment, 8, rank=rank, world=3) as loader:
            assert_same(joined(loader.epoch(2), dataset), part(whole, slice(rank, 69, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_gives_the_remaining_samples(kind: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    dataset, augment = request.getfixturevalue(f"{kind}_dataset"), AUGMENTS[kind]
    with gpu_graph(dataset, device, augment) as loader:
        whole = joined(loader.epoch(1), dataset)
        epoch = loader.epoch(1)
        for _ in range(2):
            next(epoch)
        state = loader.state_dict()
    assert (state["epoch"], state["position"]) == (1, 32)
    with gpu_graph(dataset, device, augment, 7, threads=1) as loader:
        loader.load_state_dict(state)
        assert_same(joined(loader, dataset), part(whole, slice(32, None)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_the_image_of_its_own_plan(kind: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    dataset, ids = request.getfixturevalue(f"{kind}_dataset"), np.random.default_rng(0).permutation(60)
    with gpu_graph(dataset, device, AUGMENTS[kind], 24, order=InOrder(np.repeat(ids, 2))) as loader:
        single = joined(loader.epoch(1), dataset).images.unflatten(0, (-1, 2))
    augment = replace(AUGMENTS[kind], views_per_image=2)
    with gpu_graph(dataset, device, augment, 7, order=InOrder(ids)) as loader:
        seen = [pixels(batch.images, dataset).unflatten(0, (2, -1)).transpose(0, 1) for batch in loader.epoch(1)]
    difference = (torch.cat(seen) - single).abs()
    # A GPU's decoder may give other pixels at the edge of another window.
    assert difference.mean() < ALL and difference.mean((2, 3, 4)).max() < EACH
    if device.type == "cpu":
        assert difference.max() == 0


def test_one_epoch_is_broken_off_for_another(device: torch.device, mixed_dataset: Dataset) -> None:
    with gpu_graph(mixed_dataset, device, AUGMENTS["mixed"]) as loader:
        expected = joined(loader.epoch(3), mixed_dataset)
        for taken in (0, 1, 4):
            broken = loader.epoch(0)
            for _ in range(taken):
                next(broken)
            assert_same(joined(loader.epoch(3), mixed_dataset), expected)
        with pytest.raises(UserError, match=r"^epoch 0 is over"):
            next(broken)
    with pytest.raises(UserError, match=r"^this loader is closed"):
        next(loader.epoch(0))


def test_two_loaders_at_once(device: torch.device, jpeg_dataset: Dataset, mixed_dataset: Dataset) -> None:
    with (
        gpu_graph(jpeg_dataset, device, AUGMENTS["jpeg"], 8) as one,
        gpu_graph(mixed_dataset, device, AUGMENTS["mixed"], 8) as other,
    ):
        alone = joined(one.epoch(1), jpeg_dataset), joined(other.epoch(2), mixed_dataset)
        pairs = list(zip(one.epoch(1), other.epoch(2), strict=True))
    assert_same(joined([first for first, _ in pairs], jpeg_dataset), alone[0])
    assert_same(joined([second for _, second in pairs], mixed_dataset), alone[1])


# --- batches while the GPU is behind ---


def work(device: torch.device) -> torch.Tensor:
    """Queues products that take a GPU longer than a batch takes the host."""
    matrix = torch.eye(BUSY if device.type == "cuda" else 16, device=device)
    for _ in range(8):
        matrix = matrix @ matrix
    return matrix


@pytest.mark.parametrize("kind", KINDS)
def test_batches_that_are_kept_are_not_overwritten(
    kind: str, device: torch.device, request: pytest.FixtureRequest
) -> None:
    dataset = request.getfixturevalue(f"{kind}_dataset")
    with gpu_graph(dataset, device, AUGMENTS[kind], 3) as loader:
        expected = joined(loader.epoch(1), dataset)
        kept = []
        for batch in loader.epoch(1):
            work(device)
            kept.append(batch)
        assert len(kept) == 24
        for _ in loader.epoch(2):  # would take the memory of batches that nobody holds
            pass
        assert_same(joined(kept, dataset), expected)
    # After the loader's end, too.
    assert_same(joined(kept, dataset), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_let_go_is_read_before_it_is_overwritten(
    kind: str, device: torch.device, request: pytest.FixtureRequest
) -> None:
    """The step of a training: the images are used by what is queued, and then nobody holds them."""
    dataset = request.getfixturevalue(f"{kind}_dataset")
    with gpu_graph(dataset, device, AUGMENTS[kind], 3) as loader:
        expected = [batch.images.double().mean((1, 2, 3)).cpu() for batch in loader.epoch(1)]
        found = []
        for batch in loader.epoch(1):
            behind = work(device)[0, 0].double()  # 1
            found.append((batch.images.double() * behind).mean((1, 2, 3)))
            del batch
        torch.testing.assert_close(torch.cat(found).cpu(), torch.cat(expected), rtol=0, atol=0.02)


def test_batches_on_a_second_stream(gpu: torch.device, mixed_dataset: Dataset) -> None:
    side = torch.cuda.Stream(gpu)
    with gpu_graph(mixed_dataset, gpu, AUGMENTS["mixed"], 3) as loader:
        expected = joined(loader.epoch(1), mixed_dataset)
        # The loader is iterated on one stream, and its batches are read on another.
        read = []
        for batch in loader.epoch(1):
            side.wait_stream(torch.cuda.current_stream(gpu))
            with torch.cuda.stream(side):
                work(gpu)
                read.append(batch._replace(images=batch.images.clone(), labels=batch.labels.clone()))
            del batch
        side.synchronize()
        assert_same(joined(read, mixed_dataset), expected)
        # The loader itself is iterated on another stream than the usual one.
        with torch.cuda.stream(side):
            read = []
            for batch in loader.epoch(1):
                work(gpu)
                read.append(batch._replace(images=batch.images.clone(), labels=batch.labels.clone()))
                del batch
        side.synchronize()
        assert_same(joined(read, mixed_dataset), expected)


# --- over time ---


def held() -> tuple[int, int]:
    """Threads and open files of this process."""
    threads, files = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("task", "fd"))
    return threads, files


@pytest.mark.parametrize("kind", ["jpeg", "mixed"])
def test_many_loaders_one_after_the_other(kind: str, device: torch.device, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(f"{kind}_dataset")

    def broken_off() -> np.ndarray:
        with gpu_graph(dataset, device, AUGMENTS[kind], threads=3) as loader:
            epoch = loader.epoch(0)
            next(epoch)
            return next(epoch).ids

    expected = broken_off()
    for _ in range(2):
        broken_off()  # what DALI and the driver keep for the whole process
    before = held()
    for _ in range(12):
        np.testing.assert_array_equal(broken_off(), expected)
    after = held()
    assert after[0] <= before[0] and after[1] <= before[1]


# --- damage ---


@pytest.fixture(params=["jpeg", "mixed"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """A dataset with some images overwritten after it was made."""
    whole = request.getfixturevalue(f"{request.param}_dataset")
    shutil.copytree(whole.root, tmp_path / "data")
    index = whole.split("train")
    with (tmp_path / "data" / "train-000000.tar").open("r+b") as shard:
        for sample in DAMAGED:
            shard.seek(index.offset[sample] + 20, os.SEEK_SET)
            shard.write(bytes(300))
    return Dataset(tmp_path / "data")


def test_damaged_images_are_named_and_replaced(
    damaged: Dataset, device: torch.device, capsys: pytest.CaptureFixture[str]
) -> None:
    index, law = damaged.split("train"), class_order(damaged, "instance")
    order = law.order(2)
    bad = [sample for sample in DAMAGED if index.encoding[sample] != RAW or index.length[sample] <= CHECKED]
    with gpu_graph(damaged, device, AUGMENTS["jpeg"], order=law) as loader:
        found = joined(loader.epoch(2), damaged)
        where = sorted(loader.damaged)
    touched = np.isin(order, bad)
    assert touched.any() and not np.isin(found.ids, bad).any()
    np.testing.assert_array_equal(found.ids[~touched], order[~touched])
    np.testing.assert_array_equal(found.labels.numpy(), index.label[order])
    met = sorted(set(order[touched].tolist()))
    assert where == sorted(
        f"train-000000.tar, offset {index.offset[sample]}, key {damaged.key('train', sample)}" for sample in met
    )
    assert capsys.readouterr().err.count("damaged image: ") == len(met)
    with gpu_graph(damaged, device, AUGMENTS["jpeg"], 5, threads=1, order=law) as other:
        assert_same(joined(other.epoch(2, 20), damaged), part(found, slice(20, None)))
    told = r"max_damaged=0 allows fewer: train-000000.tar, offset \d+, key"
    strict = gpu_graph(damaged, device, AUGMENTS["jpeg"], max_damaged=0, order=law)
    with strict, pytest.raises(UserError, match=told):
        list(strict.epoch(2))
    # A loader made after one that ended like that.
    with gpu_graph(damaged, device, AUGMENTS["jpeg"], order=law) as again:
        assert_same(joined(again.epoch(2), damaged), found)
