"""The images that benchmarks work on: files in a folder, or a selection of the images of a converted dataset."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastlt.core.errors import UserError
from fastlt.data.shards.format import DATASET_FILE, EXTENSIONS, RAW
from fastlt.data.shards.reader import Dataset
from fastlt.data.sources.base import Listing

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Files:
    """Image files as a source for conversions.

    paths: may contain a file more than once. labels: int64 [N]; by default all images are of one class.
    """

    paths: list[Path]
    labels: np.ndarray | None = None
    name: str = "files"
    class_names: list[str] = field(init=False)
    splits: dict[str, Listing] = field(init=False)

    def __post_init__(self) -> None:
        labels = np.zeros(len(self.paths), np.int64) if self.labels is None else self.labels
        object.__setattr__(self, "class_names", [str(j) for j in range(int(labels.max()) + 1)])
        object.__setattr__(self, "splits", {"train": Listing([str(i) for i in range(len(self.paths))], labels)})

    def load(self, split: str, index: int) -> bytes:
        """Returns the bytes of a file."""
        return self.paths[index].read_bytes()

    def where(self, split: str, index: int) -> Path:
        """Returns the path of a file."""
        return self.paths[index]


def find_images(images: str | None) -> list[Path]:
    """Returns the image files in a folder and its subfolders, sorted. Raises UserError if there are none."""
    found = Path(images).rglob("*") if images else ()
    paths = sorted(path for path in found if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"images={images}: no .jpg, .jpeg or .png file there; give a folder of photographs")
    return paths


def take_images(images: str | None, most: int, scratch: Path) -> list[Path]:
    """Returns at most `most` image files, spread evenly over those of a folder or over the train images of a dataset.

    Images of a dataset, except raw ones, are written into `scratch` as files, because other libraries read files.
    Raises UserError if there are none.
    """
    if images and (Path(images) / DATASET_FILE).exists():
        return _extract(Dataset(images), most, scratch)
    return _spread(find_images(images), most)


def _extract(dataset: Dataset, most: int, scratch: Path) -> list[Path]:
    encoding = dataset.split("train").encoding
    encoded = np.flatnonzero(encoding != RAW).tolist()
    if not encoded:
        raise UserError(f"images={dataset.root}: a dataset of raw pixels; give one that holds JPEG or PNG, or a folder")
    scratch.mkdir(parents=True)
    paths = []
    for sample in _spread(encoded, most):
        path = scratch / f"{sample:09d}.{EXTENSIONS[encoding[sample]]}"
        path.write_bytes(dataset.data("train", sample).tobytes())
        paths.append(path)
    return paths


def _spread(items: list, most: int) -> list:
    """Returns at most `most` of the items, evenly spaced from the first to the last."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places.tolist()]
