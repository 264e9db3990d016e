"""The datasets that the loader benchmark reads. All have the same photographs, each listed `copies` times."""

import functools
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from fastlt.bench.images import Files
from fastlt.core.log import say
from fastlt.data.convert import Conversion, convert
from fastlt.data.convert.storage import draws_served, raw_choice
from fastlt.data.shards import format as layout
from fastlt.data.shards.content import write_description
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.long_tail import pareto_counts

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of ImageNet
SHARDS_PER_THREAD = 4  # WebDataset gives whole shards to workers; with this many all workers get equally many
RAW_FRACTION = 0.2
# Places-LT's largest class, imbalance and exponent of its Pareto law. The long tail here has the same shape.
LARGEST, IMBALANCE, ALPHA = 4980, 996, 1.34
SMALL_SIZE = 32  # pixels of a side, as in CIFAR
IMAGES_PER_CLASS = 50
MOST_CLASSES = 9000  # in a simulated index


def equal_mix(files: int, copies: int) -> np.ndarray:
    """Returns labels for all files, listed `copies` times one after the other: int64 [files * copies].

    There are half as many classes as listings. Each class but the first has one listing, and the first has all others.
    Classes therefore differ in size, but each has every file equally often, so that with any sampler an epoch draws the
    same images in another order.
    """
    classes = max(1, copies // 2)
    return np.repeat(np.maximum(np.arange(copies) - (copies - classes), 0), files)


def long_tail(images: int) -> np.ndarray:
    """Returns sorted labels with the class sizes of Places-LT in shape, 50 images per class on average: int64 [N]."""
    classes = max(1, images // IMAGES_PER_CLASS)
    shape = pareto_counts(classes, LARGEST, IMBALANCE, ALPHA)
    counts = np.maximum(1, shape * images // shape.sum())
    counts[0] += images - counts.sum()
    return np.repeat(np.arange(classes), counts)


@dataclass(eq=False)
class Data:
    """The datasets, each converted into the folder `scratch` when it is first used.

    files: the photographs. copies: how often each is listed. threads: the workers of conversions and loaders.
    """

    scratch: Path
    files: list[Path]
    copies: int
    threads: int

    @property
    def paths(self) -> list[Path]:
        """All files, `copies` times."""
        return self.files * self.copies

    @cached_property
    def jpeg(self) -> Dataset:
        """Unchanged bytes, labels from `equal_mix`."""
        return self._convert("jpeg", self._mixed, "keep")

    @cached_property
    def seek(self) -> Dataset:
        """The same bytes with seek tables, the same labels."""
        return self._convert("seek", self._mixed, "keep", seek_table=True)

    @cached_property
    def q90_seek(self) -> Dataset:
        """Re-encoded with quality 90, with seek tables, the same labels."""
        return self._convert("q90_seek", self._mixed, "jpeg", seek_table=True)

    @cached_property
    def jpeg_q90(self) -> Dataset:
        """Re-encoded with quality 90, the same labels."""
        return self._convert("jpeg_q90", self._mixed, "jpeg")

    @cached_property
    def raw(self) -> Dataset:
        """Raw pixels, the same labels."""
        return self._convert("raw", self._mixed, "raw")

    @cached_property
    def auto(self) -> Dataset:
        """Long-tailed; the fifth of the images that class-balanced sampling draws most often is stored raw."""
        labels = self._long_tailed.splits["train"].labels
        served = draws_served(labels, raw_choice(labels, RAW_FRACTION), "class")
        say(f"auto: {RAW_FRACTION:.0%} of the images are raw and serve {served:.0%} of class-balanced draws")
        return self._convert("auto", self._long_tailed, "keep", RAW_FRACTION)

    @cached_property
    def auto_jpeg(self) -> Dataset:
        """The same long tail, all images with unchanged bytes."""
        return self._convert("auto_jpeg", self._long_tailed, "keep")

    @cached_property
    def small(self) -> Dataset:
        """The photographs as raw images of 32 x 32 pixels, the same labels."""
        folder = self.scratch / "small_files"
        folder.mkdir()
        paths = [folder / f"{number}.png" for number in range(len(self.files))]
        for path, source in zip(paths, self.files, strict=True):
            with Image.open(source) as image:
                image.convert("RGB").resize((SMALL_SIZE, SMALL_SIZE), Image.Resampling.BILINEAR).save(path)
        return self._convert("small", Files(paths * self.copies, equal_mix(len(paths), self.copies)), "raw")

    @cached_property
    def small_array(self) -> Path:
        """The path of a .npy file with the images of `small`: uint8 [images, 32, 32, 3]."""
        path = self.scratch / "small.npy"
        ids = np.arange(len(self.small.split("train")))
        np.save(path, self.small.pixels_together("train", ids))
        return path

    def cold(self, dataset: Dataset) -> Dataset:
        """Copies a dataset. The original's shards could not be dropped from the page cache while a loader maps them."""
        copy = self.scratch / f"{dataset.root.name}_cold"
        shutil.copytree(dataset.root, copy)
        os.sync()  # pages that are not on disk yet cannot be dropped from the cache
        return Dataset(copy)

    @functools.cache  # noqa: B019 - lives as long as the benchmark
    def indexed(self, samples: int) -> Dataset:
        """Makes a dataset with the shards of `jpeg` and an index of `samples` rows, which repeat the files in turn.

        Every class has every file about equally often, as in `equal_mix`.
        """
        rounds = np.arange(samples) // len(self.files)
        classes = max(1, min(samples // len(self.files), MOST_CLASSES))
        source = self.jpeg.split("train")
        columns = {name: np.resize(getattr(source, name)[: len(self.files)], samples) for name in layout.COLUMNS}
        columns["label"] = np.minimum(rounds, classes - 1).astype(layout.COLUMNS["label"])
        columns["key"] = np.zeros(samples, "S1")
        root = self.scratch / f"index_{samples}"
        root.mkdir()
        for shard in self.jpeg.shards:
            (root / shard.name).symlink_to(shard)
        counts = np.bincount(columns["label"], minlength=classes).tolist()
        summary = {"samples": samples, "counts": counts, "encodings": self.jpeg.about["splits"]["train"]["encodings"]}
        about = {**self.jpeg.about, "class_names": [str(j) for j in range(classes)], "splits": {"train": summary}}
        write_description(root, about, {"train": columns})
        return Dataset(root)

    @cached_property
    def _mixed(self) -> Files:
        return Files(self.paths, equal_mix(len(self.files), self.copies))

    @cached_property
    def _long_tailed(self) -> Files:
        # Shuffled, so that the sizes of images and of their classes are independent.
        shuffled = np.random.default_rng(0).permutation(len(self.paths))
        return Files([self.paths[place] for place in shuffled.tolist()], long_tail(len(self.paths)))

    def _convert(
        self, name: str, source: Files, encode: str, raw_fraction: float = 0.0, seek_table: bool = False
    ) -> Dataset:
        size = sum(path.stat().st_size for path in source.paths)
        shard_mb = max(1, round(size / 1e6 / (SHARDS_PER_THREAD * self.threads)))
        encoding = Encoding(encode, seek_table=seek_table)
        options = Conversion(name, MEAN, STD, "demo", encoding, shard_mb, raw_fraction)
        return Dataset(convert(source, options, self.scratch / name, self.threads))
