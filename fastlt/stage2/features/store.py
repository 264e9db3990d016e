"""The feature store: an HDF5 file with the pooled features of one representation, one group for each split."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fastlt.core.batches import Batches
from fastlt.core.errors import UserError
from fastlt.core.files import sync, writing
from fastlt.core.log import Progress, say
from fastlt.core.words import counted
from fastlt.stage2.features.earlier import Earlier
from fastlt.stage2.features.fill import UnfitFeature, fill
from fastlt.stage2.features.layout import (
    AGAIN,
    Damaged,
    Stored,
    create,
    damage,
    damage_of_the_rest,
    described,
    opened,
    read_page,
)
from fastlt.stage2.features.network import Network
from fastlt.stage2.features.part import Part
from fastlt.stage2.features.shares import Shares

DTYPES = ("float32", "float16")
NOTHING: Mapping[str, Earlier] = {}


class FeatureStore:
    """The features of the splits of one representation in a file; layout.py describes the file.

    path: the file. key: of the representation; features with another key are not read, and are replaced by `write`.
    dtype: of the stored features, float32 or float16. float16 halves file and memory. It rounds every value to 11
        significant bits, with an error of at most 2^-11 of the value, or less than 6e-8 for values below 6.1e-5.
    passes: number of augmented passes over train, whose rows follow those with the evaluation transform.

    Within a pass, rows are sorted by class, so that class means can be computed without scattered writes.

    Raises UserError for an unknown dtype or a negative number of passes.

    Example:

        store = FeatureStore(run.folder / "features.h5", run.results.key)
        x, labels = store.read("test")
    """

    def __init__(self, path: Path, key: str, dtype: str = "float32", passes: int = 0):
        if dtype not in DTYPES:
            raise UserError(f"feature_dtype={dtype} is unknown: allowed are {', '.join(DTYPES)}")
        if passes < 0:
            raise UserError(f"augmented_passes={passes}: it must be 0 or more")
        self.path, self.key, self.dtype, self.passes = path, key, dtype, passes
        self._part = path.with_name(path.name + ".part")
        # By path: the state (inode, size, time) of the file that was checked, and its undamaged splits.
        self._checked: dict[Path, tuple[tuple[int, ...], dict[str, Stored]]] = {}

    def has(self, split: str) -> bool:
        """Returns whether all features of a split are stored, with this key, dtype and number of augmented passes."""
        return split in self._complete()

    def read(self, split: str, augmented: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features of a split, [N, D] in the stored dtype, and its labels, int64 [N].

        augmented: return all (1 + K) N rows, with the K augmented passes after those with the evaluation transform.

        The features are memory-mapped copy-on-write: pages are read from the file when they are used and can be dropped
        when memory is short, and changes to the array do not change the file.

        Raises UserError if the split is not stored.
        """
        if not self.has(split):
            raise UserError(
                f"{self.path} holds no {split} features of this representation in {self.dtype}, "
                f"augmented_passes={self.passes}: delete it, and they are extracted anew"
            )
        one = self._found(self.path)[split]
        rows = one.shape[0] // (1 if augmented else 1 + self._passes_of(split))
        with opened(self.path) as file:
            file.seek(one.offsets[1])
            labels = np.fromfile(file, np.int64, rows)
            if not rows:  # an empty array cannot be memory-mapped
                return np.empty((0, one.shape[1]), self.dtype), labels
            return np.memmap(file, self.dtype, "c", one.offsets[0], (rows, one.shape[1])), labels

    def stored(self, split: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the features of a split with the evaluation transform, [N, D], and its sample ids, int64 [N].

        None if they are not stored, all of them, with this key and dtype. The number of augmented passes may be any.
        """
        one = self._found(self.path).get(split)
        if one is None or not one.complete or not one.shape[0]:
            return None
        rows = one.shape[0] // (1 + one.passes)
        with opened(self.path) as file:
            file.seek(one.offsets[2])
            ids = np.fromfile(file, np.int64, rows)
            return np.memmap(file, self.dtype, "c", one.offsets[0], (rows, one.shape[1])), ids

    def write(
        self,
        loaders: Mapping[str, Batches | None],
        model: Network,
        precision: str = "fp32",
        augmented: Batches | None = None,
        shares: Shares | None = None,
        earlier: Mapping[str, Earlier] = NOTHING,
    ) -> None:
        """Extracts and stores the features of those splits of `loaders` that are not stored yet.

        loaders: by split, a loader of its images with the evaluation transform.
        model: extracts the features. precision: fp32 or bf16.
        augmented: loader of the augmented images of train, needed if this store has augmented passes; its epochs
            v = 1..K are the passes, with the same images in the same order.
        shares: what the other ranks of a training extract, all of which are in `Shares.help` then; None in a process
            alone.
        earlier: by split, features that some images have already. The loader of such a split is of the others alone,
            or None if there are none. Not for a split with augmented passes.

        A write that was killed resumes after the last rows that it saved, and nothing can be read before all rows are
        written. Features of another representation, dtype or number of augmented passes are removed.

        Raises UserError if a feature is not finite or is too large for float16; nothing of this write is kept then.
        Raises UserError if the file cannot be written; what was stored before is kept then.
        """
        kept = self._complete()
        passes = {
            split: self._passes(split, loader, augmented) for split, loader in loaders.items() if split not in kept
        }
        if not passes:
            return
        length = int(model.classifier.in_features)  # type: ignore[arg-type]
        wanted = {
            split: Stored((len(earlier[split].ids), length), 0)
            if split in earlier
            else Stored((len(of_split) * of_split[0].images, length), len(of_split) - 1)
            for split, of_split in passes.items()
        }
        try:
            done = self._begin(wanted, kept)
            total = sum(split.shape[0] for split in wanted.values())
            with Part(self._part) as part, Progress("features", total, done=done) as progress:
                for split, of_split in passes.items():
                    fill(part, split, of_split, model, precision, self.dtype, progress, shares, earlier.get(split))
            with writing(self.path, again=AGAIN):
                self._part.replace(self.path)
                sync(self.path.parent)
        except UnfitFeature:
            self._part.unlink()
            raise

    def _passes_of(self, split: str) -> int:
        return self.passes if split == "train" else 0

    def _passes(self, split: str, loader: Batches | None, augmented: Batches | None) -> list[Batches]:
        if loader is None:
            return []
        if not self._passes_of(split):
            return [loader]
        assert augmented is not None, "a store with augmented passes needs a loader for them"
        return [loader] + [augmented] * self.passes

    def _complete(self) -> dict[str, Stored]:
        """Returns the stored splits that are complete and have the right number of augmented passes."""
        found = self._found(self.path)
        return {name: one for name, one in found.items() if one.complete and one.passes == self._passes_of(name)}

    def _begin(self, wanted: Mapping[str, Stored], kept: Mapping[str, Stored]) -> int:
        """Creates the file that is to be filled, or finds the one that a killed write left.

        Returns the number of rows of `wanted` that are already in it. kept: splits that are copied from the old file.
        """
        found = self._found(self._part)
        same = all(name in found and found[name].same(split) for name, split in wanted.items())
        if same and all(split.complete or name in wanted for name, split in found.items()):
            done = sum(found[split].position for split in wanted)
            if done:
                say(f"features: going on after the {counted(done, 'image')} in {self._part}")
            return done
        create(self._part, self.key, self.dtype, wanted, self.path, kept)
        return 0

    def _found(self, path: Path) -> dict[str, Stored]:
        """Returns the undamaged splits in a file of this representation and dtype, and logs any damage.

        A file is checked once, and again if it has changed since.
        """
        try:
            with opened(path) as file:
                known = os.fstat(file.fileno())
                state = known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns
                if path not in self._checked or self._checked[path][0] != state:
                    self._checked[path] = state, self._whole(path, file)
                return self._checked[path][1]
        except FileNotFoundError:
            return {}
        except (Damaged, OSError) as error:
            say(f"{path} cannot be used ({described(error)}): features are extracted anew")
            return {}

    def _whole(self, path: Path, file: BinaryIO) -> dict[str, Stored]:
        page = read_page(file)
        if (page.key, page.dtype) != (self.key, self.dtype):
            return {}
        if problem := damage_of_the_rest(file, page):
            raise Damaged(problem)
        damaged = {split: damage(file, page, split) for split in page.splits}
        for problem in filter(None, damaged.values()):
            say(f"{path} is damaged ({problem}): they are extracted anew")
        return {split: one for split, one in page.splits.items() if not damaged[split]}
