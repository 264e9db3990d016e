"""The GPU graph's operators, run on the CPU; tests/gpu/ runs them where they belong."""

from typing import Any

import numpy as np
import pytest
import torch

from fastlt.data.pipeline import graph_gpu
from fastlt.data.pipeline.loader import DTYPES, Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder, Sampler


class OnCpu(Loader):
    """The GPU graph with every operator on the CPU."""

    def _build(self, threads: int, prefetch: int) -> Any:
        self._behind = bool(self._augment.augment)
        kind, last = ("uint8", True) if self._behind else (DTYPES[self.dtype], self.channels_last)
        pipeline = graph_gpu.graph(
            self._next_columns, self._stored, self._augment.image_size, kind, last,
            self._augment.jitter > 0, self._augment.interpolation, False, self.views,
            batch_size=self.batch, num_threads=threads, device_id=None, prefetch_queue_depth=prefetch,
        )  # fmt: skip
        pipeline.build()
        return pipeline


def both(dataset: Dataset, augment: Augment) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of an epoch by the CPU graph and by the GPU graph, in pixel values 0..255."""
    index = dataset.split("train")
    order = Sampler(index.class_members, index.class_start, "class", seed=1)
    std = torch.tensor(dataset.about["std"])[:, None, None] * 255
    epochs = []
    for kind in (Loader, OnCpu):
        with kind(dataset, "train", order, augment, 16) as loader:
            epochs.append(torch.cat([batch.images.float().cpu() for batch in loader.epoch(1)]) * std)
    return epochs[0], epochs[1]


AUGMENTS = {
    "mixed": Augment(24, "resized", scale=(0.3, 1.0), flip=True),
    "jpeg": Augment(24, "resized", scale=(0.3, 1.0), flip=True),
    "raw": Augment(32, "pad", flip=True),
}


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("kind", ["jpeg", "raw", "mixed"])
def test_graph_gives_the_cpu_graphs_images(kind: str, evaluation: bool, request: pytest.FixtureRequest) -> None:
    augment = Augment(24, crop_pct=0.875) if evaluation else AUGMENTS[kind]
    ours, theirs = both(request.getfixturevalue(f"{kind}_dataset"), augment)
    difference = (ours - theirs).abs()
    assert difference.mean() < 0.6  # the CPU graph rounds to uint8 after each pass of the resize, this one does not
    assert difference.max() < 4


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_formats_are_the_cpu_graphs(dtype: torch.dtype, channels_last: bool, jpeg_dataset: Dataset) -> None:
    order = InOrder(np.arange(12))
    for loader in (Loader, OnCpu):
        options: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last}
        with loader(jpeg_dataset, "test", order, Augment(24), 12, **options) as opened:
            images = next(opened.epoch()).images
            assert images.shape == (12, 3, 24, 24) and images.dtype == dtype
            assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        if loader is Loader:
            expected = images.float()
    pixels = 1 if dtype == torch.uint8 else 255 * min(jpeg_dataset.about["std"])
    assert ((images.float() - expected).abs() * pixels).mean() < 0.6


def test_jitter_is_the_same_up_to_clamping(jpeg_dataset: Dataset) -> None:
    ours, theirs = both(jpeg_dataset, Augment(24, "resized", scale=(0.3, 1.0), jitter=0.4))
    # Pillow cuts the fraction off after each of the three steps, half a level each on average.
    assert (ours - theirs).abs().mean() < 2
    assert np.quantile((ours - theirs).abs().numpy(), 0.95) < 6


def test_augmentations_come_behind_the_graph(jpeg_dataset: Dataset) -> None:
    ours, theirs = both(jpeg_dataset, Augment(24, "resized", flip=True, augment=("randaugment", "cutout")))
    alike = both(jpeg_dataset, Augment(24, "resized", flip=True))
    # Equalize and the like make more of a level that the resizes differ by; most images have none of them.
    assert (ours - theirs).abs().median() <= (alike[0] - alike[1]).abs().median() + 1
    erased = [(epoch.abs().amax(dim=1) == 0) for epoch in (ours, theirs)]
    assert torch.equal(*erased) and 0.1 < erased[0].float().mean() < 0.5
