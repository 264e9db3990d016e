"""The loader over time: resumed, broken off, closed, and with samples that were damaged after the conversion."""

import copy
import gc
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch

from fastlt.core.errors import UserError
from fastlt.data.pipeline.damage import CHECKED
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder, Sampler
from fastlt.longtail.torch_sampler import TorchSampler

AUGMENT = Augment(24, "resized", scale=(0.3, 1.0), flip=True, jitter=0.4)
DAMAGED = (2, 3, 5, 57, 59, 70)  # of the first class, the second and the last, which has three


def sampler(dataset: Dataset, law: str = "class", seed: int = 1) -> Sampler:
    index = dataset.split("train")
    return Sampler(index.class_members, index.class_start, law, seed=seed, epochs=4)


def loader(dataset: Dataset, batch: Any = 16, seed: Any = 1, order: Any = None, **options: Any) -> Loader:
    split, augment = options.pop("split", "train"), options.pop("augment", AUGMENT)
    return Loader(dataset, split, order or sampler(dataset), augment, batch, seed, **options)


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
            state = first.state_dict()
        assert (state["epoch"], state["position"]) == (2, 16 * stop)
        with loader(jpeg_dataset, batch=7, threads=1) as second:
            second.load_state_dict(json.loads(json.dumps(state)))
            left = joined(second)
        np.testing.assert_array_equal(left[2], ids[16 * stop :])
        assert torch.equal(left[0], images[16 * stop :]) and torch.equal(left[1], labels[16 * stop :])


def test_resuming_on_another_number_of_ranks(jpeg_dataset: Dataset) -> None:
    with loader(jpeg_dataset, batch=8) as straight:
        ids = joined(straight.epoch(1))[2]
    with loader(jpeg_dataset, batch=8, rank=0, world=2) as first:
        next(first.epoch(1))
        state = first.state_dict()
    assert state["position"] == 16
    for rank in range(4):
        with loader(jpeg_dataset, batch=8, rank=rank, world=4) as second:
            second.load_state_dict(state)
            np.testing.assert_array_equal(joined(second)[2], ids[16 + rank : 68 : 4])


def test_a_state_of_something_else_is_refused(jpeg_dataset: Dataset, mixed_dataset: Dataset) -> None:
    with loader(jpeg_dataset) as first:
        state = first.state_dict()
    index = jpeg_dataset.split("train")
    others: dict[str, Callable[[], Loader]] = {
        "dataset": lambda: loader(mixed_dataset),
        "order.law": lambda: loader(jpeg_dataset, order=sampler(jpeg_dataset, "sqrt")),
        "order.crc32": lambda: loader(
            jpeg_dataset, order=Sampler(np.arange(71)[::-1], index.class_start, "class", 1, 4)
        ),
        "order.(crc32|drawing)": lambda: loader(jpeg_dataset, order=InOrder(np.arange(71))),
        "seed": lambda: loader(jpeg_dataset, seed=2),
        "augment.image_size": lambda: loader(jpeg_dataset, augment=replace(AUGMENT, image_size=25)),
        "augment.jitter": lambda: loader(jpeg_dataset, augment=replace(AUGMENT, jitter=0.0)),
        "augment.scale": lambda: loader(jpeg_dataset, augment=replace(AUGMENT, scale=(0.2, 1.0))),
        "split": lambda: loader(jpeg_dataset, split="val", order=sampler(jpeg_dataset)),
    }
    for name, make in others.items():
        with make() as other, pytest.raises(UserError, match=f"^state has {name}="):
            other.load_state_dict(state)
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


# --- the protocol of torchdata's StatefulDataLoader ---


def test_every_loop_is_the_next_epoch_or_the_one_that_was_set(jpeg_dataset: Dataset) -> None:
    with loader(jpeg_dataset) as known:
        epochs = [joined(known.epoch(number))[2] for number in range(4)]
    with loader(jpeg_dataset) as opened:
        assert len(list(opened)) == len(opened) == 5
        np.testing.assert_array_equal(joined(opened)[2], epochs[1])
        for taken in (0, 1, 3, 2):  # left in the middle, as `break` does
            batches = iter(opened)
            assert [len(next(batches).ids) for _ in range(taken)] == [16] * taken
        opened.set_epoch(3)
        np.testing.assert_array_equal(joined(opened)[2], epochs[3])
        opened.set_epoch(0)
        assert opened.state_dict()["epoch"] == 0
        images, labels, ids = next(iter(opened))
        assert images.shape == (16, 3, 24, 24) and labels.dtype == torch.int64
        np.testing.assert_array_equal(ids, epochs[0][:16])
        opened.set_epoch(0)  # from its beginning, as it is no state that was loaded
        np.testing.assert_array_equal(joined(opened)[2], epochs[0])


