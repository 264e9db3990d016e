"""Finds near duplicates across splits: images of val and test that look like an image of an earlier split.

Every image has a `look`, a perceptual hash of 64 bits (see shards/look.py). Images whose hashes differ in few bits are
candidates, and their pixels are then compared.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fastlt.core.errors import UserError
from fastlt.core.log import Progress, say
from fastlt.core.words import agree, counted
from fastlt.data.convert.workers import Stored, Workers
from fastlt.data.shards.encode import BadImage, Encoding, decode
from fastlt.data.sources.base import Listing, Rearranged, Source

LISTED = 100  # pairs per split that dataset.json lists; the rest is only counted
_BITS = 4  # of 64, in which the hashes of candidates may differ
_BANDS = (0, 13, 26, 39, 52, 64)  # hashes that differ in at most 4 bits agree in one of these 5 ranges of bits
_PLAIN = 6  # a hash with fewer set bits, or fewer clear ones, is of a plain image: such hashes must be equal
_AT_ONCE = 1 << 22  # pairs of hashes compared at once
_TRIED = 3  # candidates whose pixels are compared with those of an image
_SIDE, _MEAN, _MOST = 16, 4.0, 40  # images are compared at 16 x 16 pixels; mean and largest difference, in levels


class Looks(NamedTuple):
    """The perceptual hashes of a split's images, uint64 [N], and their positions in the source, int64 [N]."""

    looks: np.ndarray
    places: np.ndarray


class Twin(NamedTuple):
    """A near duplicate: its position in its split, and the split and position of the image that it looks like."""

    place: int
    split: str
    other: int


def near_duplicates(source: Source, looks: dict[str, Looks]) -> dict[str, list[Twin]]:
    """Returns {split: its images that look like an image of a split before it}, for every split but the first.

    looks: {split: hashes}, in the order of the splits.

    Images with similar hashes are duplicates if their pixels, shrunk to 16 x 16, are nearly equal. This finds images
    that were scaled or compressed again, but not those that were cropped, mirrored or changed in colour.
    """
    names = list(looks)
    found: dict[str, list[Twin]] = {}
    for number, split in enumerate(names[1:], 1):
        twins: dict[int, Twin] = {}
        for earlier in names[:number]:
            for place, other in _candidates(looks[split], looks[earlier]):
                if place not in twins and _alike(source, (split, place), (earlier, other)):
                    twins[place] = Twin(place, earlier, other)
        found[split] = [twins[place] for place in sorted(twins)]
    return found


def _candidates(own: Looks, others: Looks) -> Iterator[tuple[int, int]]:
    """Yields (position, position in the other split) of images with similar hashes: at most _TRIED per image, the most
    similar first."""
    unique, count = np.unique(others.looks, return_counts=True)
    order = np.argsort(others.looks, kind="stable")
    starts = np.cumsum(count) - count
    looks, inverse = np.unique(own.looks, return_inverse=True)
    near: dict[int, list[int]] = {}
    for one, other in close_pairs(looks, unique).tolist():
        near.setdefault(one, []).append(other)
    for place, one in zip(own.places.tolist(), inverse.tolist(), strict=True):
        rows = (order[starts[other] + k] for other in near.get(one, ()) for k in range(min(count[other], _TRIED)))
        yield from ((place, int(others.places[row])) for row in itertools.islice(rows, _TRIED))


