"""Several views of each image in a batch: each is the image of a plan of its own, to the last bit."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_graph_gpu import OnCpu
from torch import Tensor

from fastlt.core.errors import UserError
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder

V, IDS, EPOCH = 3, np.random.default_rng(0).permutation(60), 2
CROPPED = Augment(24, "resized", scale=(0.1, 1.0), flip=True, jitter=0.4, views_per_image=V)
AUGMENTS = {
    "raw": Augment(32, "pad", flip=True, augment=("randaugment", "cutout"), views_per_image=V),
    "jpeg": CROPPED,
    "mixed": CROPPED,
}


def single(kind: type[Loader], dataset: Dataset, augment: Augment) -> Tensor:
    """The images of an epoch of single views in which every image comes V times in a row, as [N, V, 3, H, W]."""
    order = InOrder(np.repeat(IDS, V))
    with kind(dataset, "train", order, replace(augment, views_per_image=1), 36, 5, threads=1) as loader:
        return torch.cat([batch.images for batch in loader.epoch(EPOCH)]).unflatten(0, (-1, V))


def made(kind: type[Loader], dataset: Dataset, augment: Augment, batch: int = 16, **options: Any) -> Loader:
    return kind(dataset, "train", InOrder(IDS), augment, batch, 5, **options)


def views(loader: Loader, position: int = 0) -> Tensor:
    """The images of the rest of an epoch, as [n, V, 3, H, W]; checks their labels and ids."""
    parts, ids = [], []
    for batch in loader.epoch(EPOCH, position):
        assert len(batch.images) == len(batch.labels) == len(batch.ids)
        known = loader._dataset.split("train").label[batch.ids]
        np.testing.assert_array_equal(batch.labels.numpy(), known)
        parts.append(batch.images.unflatten(0, (V, -1)).transpose(0, 1))
        ids.append(batch.ids.reshape(V, -1))
    seen = np.concatenate(ids, axis=1)
    assert (seen == seen[0]).all()
    np.testing.assert_array_equal(seen[0], IDS[position + loader.rank :: loader.world][: len(seen[0])])
    return torch.cat(parts)


@pytest.mark.parametrize("graph", [Loader, OnCpu])
@pytest.mark.parametrize("kind", list(AUGMENTS))
def test_a_view_is_the_image_of_its_own_plan(kind: str, graph: type[Loader], request: pytest.FixtureRequest) -> None:
    """For any batch size, number of threads and ranks, and where an epoch was resumed; by both graphs."""
    dataset, augment = request.getfixturevalue(f"{kind}_dataset"), AUGMENTS[kind]
    known = single(graph, dataset, augment)
    assert not torch.equal(known[:, 0], known[:, 1])
    with made(graph, dataset, augment, threads=1) as loader:
        assert torch.equal(views(loader), known)
        assert (len(loader), loader.images) == (4, 60)
    with made(graph, dataset, augment, batch=7, threads=2, channels_last=True) as loader:
        assert torch.equal(views(loader, 20), known[20:])
    with made(graph, dataset, augment, batch=8, rank=1, world=2) as loader:
        assert torch.equal(views(loader), known[1::2])


def test_positions_count_images(raw_dataset: Dataset) -> None:
    augment = AUGMENTS["raw"]
    with made(Loader, raw_dataset, augment) as first:
        next(iter(first))
        state = json.loads(json.dumps(first.state_dict()))
    assert state["position"] == 16
    with made(Loader, raw_dataset, augment) as second:
        second.load_state_dict(state)
        assert sum(len(batch.ids) for batch in second) == V * 44
    with made(Loader, raw_dataset, replace(augment, views_per_image=2)) as other, pytest.raises(UserError):
        other.load_state_dict(state)


def shifted(image: Tensor, key: tuple[int, ...]) -> Tensor:
    return image + key[-1]


def test_an_image_hook_has_a_key_for_every_view(raw_dataset: Dataset) -> None:
    """The keys are those of single views."""
    augment = Augment(32, "pad", image_hook=f"{__name__}:shifted", views_per_image=V)
    known = single(Loader, raw_dataset, augment)
    with made(Loader, raw_dataset, augment) as loader:
        assert torch.equal(views(loader), known)


def test_a_number_of_views_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="views_per_image=0: it must be a whole number from 1 to 16"):
        Augment(32, views_per_image=0)