@pytest.mark.parametrize("names_epochs", [True, False])
@pytest.mark.parametrize("stop", [2, 5, 7, 10])
def test_a_stopped_loop_goes_on_with_the_same_batches(jpeg_dataset: Dataset, stop: int, names_epochs: bool) -> None:
    def loop(opened: Loader, first: int = 0) -> Any:
        for epoch in range(first, 3):
            if names_epochs:
                opened.set_epoch(epoch)
            for batch in opened:
                yield batch.ids.tolist()

    with loader(jpeg_dataset) as straight:
        whole = list(loop(straight))
    with loader(jpeg_dataset) as first:
        batches = loop(first)
        seen = [next(batches) for _ in range(stop)]
        state = first.state_dict()
        assert copy.deepcopy(state) == state and state["position"] == (16 * (stop % 5) or 71)
    with loader(jpeg_dataset) as second:
        second.load_state_dict(state)
        told = second.state_dict()
        assert told == (state if stop % 5 else {**state, "epoch": state["epoch"] + 1, "position": 0})
        assert seen + list(loop(second, (state if names_epochs else told)["epoch"])) == whole
        assert (second.state_dict()["epoch"], second.state_dict()["position"]) == (3, 0)


@pytest.mark.parametrize("state", [None, [1], {}, {"epoch": 1}, "last"])
def test_what_is_no_state_is_refused(jpeg_dataset: Dataset, state: Any) -> None:
    with loader(jpeg_dataset) as opened:
        before = opened.state_dict()
        with pytest.raises(UserError, match=r"^(a \w+ is no state of a Loader|state has \w+(\.\w+)?=None)"):
            opened.load_state_dict(state)
        for wrong in (None, -1, 1.5, True, "3", [2], 72):
            for name in ("epoch", "position") if wrong != 72 else ("position",):
                with pytest.raises(UserError, match=rf"^{name}=.*: it must be a whole number from 0 to "):
                    opened.load_state_dict({**before, name: wrong})
        assert opened.state_dict() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0}, {"batch": 2.5}, {"batch": 10**9}, {"batch": None}, {"threads": 0}, {"threads": 10**6},
        {"prefetch": 0}, {"rank": 2, "world": 2}, {"world": 0}, {"seed": -1}, {"seed": 2**64}, {"max_damaged": -1},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(jpeg_dataset: Dataset, wrong: dict[str, Any]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(UserError, match=rf"^{name}={value}: it must be a whole number from \d+ to \d+$"):
        loader(jpeg_dataset, **wrong)


class Given(InOrder):
    """An own order that was not checked when it was made. ids: what its `order` gives."""

    def __post_init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (np.array([0, 71]), "order gives the sample id 71, but the train split has 71 images"),
        (np.array([-1, 0]), "order gives the sample id -1, but"),
        (np.array([0.0, 1.0]), r"order=Given: order\(2\) must give sample ids, int64 \[2\]"),
        (np.zeros((2, 2), np.int64), r"order=Given: order\(2\) must give"),
    ],
)
def test_an_order_of_images_that_are_not_there_is_refused(jpeg_dataset: Dataset, ids: np.ndarray, told: str) -> None:
    with loader(jpeg_dataset, order=Given(ids)) as wrong, pytest.raises(UserError, match=f"^{told}"):
        next(wrong.epoch(2))


def test_what_is_no_order_is_refused(jpeg_dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"^order=TorchSampler has no others, described: it must have the methods of"):
        loader(jpeg_dataset, order=TorchSampler([0, 0, 1]))
    with pytest.raises(UserError, match=r"^ids must be a NumPy array of int64 \[n\], such as np.arange\(n\)$"):
        InOrder([0, 1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["mps", "gpu", torch.device("meta"), "cuda:99"])
def test_a_device_that_is_not_there_is_refused(jpeg_dataset: Dataset, device: Any) -> None:
    with pytest.raises(UserError, match=f"^device={device}"):
        loader(jpeg_dataset, device=device)


def test_an_image_that_is_too_small_for_padded_crops_is_named(jpeg_dataset: Dataset) -> None:
    index = jpeg_dataset.split("train")
    least = int(min(index.height.min(), index.width.min()))
    loader(jpeg_dataset, augment=Augment(least + 8, "pad", pad=4)).close()
    told = rf"image_size={least + 9}: image .* of the train split has .* crops of up to {least + 8} pixels fit it"
    with pytest.raises(UserError, match=told):
        loader(jpeg_dataset, augment=Augment(least + 9, "pad", pad=4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.5, 0.1)}, {"scale": (0.5,)}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 1.5)}, {"ratio": (0, 1)},
        {"ratio": (2.0, 1.0)}, {"crop": "pad", "pad": -3}, {"crop": "pad", "pad": 24},
    ],
)  # fmt: skip
def test_crops_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^(scale|ratio|pad)=.*: it must be "):
        Augment(24, **{"crop": "resized", **wrong})


