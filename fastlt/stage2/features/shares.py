"""Shares out the extraction of features to the ranks of a training: every rank extracts, rank 0 writes."""

from collections.abc import Iterator, Mapping

import numpy as np

from fastlt.core.batches import Batches
from fastlt.core.ranks import Ranks
from fastlt.stage2.features.extract import Rows, extract
from fastlt.stage2.features.network import Network


class Shares:
    """The shares of all ranks in the images of every split.

    ranks: of the training.
    loaders: by split, a loader of this rank's share: of the N positions of an epoch, rank r of W takes r, r + W, ...
    augmented: the same for augmented images of train; None if there are no augmented passes.

    Rank 0 calls `rows` for each pass and `end` after the last one, while every other rank is in `help`.
    """

    def __init__(self, ranks: Ranks, loaders: Mapping[str, Batches], augmented: Batches | None = None):
        self.ranks, self._loaders, self._augmented = ranks, loaders, augmented

    def rows(
        self, split: str, alone: Batches, model: Network, precision: str, number: int, position: int
    ) -> Iterator[Rows]:
        """Yields the rows of a pass in the order of its positions, on rank 0.

        alone: a loader of all images of the pass, for those that cannot be shared out evenly. number: of the pass; 0 is
        that with the evaluation transform. position: how many rows are there already.
        """
        shared = self._shared(split, number, position)
        self.ranks.tell((split, number, position))
        if shared > position:
            for rows in extract(model, self._loader(split, number), precision, number, position):
                columns = [self.ranks.gather(column) for column in rows]
                yield Rows(*(np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]) for parts in columns))
        if shared < alone.images:
            yield from extract(model, alone, precision, number, shared)

    def help(self, model: Network, precision: str) -> None:
        """Extracts this rank's share of every pass that rank 0 asks for, and returns at the `end`."""
        while (asked := self.ranks.tell(None)) is not None:
            split, number, position = asked
            if self._shared(split, number, position) > position:
                for rows in extract(model, self._loader(split, number), precision, number, position):
                    for column in rows:
                        self.ranks.gather(column)

    def end(self) -> None:
        """Ends `help` on the other ranks."""
        self.ranks.tell(None)

    def _loader(self, split: str, number: int) -> Batches:
        loader = self._augmented if number else self._loaders[split]
        assert loader is not None, "augmented passes need a loader for them"
        return loader

    def _shared(self, split: str, number: int, position: int) -> int:
        """Returns up to which position the ranks share a pass; from there on rank 0 is alone.

        That is `position` itself if an earlier extraction ended at one that is no multiple of the number of ranks.
        """
        if position % self.ranks.world:
            return position
        return max(position, self._loader(split, number).images * self.ranks.world)
