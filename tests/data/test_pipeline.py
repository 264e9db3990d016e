"""The loader: right images, and the same ones for any threads, batch size, rank and point of resumption."""

import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import Pictures, conversion
from PIL import Image
from torchvision.transforms import functional as transforms

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.pipeline import loader as module
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment, draw_plan
from fastlt.data.shards.format import RAW
from fastlt.data.shards.reader import Dataset
from fastlt.longtail.sampler import InOrder, Sampler

RESIZED = Augment(24, "resized", scale=(0.3, 1.0), flip=True, jitter=0.4)
PAD = Augment(32, "pad", flip=True)


def sampler(dataset: Dataset, law: str = "class") -> Sampler:
    index = dataset.split("train")
    return Sampler(index.class_members, index.class_start, law, seed=1, epochs=4)


def load(dataset: Dataset, augment: Augment, batch: int = 16, threads: int = 1, position: int = 0, **options):
    """(images, labels, ids) of an epoch."""
    order = sampler(dataset)
    with Loader(dataset, "train", order, augment, batch, seed=1, threads=threads, **options) as loader:
        batches = list(loader.epoch(2, position))
    images, labels = (torch.cat([b[i] for b in batches]) for i in (0, 1))  # type: ignore[misc]
    return images, labels, np.concatenate([b.ids for b in batches])


@pytest.mark.parametrize("kind", ["jpeg", "raw", "mixed"])
def test_batches_do_not_depend_on_threads_batch_size_or_start(kind: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(f"{kind}_dataset")
    augment = PAD if kind == "raw" else RESIZED
    images, labels, ids = load(dataset, augment, batch=32)
    assert len(images) == len(dataset.split("train"))
    np.testing.assert_array_equal(ids, sampler(dataset).order(2))
    np.testing.assert_array_equal(labels.numpy(), dataset.split("train").label[ids])
    for options in ({"batch": 48}, {"batch": 32, "threads": 2}, {"batch": 1}, {"batch": 7, "prefetch": 5}):
        again = load(dataset, augment, **options)
        assert torch.equal(images, again[0])
        assert torch.equal(labels, again[1])
    resumed = load(dataset, augment, batch=16, position=32)
    assert torch.equal(images[32:], resumed[0])


def test_images_are_those_of_torchvision_on_pillow(jpeg_dataset: Dataset) -> None:
    images, _, ids = load(jpeg_dataset, RESIZED)
    index = jpeg_dataset.split("train")
    plan = draw_plan(ids, np.arange(len(ids)), index.height[ids], index.width[ids], RESIZED, seed=1, epoch=2)
    mean, std = (torch.tensor(jpeg_dataset.about[key])[:, None, None] for key in ("mean", "std"))
    steps = {
        0: transforms.adjust_brightness,
        1: transforms.adjust_contrast,
        2: transforms.adjust_saturation,
    }
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    differences = []
    for i, sample in enumerate(ids):
        picture = Image.open(io.BytesIO(jpeg_dataset.data("train", sample).tobytes())).convert("RGB")
        picture = transforms.resized_crop(picture, *plan.window[i].tolist(), [24, 24], antialias=True)  # type: ignore[arg-type]
        if plan.flip[i]:
            picture = transforms.hflip(picture)  # type: ignore[arg-type]
        for step in orders[int(plan.jitter[i, 3])]:
            picture = steps[step](picture, float(plan.jitter[i, step]))
        difference = (images[i] * std + mean) * 255 - transforms.pil_to_tensor(picture)  # type: ignore[arg-type]
        differences.append(difference.abs())
    everything = torch.stack(differences)
    # Equal but where Pillow resamples columns first: one level there, which colour jitter may enlarge.
    assert (everything > 0.01).float().mean() < 0.01
    assert everything.max() < 5


def test_formats_hold_the_same_images(jpeg_dataset: Dataset) -> None:
    def images(**options: Any) -> torch.Tensor:
        return load(jpeg_dataset, RESIZED, **options)[0]

    normalized, pixels = images(), images(dtype=torch.uint8)
    mean, std = (torch.tensor(jpeg_dataset.about[key])[:, None, None] * 255 for key in ("mean", "std"))
    torch.testing.assert_close(normalized, (pixels - mean) / std, atol=1e-5, rtol=1e-5)
    for dtype in (torch.float32, torch.float16, torch.uint8):
        expected = pixels if dtype == torch.uint8 else normalized.to(dtype)
        for channels_last in (False, True):
            found = images(dtype=dtype, channels_last=channels_last)
            assert found.dtype == dtype and torch.equal(found, expected)
    with pytest.raises(UserError, match=r"dtype=torch.float64: allowed are torch.float32, torch.float16, torch.uint8"):
        images(dtype=torch.float64)


def test_images_are_normalized_by_the_mean_and_std_that_are_given(raw_dataset: Dataset) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    images, pixels = load(raw_dataset, PAD, mean=mean, std=std)[0], load(raw_dataset, PAD, dtype=torch.uint8)[0]
    shape = 3, 1, 1
    expected = (pixels / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, r"mean=\[123.7, 116.3, 103.5\], not three numbers from 0 to 1"),
        ({"mean": (0.5,)}, r"mean=\[0.5\], not three"),
        ({"mean": 0.5}, "mean=0.5, not three"),
        ({"mean": np.array([0.5, 0.5, np.nan])}, r"mean=\[0.5, 0.5, nan\], not three"),
        ({"std": torch.tensor([0.25, 0.25, 0.0])}, r"std=\[0.25, 0.25, 0.0\], not three numbers above 0, at most 1"),
        ({"std": (58.4, 57.1, 57.4)}, r"std=\[58.4, 57.1, 57.4\], not three"),
    ],
)
def test_a_mean_and_std_that_cannot_be_are_refused(raw_dataset: Dataset, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=rf"^{told}.*: they are of pixel values divided by 255$"):
        load(raw_dataset, PAD, **wrong)