def test_a_loader_tells_what_it_is(jpeg_dataset: Dataset) -> None:
    with loader(jpeg_dataset, rank=1, world=2) as opened:
        opened.set_epoch(2)
        next(iter(opened))
        assert repr(opened) == (
            f"Loader({jpeg_dataset.root}, train, law=class, seed=1, epochs=4, drawing=quota, samples=71, batch=16, "
            "device=cpu, rank=1 of 2, epoch=2, position=32 of 71)"
        )
    assert repr(opened).endswith(", closed)")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_loader_cannot_be_copied(jpeg_dataset: Dataset, copied: Callable[[Loader], Any]) -> None:
    with loader(jpeg_dataset) as opened, pytest.raises(UserError, match=r"^a loader has threads of its own and cannot"):
        copied(opened)


def refusals(opened: Loader, batches: Any, told: Any) -> None:
    for use in (lambda: next(batches), lambda: next(iter(opened)), opened.close):
        try:
            use()
        except UserError as error:
            told.put(str(error))
    told.put("closed")


@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_a_forked_child_is_told_that_the_loader_is_not_its_own(jpeg_dataset: Dataset) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    with loader(jpeg_dataset) as opened:
        batches = iter(opened)
        first = next(batches)
        child = context.Process(target=refusals, args=(opened, batches, told))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        for _ in range(2):
            assert told.get().startswith(f"this loader was made in process {os.getpid()}, and its threads did not")
        assert told.get() == "closed"
        assert len(joined(batches)[2]) == 71 - len(first.ids)  # the parent's goes on


def test_two_threads_at_once_are_refused(jpeg_dataset: Dataset) -> None:
    """The second thread comes while the first is in the middle of a batch: in the sampler."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(InOrder):
        def order(self, epoch: int) -> np.ndarray:
            inside.set()
            assert go_on.wait(60)
            return self.ids

    got: list[np.ndarray] = []
    with loader(jpeg_dataset, order=Slow(np.arange(71))) as opened:
        batches = iter(opened)
        first = threading.Thread(target=lambda: got.append(next(batches).ids))
        first.start()
        assert inside.wait(60)
        for other in (batches, iter(opened), opened.epoch(3)):
            with pytest.raises(UserError, match=r"^two threads use this loader at the same time: "):
                next(other)
        go_on.set()
        first.join()
        np.testing.assert_array_equal(np.concatenate([*got, joined(batches)[2]]), np.arange(71))


# --- damage ---


def is_compared(dataset: Dataset, sample: int) -> bool:
    """Whether damage of a training image is found when it is used: not where it is many pixels."""
    index = dataset.split("train")
    return bool(index.encoding[sample] != 2 or index.length[sample] <= CHECKED)


@pytest.fixture(params=["jpeg", "mixed", "raw"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """A dataset with some images overwritten after it was made: garbage, or a single flipped bit."""
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
    bad = [sample for sample in DAMAGED if is_compared(damaged, sample)]
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


def test_damage_is_told_by_the_rank_that_meets_it(
    damaged: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlt.core.log._silent", True)  # as it is on ranks other than 0
    with loader(damaged, rank=1, world=2) as opened:
        joined(opened.epoch(2))
        assert opened.damaged
        said = capsys.readouterr().err
    assert all(f"damaged image: {one}\n" in said for one in opened.damaged)
    assert "positions of this epoch given to other images of the class" in said


def test_more_damage_than_allowed(jpeg_dataset: Dataset, damaged: Dataset) -> None:
    allowed = sum(is_compared(damaged, sample) for sample in DAMAGED) - 1
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


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_shard_that_is_cut_short_while_it_is_mapped_is_named(
    jpeg_dataset: Dataset, raw_dataset: Dataset, tmp_path: Path, encoding: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree((jpeg_dataset if encoding == "jpeg" else raw_dataset).root, root)
    code = f"""
import os, numpy as np
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder
dataset = Dataset({str(root)!r})
with Loader(dataset, "train", InOrder(np.arange(71)), Augment(24), 16) as loader:
    os.truncate(dataset.shards[0], 512)
    print(sum(len(batch.images) for batch in loader))
"""
    done = commands.run("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {root}/train-000000.tar was cut short, or its disk failed, while it was read")


def test_another_bus_error_ends_as_ever(jpeg_dataset: Dataset, tmp_path: Path) -> None:
    code = f"""
import mmap
from fastlt.data.shards.reader import Dataset
dataset = Dataset({str(jpeg_dataset.root)!r})
with open("other", "w+b") as file:
    file.truncate(9000)
    other = mmap.mmap(file.fileno(), 9000)
    file.truncate(0)
    print(other[0])
"""
    done = commands.run("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGBUS, "", "")
