"""The datasets that the loader's benchmark reads: all of them the same photographs, each listed `copies` times."""

import functools
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fastlt.bench.images import Files
from fastlt.core.log import say
from fastlt.data.convert import Conversion, convert
from fastlt.data.convert.storage import draws_served, raw_choice
from fastlt.data.shards import format as layout
from fastlt.data.shards.encode import Encoding
from fastlt.data.shards.reader import Dataset
from fastlt.data.shards.writer import write_description
from fastlt.data.sources.long_tail import pareto_counts

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SHARDS_PER_THREAD = 4  # WebDataset deals out whole shards: enough of them that all workers get the same
RAW_FRACTION = 0.2
# Places-LT: its largest and smallest class and the exponent of its law; the long tail here has that shape.
LARGEST, IMBALANCE, ALPHA = 4980, 996, 1.34
IMAGES_PER_CLASS = 50
MOST_CLASSES = 9000  # of a simulated index


def equal_mix(files: int, copies: int) -> np.ndarray:
    """Labels of `copies` listings of all files, one after the other: int64 [files * copies].

    There are half as many classes as listings: one listing is each class but the first, which has all the others. So
    classes differ in size and every class holds every file equally often: whatever the law, an epoch draws the same
    images, and only their order is another.
    """
    classes = max(1, copies // 2)
    return np.repeat(np.maximum(np.arange(copies) - (copies - classes), 0), files)


def long_tail(images: int) -> np.ndarray:
    """Labels with the shape of Places-LT, 50 images a class on average: int64 [images], sorted."""
    classes = max(1, images // IMAGES_PER_CLASS)
    shape = pareto_counts(classes, LARGEST, IMBALANCE, ALPHA)
    counts = np.maximum(1, shape * images // shape.sum())
    counts[0] += images - counts.sum()
    return np.repeat(np.arange(classes), counts)


@dataclass(eq=False)
class Data:
    """Datasets in the folder `scratch`, each converted when it is first asked for.

    files: the photographs. copies: how often each is listed. threads: workers of a conversion, and of loaders.
    """

    scratch: Path
    files: list[Path]
    copies: int
    threads: int

    @property
    def paths(self) -> list[Path]:
        """The listing: all files, `copies` times over."""
        return self.files * self.copies

    @cached_property
    def jpeg(self) -> Dataset:
        """Bytes as found, labels of `equal_mix`."""
        return self._convert("jpeg", self._mixed, "keep")

    @cached_property
    def jpeg_q90(self) -> Dataset:
        """Encoded again at quality 90, the same labels."""
        return self._convert("jpeg_q90", self._mixed, "jpeg")

    @cached_property
    def raw(self) -> Dataset:
        """The same as pixels."""
        return self._convert("raw", self._mixed, "raw")

    @cached_property
    def auto(self) -> Dataset:
        """Long-tailed; the fifth of the images that class-balanced sampling draws most often is raw."""
        labels = self._long_tailed.splits["train"].labels
        served = draws_served(labels, raw_choice(labels, RAW_FRACTION), "class")
        say(f"auto: {RAW_FRACTION:.0%} of the images are raw and serve {served:.0%} of class-balanced draws")
        return self._convert("auto", self._long_tailed, "keep", RAW_FRACTION)

    @cached_property
    def auto_jpeg(self) -> Dataset:
        """The same long tail, bytes as found."""
        return self._convert("auto_jpeg", self._long_tailed, "keep")

    def cold(self, dataset: Dataset) -> Dataset:
        """A copy with shards of its own: pages that another loader has mapped stay in the page cache."""
        copy = self.scratch / f"{dataset.root.name}_cold"
        shutil.copytree(dataset.root, copy)
        os.sync()  # what is not on the disk yet cannot be dropped from the cache
        return Dataset(copy)

    @functools.cache  # noqa: B019 - lives as long as the benchmark
    def indexed(self, samples: int) -> Dataset:
        """The shards of `jpeg` behind an index of `samples` rows, that go through the files again and again.

        Every class holds every file about equally often, as in `equal_mix`.
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
        # Shuffled, so that how large an image is says nothing about how large its class is.
        shuffled = np.random.default_rng(0).permutation(len(self.paths))
        return Files([self.paths[place] for place in shuffled.tolist()], long_tail(len(self.paths)))

    def _convert(self, name: str, source: Files, encode: str, raw_fraction: float = 0.0) -> Dataset:
        size = sum(path.stat().st_size for path in source.paths)
        shard_mb = max(1, round(size / 1e6 / (SHARDS_PER_THREAD * self.threads)))
        options = Conversion(name, MEAN, STD, "demo", Encoding(encode), shard_mb, raw_fraction)
        return Dataset(convert(source, options, self.scratch / name, self.threads))
