"""The loader over time: resumed, broken off, closed, and with samples that were damaged after the conversion."""

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastlt.core.errors import UserError
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder, Sampler

AUGMENT = Augment(24, "resized", scale=(0.3, 1.0), flip=True, jitter=0.4)
DAMAGED = (2, 3, 5, 57, 59, 70)  # of the first class, the second and the last, which has three


def sampler(dataset: Dataset, law: str = "class", seed: int = 1) -> Sampler:
    index = dataset.split("train")
    return Sampler(index.class_members, index.class_start, law, seed=seed, epochs=4)


def loader(dataset: Dataset, batch: int = 16, seed: int = 1, order: Any = None, **options: Any) -> Loader:
    return Loader(dataset, "train", order or sampler(dataset), AUGMENT, batch, seed, **options)


def joined(batches: Any) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    batches = list(batches)
    return (
        torch.cat([b.images for b in batches]),
        torch.cat([b.labels for b in batches]),
        np.concatenate([b.ids for b in batches]),
    )


def test_resuming_gives_exactly_the_remaining_samples(jpeg_dataset: Dataset) -> None:
    with loader(jpeg_dataset) as straight:
        images, labels, ids = joined(straight.epoch(2))
    for stop in (1, 3, 4):
        with loader(jpeg_dataset) as first:
            epoch = first.epoch(2)
            for _ in range(stop):
                next(epoch)
            state = first.state()
        assert (state["epoch"], state["position"]) == (2, 16 * stop)
        with loader(jpeg_dataset, batch=7, threads=1) as second:
            left = joined(second.resume(state))
        np.testing.assert_array_equal(left[2], ids[16 * stop :])
        assert torch.equal(left[0], images[16 * stop :]) and torch.equal(left[1], labels[16 * stop :])


def test_resuming_on_another_number_of_ranks(jpeg_dataset: Dataset) -> None:
    with loader(jpeg_dataset, batch=8) as straight:
        ids = joined(straight.epoch(1))[2]
    with loader(jpeg_dataset, batch=8, rank=0, world=2) as first:
        next(first.epoch(1))
        state = first.state()
    assert state["position"] == 16
    for rank in range(4):
        with loader(jpeg_dataset, batch=8, rank=rank, world=4) as second:
            np.testing.assert_array_equal(joined(second.resume(state))[2], ids[16 + rank : 68 : 4])


def test_a_state_of_something_else_is_refused(jpeg_dataset: Dataset, mixed_dataset: Dataset) -> None:
    with loader(jpeg_dataset) as first:
        state = first.state()
    others: dict[str, Callable[[], Loader]] = {
        "dataset": lambda: loader(mixed_dataset),
        "order": lambda: loader(jpeg_dataset, order=sampler(jpeg_dataset, "sqrt")),
        "seed": lambda: loader(jpeg_dataset, seed=2),
    }
    for name, make in others.items():
        with make() as other, pytest.raises(UserError, match=f"^state has {name}="):
            other.resume(state)
    for position in (3, -2, 100):
        with loader(jpeg_dataset, world=2) as two, pytest.raises(UserError, match=f"^position={position}: "):
            next(two.epoch(0, position))


def test_a_hundred_broken_off_epochs_leave_nothing(jpeg_dataset: Dataset) -> None:
    def held() -> tuple[int, int, int]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        threads, files = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("task", "fd"))
        return threads, files, pages * os.sysconf("SC_PAGE_SIZE")

    def broken_off() -> None:
        with loader(jpeg_dataset, threads=3) as opened:
            epoch = opened.epoch(0)
            next(epoch)
            next(epoch)

    for _ in range(5):
        broken_off()  # what DALI and Numba keep for the whole process
    threads, files, memory = held()
    for _ in range(100):
        broken_off()
    after = held()
    assert after[0] <= threads and after[1] <= files
    assert after[2] - memory < 20e6  # one leaked batch an epoch would be more