def test_pad_crop_is_the_window_of_the_padded_image(raw_dataset: Dataset) -> None:
    images, _, ids = load(raw_dataset, PAD)
    index = raw_dataset.split("train")
    plan = draw_plan(ids, np.arange(len(ids)), index.height[ids], index.width[ids], PAD, seed=1, epoch=2)
    mean, std = (np.array(raw_dataset.about[key], np.float32)[:, None, None] * 255 for key in ("mean", "std"))
    for i, sample in enumerate(ids):
        padded = np.pad(raw_dataset.pixels("train", int(sample)), ((4, 4), (4, 4), (0, 0)))
        y, x = plan.window[i, :2] + 4
        window = padded[y : y + 32, x : x + 32]
        window = (window[:, ::-1] if plan.flip[i] else window).transpose(2, 0, 1)
        np.testing.assert_allclose(images[i].numpy(), (window - mean) / std, atol=1e-5)


@pytest.mark.parametrize("small", [0, module.SMALL])
def test_small_raw_images_may_be_copied_or_not(
    small: int, raw_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", small)
    order = InOrder(np.arange(71)[::-1].copy())
    with Loader(raw_dataset, "train", order, Augment(32), 16, dtype=torch.uint8) as opened:
        images = torch.cat([batch.images for batch in opened.epoch()])
    stored = np.stack([raw_dataset.pixels("train", sample) for sample in range(70, -1, -1)])
    np.testing.assert_array_equal(images.numpy(), stored.transpose(0, 3, 1, 2))


def test_pad_crop_of_encoded_images_is_that_of_raw_ones(raw_dataset: Dataset, tmp_path) -> None:
    png = Dataset(convert(Pictures(pixels=True), conversion("png"), tmp_path / "data", workers=1))
    assert torch.equal(load(png, PAD)[0], load(raw_dataset, PAD)[0])


def test_raw_samples_of_a_mixed_split_give_the_same_images(jpeg_dataset: Dataset, mixed_dataset: Dataset) -> None:
    encoding = mixed_dataset.split("train").encoding
    assert 0 < (encoding == RAW).mean() < 0.5
    decoded, mixed = load(jpeg_dataset, RESIZED), load(mixed_dataset, RESIZED)
    np.testing.assert_array_equal(decoded[2], mixed[2])
    raw = torch.from_numpy(encoding[mixed[2]] == RAW)
    assert torch.equal(decoded[0][~raw], mixed[0][~raw])
    std = torch.tensor(jpeg_dataset.about["std"])[:, None, None] * 255
    assert ((decoded[0][raw] - mixed[0][raw]).abs() * std).max() < 1.5  # the decoders of crop and whole may round apart


def test_evaluation_covers_every_sample_once(jpeg_dataset: Dataset) -> None:
    ids = jpeg_dataset.split("train").class_members
    with Loader(jpeg_dataset, "train", InOrder(ids), Augment(24, crop_pct=0.875), 32) as loader:
        seen = [batch.ids for batch in loader.epoch()]
        assert (len(loader), loader.images) == (3, 71)
    assert [len(batch) for batch in seen] == [32, 32, 7]
    np.testing.assert_array_equal(np.concatenate(seen), ids)


def test_drop_last_leaves_out_a_batch_that_is_not_full(jpeg_dataset: Dataset) -> None:
    with Loader(jpeg_dataset, "train", sampler(jpeg_dataset), RESIZED, 32, drop_last=True) as loader:
        assert [len(batch.ids) for batch in loader.epoch()] == [32, 32]
        assert (len(loader), loader.images) == (2, 64)
    with pytest.raises(UserError, match=r"batch=72 is larger than the train split \(71 images\)"):
        Loader(jpeg_dataset, "train", sampler(jpeg_dataset), RESIZED, 72, drop_last=True)
    with pytest.raises(UserError, match="batch=0"):
        Loader(jpeg_dataset, "train", sampler(jpeg_dataset), RESIZED, 0)


def test_ranks_share_an_epoch_evenly(jpeg_dataset: Dataset) -> None:
    whole = load(jpeg_dataset, RESIZED)
    for rank in range(3):
        images, _, ids = load(jpeg_dataset, RESIZED, batch=8, rank=rank, world=3)
        np.testing.assert_array_equal(ids, whole[2][rank:69:3])
        assert torch.equal(images, whole[0][rank:69:3])


def test_an_epoch_broken_off_leaves_no_trace(jpeg_dataset: Dataset) -> None:
    with Loader(jpeg_dataset, "train", sampler(jpeg_dataset), RESIZED, 16) as loader:
        straight = [batch.images for batch in loader.epoch(1)]
        for stop in (1, 2, 4):
            for step, _ in enumerate(loader.epoch(0), start=1):
                if step == stop:
                    break
        again = [batch.images for batch in loader.epoch(1)]
    assert all(torch.equal(a, b) for a, b in zip(straight, again, strict=True))


def test_batches_may_be_kept(jpeg_dataset: Dataset) -> None:
    with Loader(jpeg_dataset, "train", sampler(jpeg_dataset), RESIZED, 8) as loader:
        kept = [(batch.images, batch.images.clone()) for batch in loader.epoch()]
    assert all(torch.equal(a, b) for a, b in kept)


def test_close_ends_the_threads(jpeg_dataset: Dataset) -> None:
    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def once() -> None:
        with Loader(jpeg_dataset, "train", sampler(jpeg_dataset), RESIZED, 8, threads=4) as loader:
            next(loader.epoch())

    once()  # DALI and compiled functions keep a few threads for the whole process
    before, python = threads(), threading.active_count()
    for _ in range(3):
        once()
    until = time.monotonic() + 30  # an ended thread is listed until the system has cleared it away
    while threads() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threads() <= before
    assert threading.active_count() == python
