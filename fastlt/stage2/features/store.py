"""The feature store: pooled features of one representation, one group per split in an HDF5 file."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from fastlt.core.batches import Batches
from fastlt.core.errors import UserError
from fastlt.core.log import Progress, say
from fastlt.stage2.features.fill import UnfitFeature, fill
from fastlt.stage2.features.layout import Stored, create, stored
from fastlt.stage2.features.network import Network
from fastlt.stage2.features.part import Part

DTYPES = ("float32", "float16")


class FeatureStore:
    """Features of splits, keyed by the representation they come from; layout.py says how they lie in the file.

    Rows are in class order within a pass (labels never fall): class means then need no scattered writes. Train has
    `views` augmented passes behind the rows seen as at evaluation.

    dtype: of the stored features. float16 halves file and memory; every value is rounded to 11 significant bits: off by
    at most 2^-11 of itself, and by less than 6e-8 below 6.1e-5. Raises UserError on an unknown dtype and on views < 0.
    """

    def __init__(self, path: Path, key: str, dtype: str = "float32", views: int = 0):
        if dtype not in DTYPES:
            raise UserError(f"feature_dtype={dtype} is unknown: allowed are {', '.join(DTYPES)}")
        if views < 0:
            raise UserError(f"views={views}: it must be 0 or more")
        self.path, self.key, self.dtype, self.views = path, key, dtype, views
        self._part = path.with_name(path.name + ".part")

    def has(self, split: str) -> bool:
        """Whether all features of a split are stored, of this representation, in this dtype and with these views."""
        return split in self._complete()

    def read(self, split: str, views: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(features [N, D] in the stored dtype, labels int64 [N]), seen as at evaluation.

        views: all (1 + K) N rows, the augmented passes behind these. Raises UserError if the split is not stored.
        """
        if not self.has(split):
            raise UserError(
                f"{self.path} holds no {split} features of this representation in {self.dtype}, views={self.views}: "
                "delete it, and they are extracted anew"
            )
        with h5py.File(self.path, "r") as file:
            group = file[split]
            rows = len(group["labels"]) // (1 if views else 1 + self._views(split))  # type: ignore[index, arg-type]
            return group["features"][:rows], group["labels"][:rows]  # type: ignore[index, return-value]

    def write(
        self, loaders: Mapping[str, Batches], model: Network, precision: str = "fp32", views: Batches | None = None
    ) -> None:
        """Extracts and stores the splits of these loaders; what is stored already stays as it is.

        loaders: of evaluation form. views: needed where this store has views; epoch v of it is augmented pass v = 1..K
        of train, the same images in the same order. precision: fp32 or bf16. A write that was killed goes on behind the
        last rows it saved, and nothing is read before all are there. Features of another representation, dtype or
        number of views go.

        Raises UserError if a feature is not finite or beyond float16, keeping nothing of this write, and if the file
        cannot be written, keeping what was.
        """
        kept = self._complete()
        passes = {split: self._passes(split, loader, views) for split, loader in loaders.items() if split not in kept}
        if not passes:
            return
        length = int(model.classifier.in_features)  # type: ignore[arg-type]
        wanted = {
            split: Stored((len(of_split) * of_split[0].images, length), len(of_split) - 1, 0)
            for split, of_split in passes.items()
        }
        try:
            done = self._begin(wanted, kept)
            total = sum(split.shape[0] for split in wanted.values())
            with Part(self._part) as part, Progress("features", total, done=done) as progress:
                for split, of_split in passes.items():
                    fill(part, split, of_split, model, precision, self.dtype, progress)
            self._part.replace(self.path)
        except UnfitFeature:
            self._part.unlink()
            raise

    def _views(self, split: str) -> int:
        return self.views if split == "train" else 0

    def _passes(self, split: str, loader: Batches, views: Batches | None) -> list[Batches]:
        if not self._views(split):
            return [loader]
        assert views is not None, "a store with views needs the loader of views"
        return [loader] + [views] * self.views

    def _complete(self) -> list[str]:
        found = stored(self.path, self.key, self.dtype)
        return [name for name, split in found.items() if split.complete and split.views == self._views(name)]

    def _begin(self, wanted: Mapping[str, Stored], kept: list[str]) -> int:
        """Makes the file that is filled, or finds the one a killed write left; rows of `wanted` that are in it."""
        found = stored(self._part, self.key, self.dtype)
        same = all(name in found and found[name]._replace(position=0) == split for name, split in wanted.items())
        if same and all(split.complete or name in wanted for name, split in found.items()):
            done = sum(found[split].position for split in wanted)
            if done:
                say(f"features: going on behind the {done} images in {self._part}")
            return done
        self.path.parent.mkdir(parents=True, exist_ok=True)
        create(self._part, self.key, self.dtype, wanted, self.path, kept)
        return 0