def test_one_epoch_at_a_time(jpeg_dataset: Dataset) -> None:
    with loader(jpeg_dataset) as opened:
        first = opened.epoch(0)
        next(first)
        second = joined(opened.epoch(1))
        with pytest.raises(UserError, match=r"^epoch 0 is over, as this loader began another one or was closed: "):
            next(first)
        unfinished = opened.epoch(2)
        next(unfinished)
    with loader(jpeg_dataset) as other:
        np.testing.assert_array_equal(second[2], joined(other.epoch(1))[2])
    with pytest.raises(UserError, match=r"^epoch 2 is over"):
        next(unfinished)
    with pytest.raises(UserError, match=r"^this loader is closed"):
        next(opened.epoch(0))
    opened.close()  # once more does no harm


# --- damage ---


@pytest.fixture(params=["jpeg", "mixed"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """A data set with some images overwritten after it was made: garbage, or a single flipped bit."""
    whole = request.getfixturevalue(f"{request.param}_dataset")
    shutil.copytree(whole.root, tmp_path / "data")
    index = whole.split("train")
    with (tmp_path / "data" / "train-000000.tar").open("r+b") as shard:
        for number, sample in enumerate(DAMAGED):
            shard.seek(index.offset[sample] + number * 30)
            if number % 2:
                (byte,) = shard.read(1)
                shard.seek(-1, os.SEEK_CUR)
                shard.write(bytes([byte ^ 1]))
            else:
                shard.write(bytes(400))
    return Dataset(tmp_path / "data")


def test_damaged_samples_are_named_and_replaced(damaged: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    order = sampler(damaged).order(2)
    index = damaged.split("train")
    bad = [sample for sample in DAMAGED if index.encoding[sample] != 2]  # raw pixels cannot fail
    with loader(damaged) as opened:
        images, labels, ids = joined(opened.epoch(2))
        where = sorted(opened.damaged)
    touched = np.isin(order, bad)
    assert touched.any() and not np.isin(ids, bad).any()
    np.testing.assert_array_equal(ids[~touched], order[~touched])
    np.testing.assert_array_equal(labels, index.label[order])  # as many of every class as the law asks for
    met = sorted(set(order[touched].tolist()))
    names = [f"train-000000.tar, offset {index.offset[sample]}, key {damaged.key('train', sample)}" for sample in met]
    assert where == sorted(names)
    said = capsys.readouterr().err.splitlines()
    assert sorted(line for line in said if line.startswith("damaged image: ")) == [
        f"damaged image: {name}" for name in sorted(names)
    ]
    assert said[-1].startswith(
        f"positions of this epoch given to other images of the class: {touched.sum()}, for train-"
    )
    # The same for any batch size, threads, ranks and point of resumption.
    with loader(damaged, batch=5, threads=1) as other:
        again = joined(other.epoch(2, 20))
    assert torch.equal(again[0], images[20:]) and np.array_equal(again[2], ids[20:])
    with loader(damaged, batch=9, rank=1, world=3) as other:
        np.testing.assert_array_equal(joined(other.epoch(2))[2], ids[1::3][: len(ids) // 3])


def test_more_damage_than_allowed(jpeg_dataset: Dataset, damaged: Dataset) -> None:
    allowed = int((damaged.split("train").encoding[list(DAMAGED)] != 2).sum()) - 1
    order = sampler(damaged, "instance")
    told = rf"max_damaged={allowed} allows fewer: train-000000.tar, offset \d+, key"
    with loader(damaged, order=order, max_damaged=allowed) as opened, pytest.raises(UserError, match=told):
        joined(opened.epoch())
    with loader(damaged, order=order, max_damaged=allowed + 1) as opened:
        assert len(joined(opened.epoch())[2]) == 71


def test_where_every_sample_counts_none_is_replaced(damaged: Dataset) -> None:
    told = "damaged, and no other can stand in for it: train-000000.tar, offset "
    order = InOrder(np.arange(71))
    with Loader(damaged, "train", order, Augment(24), 16) as opened, pytest.raises(UserError, match=told):
        joined(opened.epoch())
