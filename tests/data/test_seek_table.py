"""seek_table=true: the same batches and pixels, from files that every reader opens."""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# (DALI creates most of its names at import, so type checkers do not know them)

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn, types
from pictures import Pictures, conversion, jpeg, picture
from PIL import Image
from torchvision.io import decode_jpeg

from fastlt.core.errors import UserError
from fastlt.data.convert import convert
from fastlt.data.convert.append import Growth
from fastlt.data.pipeline.loader import Loader
from fastlt.data.plan import Augment
from fastlt.data.shards.encode import MAX_PIXELS, Encoding, encode
from fastlt.data.shards.format import JPEG, RAW
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.verify import verify
from fastlt.kernels.jpeg_header import SIGNATURE
from fastlt.kernels.jpeg_seek import with_seek_table
from fastlt.longtail.sampler import InOrder

AUGMENTS = {
    "resized": Augment(24, "resized", scale=(0.05, 0.6), flip=True, jitter=0.4),
    "pad": Augment(48, "pad"),
    "center": Augment(32, crop_pct=0.5),
    "views": Augment(24, "resized", scale=(0.05, 0.3), flip=True, views_per_image=2),
}


def converted(out: Path, seek_table: bool, raw_fraction: float = 0) -> Dataset:
    options = conversion(raw_fraction=raw_fraction)
    encoding = replace(options.encoding, seek_table=seek_table)
    return Dataset(convert(Pictures(), replace(options, encoding=encoding), out, workers=1))


@pytest.fixture(scope="module")
def seekable(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return converted(tmp_path_factory.mktemp("seekable") / "data", True)


def images(dataset: Dataset, augment: Augment, threads: int) -> Iterator[torch.Tensor]:
    order = InOrder(np.arange(len(dataset.split("train"))))
    with Loader(dataset, "train", order, augment, batch=16, threads=threads) as loader:
        yield from (batch.images for batch in loader)


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_batches_are_those_without_the_tables(augment: Augment, seekable: Dataset, jpeg_dataset: Dataset) -> None:
    with_table = seekable.split("train").length > jpeg_dataset.split("train").length
    assert with_table.mean() > 0.9
    for found, expected in zip(images(seekable, augment, 2), images(jpeg_dataset, augment, 1), strict=True):
        assert torch.equal(found, expected)


def test_batches_mix_raw_images_and_files_with_tables(tmp_path: Path, mixed_dataset: Dataset) -> None:
    dataset = converted(tmp_path / "data", True, raw_fraction=0.33)
    assert {JPEG, RAW} <= set(dataset.split("train").encoding.tolist())
    augment = AUGMENTS["resized"]
    for found, expected in zip(images(dataset, augment, 2), images(mixed_dataset, augment, 2), strict=True):
        assert torch.equal(found, expected)


def test_other_decoders_read_the_same_pixels(seekable: Dataset, jpeg_dataset: Dataset) -> None:
    for sample in range(0, len(jpeg_dataset.split("train")), 7):
        found, plain = (bytes(one.data("train", sample)) for one in (seekable, jpeg_dataset))
        np.testing.assert_array_equal(*(np.asarray(Image.open(io.BytesIO(one))) for one in (found, plain)))
        first, second = (torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in (found, plain))
        assert torch.equal(decode_jpeg(first), decode_jpeg(second))


def test_dalis_own_reader_opens_the_shards(seekable: Dataset, jpeg_dataset: Dataset) -> None:
    def decoded(dataset: Dataset) -> list[np.ndarray]:
        shard = dataset.shards[0]
        pipeline = Pipeline(batch_size=8, num_threads=1, device_id=None)
        with pipeline:
            files = fn.readers.webdataset(paths=str(shard), index_paths=str(shard.with_suffix(".idx")), ext=["jpg"])
            pipeline.set_outputs(fn.decoders.image(files, output_type=types.RGB))
        pipeline.build()
        (pixels,) = pipeline.run()
        return [np.array(pixels.at(i)) for i in range(8)]

    for found, expected in zip(decoded(seekable), decoded(jpeg_dataset), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_dataset_says_that_it_has_tables_and_new_images_get_them(tmp_path: Path, jpeg_dataset: Dataset) -> None:
    assert "seek_table" not in jpeg_dataset.about["options"]
    options = conversion()
    options = replace(options, encoding=replace(options.encoding, seek_table=True))
    out = convert(Pictures(counts=(12, 6)), options, tmp_path / "out", workers=1)
    with Growth(out, MAX_PIXELS, 0, 1) as growth:
        new = growth.new(Pictures(counts=(12, 9)))
        assert new is not None
        growth.add(new)
    dataset = Dataset(out)
    assert dataset.about["options"]["seek_table"] is True and verify(out).findings == 0
    for sample in range(len(dataset.split("train"))):
        found = bytes(dataset.data("train", sample))
        assert with_seek_table(found) == found and bytes(SIGNATURE) in found


def test_tables_are_for_jpeg_files_alone() -> None:
    pixels = picture(0, 90, 120)
    kinds = {"keep": jpeg(pixels), "jpeg": pixels}
    for kind, found in kinds.items():
        plain, table = (encode(found, Encoding(kind, seek_table=tables)).data for tables in (False, True))
        assert len(plain) < len(table) < 1.06 * len(plain)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert encode(buffer.getvalue(), Encoding(seek_table=True)).data == buffer.getvalue()
    with pytest.raises(UserError, match="seek_table=true needs JPEG files, encode=keep, jpeg or auto: encode=raw is"):
        Encoding("raw", seek_table=True)