def close_pairs(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns rows (i, j), int64 [K, 2], for which the hashes looks[i] and others[j] are similar.

    looks, others: uint64, without repetitions. For each i the most similar j comes first.
    """
    found = [_equal(looks, others)]
    own, their = (np.flatnonzero(_telling(one)) for one in (looks, others))
    for low, high in itertools.pairwise(_BANDS):
        mask = np.uint64((1 << (high - low)) - 1)
        mine, theirs = ((one >> np.uint64(low)) & mask for one in (looks[own], others[their]))
        by_band = np.argsort(theirs, kind="stable")
        start, end = (np.searchsorted(theirs[by_band], mine, side) for side in ("left", "right"))
        for first, last in _parts(end - start):
            count = (end - start)[first:last]
            row = np.repeat(np.arange(first, last), count)
            skipped = start[first:last] - (np.cumsum(count) - count)
            column = np.arange(count.sum()) + np.repeat(skipped, count)
            pair = np.stack([own[row], their[by_band[column]]], axis=1)
            found.append(pair[np.bitwise_count(looks[pair[:, 0]] ^ others[pair[:, 1]]) <= _BITS])
    pairs = np.unique(np.concatenate(found), axis=0)
    distance = np.bitwise_count(looks[pairs[:, 0]] ^ others[pairs[:, 1]])
    return pairs[np.lexsort((pairs[:, 1], distance, pairs[:, 0]))]


def _equal(looks: np.ndarray, others: np.ndarray) -> np.ndarray:
    _, own, their = np.intersect1d(looks, others, assume_unique=True, return_indices=True)
    return np.stack([own, their], axis=1)


def _telling(looks: np.ndarray) -> np.ndarray:
    bits = np.bitwise_count(looks)
    return (bits >= _PLAIN) & (bits <= 64 - _PLAIN)


def _parts(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields the bounds (first, last) of parts whose counts add up to about _AT_ONCE."""
    part = np.cumsum(counts) // _AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    return ((first, last) for first, last in itertools.pairwise(edges) if last > first)


def _alike(source: Source, one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Returns whether the pixels of two images, given as (split, position), are nearly equal."""
    try:
        difference = np.abs(_small(source, *one) - _small(source, *other))
    except (BadImage, OSError):  # the file was removed or changed since it was read
        return False
    return bool(difference.mean() <= _MEAN and difference.max() <= _MOST)


def _small(source: Source, split: str, place: int) -> np.ndarray:
    found = source.load(split, place)
    pixels = found if isinstance(found, np.ndarray) else decode(found, Encoding())
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.int16)


def listed(source: Source, found: dict[str, list[Twin]]) -> dict[str, Any]:
    """Returns near duplicates in the form of dataset.json: for each split their number, and the keys of the first."""
    keys = {split: listing.keys for split, listing in source.splits.items()}
    return {
        split: {
            "images": len(twins),
            "first": [
                {"key": keys[split][twin.place], "split": twin.split, "of": keys[twin.split][twin.other]}
                for twin in twins[:LISTED]
            ],
        }
        for split, twins in found.items()
        if twins
    }


def say_duplicates(about: dict[str, Any]) -> None:
    """Prints a line for every split that has near duplicates of earlier splits. about: as `listed` returns it."""
    for split, row in about.items():
        one = row["first"][0]
        say(
            f"note: {counted(row['images'], 'image')} of {split} {agree(row['images'], 'looks', 'look')} like images "
            f"of earlier splits, such as {one['key']} like "
            f"{one['of']} of {one['split']}; drop_duplicates=true leaves them out"
        )


@dataclass(frozen=True)
class Without(Rearranged):
    """A source without the images of val and test that look like one of an earlier split. dropped: their number."""

    source: Source
    duplicates: dict[str, list[Twin]] = field(repr=False, hash=False)
    dropped: int = 0
    splits: dict[str, Listing] = field(init=False, compare=False, repr=False)
    _rows: dict[str, np.ndarray] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        rows, splits = {}, {}
        for split, listing in self.source.splits.items():
            twins = [twin.place for twin in self.duplicates.get(split, [])]
            rows[split] = np.delete(np.arange(len(listing.keys)), twins)
            if not len(rows[split]):
                raise UserError(f"drop_duplicates=true leaves no image of {split}: all look like others")
            splits[split] = Listing([listing.keys[row] for row in rows[split].tolist()], listing.labels[rows[split]])
        dropped = sum(map(len, self.duplicates.values()))
        for attribute, value in (("dropped", dropped), ("splits", splits), ("_rows", rows)):
            object.__setattr__(self, attribute, value)

    def origin(self, split: str, index: int) -> tuple[str, int]:
        """Returns (split, position) of a sample in the source it was taken from."""
        return split, int(self._rows[split][index])


def without_duplicates(source: Source, encoding: Encoding, workers: int) -> Source:
    """Returns the source without near duplicates across splits, for which it decodes every image once.

    encoding: how images are decoded. workers: the number of worker processes.
    """
    looks = {}
    with Workers(source, encoding, workers) as pool:
        for split, listing in source.splits.items():
            rows = []
            with Progress(f"looking at {split}", len(listing.keys)) as progress:
                for place, result in enumerate(pool.results(split, np.zeros(len(listing.keys), bool), 0)):
                    if isinstance(result, Stored):
                        rows.append((result.image.look, place))
                    progress.advance(1, "")
            looks[split] = Looks(
                np.array([look for look, _ in rows], np.uint64), np.array([place for _, place in rows], np.int64)
            )
    found = near_duplicates(source, looks)
    for split, twins in found.items():
        say(
            f"drop_duplicates=true leaves out {counted(len(twins), 'image')} of {split} that "
            f"{agree(len(twins), 'looks', 'look')} like images of earlier splits"
        )
    return Without(source, found) if any(found.values()) else source
