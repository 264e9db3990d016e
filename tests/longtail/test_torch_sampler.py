"""Our laws in a DataLoader of torch: the order of a Loader, over ranks, workers and resumption."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from fastlt.core.errors import UserError
from fastlt.longtail.sampler import Sampler
from fastlt.longtail.torch_sampler import TorchSampler

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [50, 15, 6]))  # class 2 has no images
COUNTS = [50, 15, 0, 6]


class Squares(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, number: int) -> tuple[int, int]:
        return number, number**2


def numbers(loader: DataLoader) -> list[int]:
    return [number for batch, _ in loader for number in batch.tolist()]


@pytest.mark.parametrize("law", ["instance", "class", "sqrt", "root_3", "progressive"])
@pytest.mark.parametrize("drawing", ["quota", "reference"])
def test_the_order_is_that_of_a_loader(law: str, drawing: str) -> None:
    labels, counts = (LABELS, COUNTS) if drawing == "quota" else (np.minimum(LABELS, 2), [50, 15, 6])
    members, start = np.argsort(labels, kind="stable"), np.concatenate([[0], np.cumsum(counts)])
    order = Sampler(members, start, law, 3, 4, drawing)
    sampler = TorchSampler(torch.from_numpy(labels), law, seed=3, epochs=4, drawing=drawing)
    for epoch in range(3):  # every loop is the next epoch
        found = list(sampler)
        assert found == order.order(epoch).tolist() and isinstance(found[0], int)
    sampler.set_epoch(1)
    assert list(sampler) == order.order(1).tolist() and len(sampler) == 71


def test_classes_are_drawn_by_the_law() -> None:
    drawn = np.bincount(LABELS[list(TorchSampler(LABELS.tolist(), "class"))], minlength=4)
    assert sorted(drawn.tolist()) == [0, 23, 24, 24] and drawn[2] == 0


def test_ranks_share_an_epoch() -> None:
    whole = list(TorchSampler(LABELS, "sqrt"))
    parts = [list(TorchSampler(LABELS, "sqrt", rank=rank, world=3)) for rank in range(3)]
    assert [part == whole[rank:69:3] for rank, part in enumerate(parts)] == [True] * 3
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        sampler = TorchSampler(LABELS)
        assert (sampler.rank, sampler.world) == (0, 1)
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # more than there are cores here
@pytest.mark.parametrize("workers", [0, 2])
def test_it_works_in_a_dataloader_and_goes_on_in_it(workers: int) -> None:
    """With workers, which take numbers ahead of the batches, the caller says how many were used."""
    options: dict[str, Any] = {
        "batch_size": 8,
        "num_workers": workers,
        "multiprocessing_context": "fork" if workers else None,
    }
    sampler = TorchSampler(LABELS, "class", seed=1)
    straight = [list(sampler) for _ in range(3)]
    sampler = TorchSampler(LABELS, "class", seed=1)
    batches = DataLoader(Squares(), sampler=sampler, **options)
    assert len(batches) == 9 and numbers(batches) == straight[0]
    taken = iter(batches)
    seen = [number for _ in range(3) for number in next(taken)[0].tolist()]
    state = sampler.state_dict(used=24)
    if not workers:
        assert state == sampler.state_dict()
    assert (state["epoch"], state["position"]) == (1, 24)
    del taken
    again = TorchSampler(LABELS, "class", seed=1)
    again.load_state_dict(json.loads(json.dumps(state)))
    again.set_epoch(1)
    rest = DataLoader(Squares(), sampler=again, **options)
    assert seen + numbers(rest) == straight[1] and numbers(rest) == straight[2]


def test_a_state_goes_on_with_other_ranks_and_survives_copies() -> None:
    whole = list(TorchSampler(LABELS, "class"))
    first = TorchSampler(LABELS, "class", rank=1, world=2)
    some = iter(first)
    assert [next(some) for _ in range(4)] == whole[1:8:2]
    for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first)), TorchSampler(LABELS, "class")):
        other.load_state_dict(first.state_dict())
        assert list(other) == whole[8 + other.rank : 70 if other.world == 2 else 71 : other.world]
    assert repr(first) == (
        "TorchSampler(law=class, seed=0, epochs=1, drawing=quota, samples=71, rank=1 of 2, epoch=0, position=8 of 71)"
    )


def test_a_state_before_the_first_loop_is_the_one_that_was_set() -> None:
    sampler = TorchSampler(LABELS, "class", seed=np.int64(3))  # type: ignore[arg-type]
    sampler.set_epoch(7)
    state = sampler.state_dict(used=0)
    assert (state["epoch"], state["position"]) == (7, 0)
    sampler.load_state_dict(json.loads(json.dumps({**state, "epoch": 5, "position": 2})))
    assert sampler.state_dict(used=2)["epoch"] == 5
    list(sampler)
    assert sampler.state_dict(used=71)["epoch"] == 5


def test_a_state_of_other_labels_is_refused_though_the_order_of_samples_is_the_same() -> None:
    state = TorchSampler([0, 0, 1, 1, 1, 2], "class").state_dict()
    with pytest.raises(UserError, match="state has crc32="):
        TorchSampler([0, 1, 1, 2, 2, 2], "class").load_state_dict(state)


def test_a_state_of_something_else_is_refused() -> None:
    state = TorchSampler(LABELS, "class").state_dict()
    for name, other in {
        "law": TorchSampler(LABELS, "sqrt"),
        "seed": TorchSampler(LABELS, "class", seed=1),
        "crc32": TorchSampler(LABELS[::-1].copy(), "class"),
    }.items():
        with pytest.raises(UserError, match=rf"^state has {name}=.*, this TorchSampler .*: make it as the first one"):
            other.load_state_dict(state)
    with pytest.raises(UserError, match=r"^a NoneType is no state of a TorchSampler"):
        TorchSampler(LABELS).load_state_dict(None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, r"labels are float64 \[0\]: they must be the classes"),
        ([[0], [1, 2]], {}, "labels are .*: they must be the classes"),
        (None, {}, r"labels are object \[\]: they must be the classes"),
        ([0.5, 1.0], {}, r"labels are float64 \[2\]: they must be the classes"),
        ([-1, 2], {}, "labels are from -1 to 2: allowed is from 0 to "),
        ([0, 10**12], {}, "labels are from 0 to 1000000000000: allowed is"),
        ([0, 1], {"law": "cubic"}, "sampler=cubic"),
        ([0, 1], {"drawing": "fast"}, "sampler.drawing=fast is unknown"),
        (
            [0, 2],
            {"law": "class", "drawing": "reference"},
            "class 1 has no image, and sampler.drawing=reference visits",
        ),
        ([0, 1], {"rank": 2, "world": 2}, "rank=2: it must be a whole number from 0 to 1"),
        ([0, 1], {"seed": 1.5}, "seed=1.5: it must be a whole number"),
        ([0, 1], {"epochs": 0}, "epochs=0: it must be a whole number"),
    ],
)
def test_what_cannot_be_is_refused(labels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        TorchSampler(labels, **options)
    sampler = TorchSampler([0, 1])
    for wrong in (-1, 1.5, None):
        with pytest.raises(UserError, match=rf"^epoch={wrong}: it must be a whole number"):
            sampler.set_epoch(wrong)  # pyright: ignore[reportArgumentType]
