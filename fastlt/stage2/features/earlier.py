"""Features of images that were extracted before their dataset grew, so that only those of new images are extracted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from fastlt.stage2.features.extract import Rows

AT_ONCE = 4096  # rows that are copied at once


@dataclass(frozen=True)
class Earlier:
    """The images of a split in the order in which their features are stored, and features that some of them have.

    ids, labels: sample ids and class indices, int64 [N].
    x: stored features [M, D]. rows: the row of each image in `x`, int64 [N]; -1 for an image that has none yet.
    """

    ids: np.ndarray
    labels: np.ndarray
    x: np.ndarray
    rows: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """The sample ids of the images without features, int64 [K], in order."""
        return self.ids[self.rows < 0]

    def missing_before(self, position: int) -> int:
        """Returns how many of the first `position` images have no features."""
        return int((self.rows[:position] < 0).sum())

    def merged(self, extracted: Iterable[Rows], position: int) -> Iterator[Rows]:
        """Yields the features of all images from `position` on, in order.

        extracted: features of the missing images after that position, in order.
        """
        gaps = np.flatnonzero(self.rows[position:] < 0) + position
        used = 0
        for batch in extracted:
            here = gaps[used : used + len(batch.ids)]
            used += len(here)
            end = int(here[-1]) + 1
            features = dict(zip(here.tolist(), range(len(here)), strict=True))
            for first in range(position, end, AT_ONCE):
                rows = self._stored(first, min(first + AT_ONCE, end))
                for place in here[(here >= first) & (here < first + AT_ONCE)].tolist():
                    rows.features[place - first] = batch.features[features[place]]
                    rows.ids[place - first] = batch.ids[features[place]]
                yield rows
            position = end
        for first in range(position, len(self.ids), AT_ONCE):
            yield self._stored(first, min(first + AT_ONCE, len(self.ids)))

    def _stored(self, first: int, end: int) -> Rows:
        """Returns the rows of some images, with zeros for features that are missing."""
        rows = self.rows[first:end]
        features = np.zeros((end - first, self.x.shape[1]), self.x.dtype)
        features[rows >= 0] = self.x[rows[rows >= 0]]
        return Rows(features, self.labels[first:end].copy(), self.ids[first:end].copy())
