"""Finds near duplicates across splits: images of val and test that look like an image of an earlier split.

Every image has a `look`, a perceptual hash of 64 bits (see shards/look.py). Images whose hashes differ in few bits are
candidates, and their pixels are then compared.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
_CROWD = 1000  # hashes that agree in a range of bits, of which a hash is compared with the nearest
_TRIED = 3  # candidates whose pixels are compared with those of an image
_KEPT = 1 << 12  # images at 16 x 16 pixels that are kept in case they are compared again
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


def near_duplicates(source: Source, looks: dict[str, Looks], encoding: Encoding) -> dict[str, list[Twin]]:
    """Returns {split: its images that look like an image of a split before it}, for every split but the first.

    looks: {split: hashes}, in the order of the splits. encoding: how images are decoded.

    Images with similar hashes are duplicates if their pixels, shrunk to 16 x 16, are nearly equal. This finds images
    that were scaled or compressed again, but not those that were cropped, mirrored or changed in colour.

    Time and memory are bounded for each image (see `close_pairs`); a line says how many images that concerns.
    """
    small = functools.lru_cache(_KEPT)(functools.partial(_small, source, _pixels_only(encoding)))
    names = list(looks)
    found: dict[str, list[Twin]] = {}
    for number, split in enumerate(names[1:], 1):
        twins: dict[int, Twin] = {}
        for earlier in names[:number]:
            with Progress(f"comparing {split} with {earlier}", len(looks[split].looks)) as progress:
                for place, others in _candidates(looks[split], looks[earlier], (split, earlier)):
                    alike = (other for other in others if _alike(small, (split, place), (earlier, other)))
                    if place not in twins and (other := next(alike, None)) is not None:
                        twins[place] = Twin(place, earlier, other)
                    progress.advance(1, "")
        found[split] = [twins[place] for place in sorted(twins)]
    return found


def _candidates(own: Looks, others: Looks, names: tuple[str, str]) -> Iterator[tuple[int, list[int]]]:
    """Yields (position, positions in the other split of images with similar hashes) for every image: at most _TRIED,
    the most similar first. names: of the splits, for the message."""
    unique, count = np.unique(others.looks, return_counts=True)
    order = np.argsort(others.looks, kind="stable")
    starts = np.cumsum(count) - count
    looks, inverse, own_count = np.unique(own.looks, return_inverse=True, return_counts=True)
    images = np.split(own.places[np.argsort(inverse, kind="stable")], np.cumsum(own_count)[:-1])
    crowded = 0
    for part in close_pairs(looks, unique):
        near: dict[int, list[int]] = {}
        for one, other in part.pairs.tolist():
            near.setdefault(one, []).append(other)
        for one in part.rows.tolist():
            rows = (order[starts[other] + k] for other in near.get(one, ()) for k in range(min(count[other], _TRIED)))
            found = [int(others.places[row]) for row in itertools.islice(rows, _TRIED)]
            for place in images[one].tolist():
                yield place, found
        crowded += own_count[part.crowded].sum()
    if crowded:
        say(
            f"note: {counted(crowded, 'image')} of {names[0]} {agree(crowded, 'is', 'are')} roughly like more than "
            f"{_CROWD:,} images of {names[1]}: near duplicates were looked for among the nearest of these"
        )


class Similar(NamedTuple):
    """Similar hashes among a part of all.

    rows: the hashes that were compared, int64 [n]. pairs: rows (i, j), int64 [K, 2], of similar ones, by i; for each i
    at most _TRIED, the most similar first. crowded: the i, int64 [m], that were not compared with all that agree with
    them in a range of bits.
    """

    rows: np.ndarray
    pairs: np.ndarray
    crowded: np.ndarray


def close_pairs(looks: np.ndarray, others: np.ndarray) -> Iterator[Similar]:
    """Yields the similar hashes among looks[i] and others[j], for a part of all i at a time.

    looks, others: uint64, without repetitions.

    Of the hashes that agree in one of the ranges of bits, those are compared whose next bits are nearest, at most
    _CROWD. White margins make the first and last range 0 in every image of products, for example, and comparing all
    would take as many steps as there are pairs of images.
    """
    telling = _telling(looks)
    plain, own, their = np.flatnonzero(~telling), np.flatnonzero(telling), np.flatnonzero(_telling(others))
    equal = _equal(looks[plain], others)
    yield Similar(plain, np.stack([plain[equal[:, 0]], equal[:, 1]], axis=1), np.empty(0, np.int64))
    ranges = [_Range(looks[own], others[their], low, high) for low, high in itertools.pairwise(_BANDS)]
    crowded = np.any([one.crowded for one in ranges], axis=0)
    for first, last in _parts(np.sum([one.end - one.start for one in ranges], axis=0)):
        row, column = np.divmod(
            np.unique(np.concatenate([one.pairs(first, last) for one in ranges])), max(len(their), 1)
        )
        pairs = np.stack([own[row], their[column]], axis=1)
        distance = np.bitwise_count(looks[pairs[:, 0]] ^ others[pairs[:, 1]])
        pairs = pairs[np.lexsort((pairs[:, 1], distance, pairs[:, 0]))]
        rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
        yield Similar(own[first:last], pairs[rank < _TRIED], own[first:last][crowded[first:last]])


class _Range:
    """The hashes that agree in the bits from `low` to `high`.

    looks, others: uint64. start, end: for every hash of looks, which of the others in `order` it is compared with.
    crowded: whether these are not all that agree.
    """

    def __init__(self, looks: np.ndarray, others: np.ndarray, low: int, high: int):
        self._looks, self._others = looks, others
        # The bits of the range in front, and after them those that are lower: in this order, hashes that agree in the
        # range are neighbours, and next to each other if they agree in more.
        turn = np.uint64(64 - high), np.uint64(high % 64)
        mine, theirs = ((one << turn[0]) | (one >> turn[1]) for one in (looks, others))
        self._order = np.argsort(theirs, kind="stable")
        theirs = theirs[self._order]
        rest = np.uint64(64 - (high - low))
        start, end = (np.searchsorted(theirs >> rest, mine >> rest, side) for side in ("left", "right"))
        place = np.searchsorted(theirs, mine)
        self.start = np.clip(place - _CROWD // 2, start, np.maximum(start, end - _CROWD))
        self.end = np.minimum(end, self.start + _CROWD)
        self.crowded = self.end - self.start < end - start

    def pairs(self, first: int, last: int) -> np.ndarray:
        """Returns i * (the number of others) + j, int64 [K], for similar hashes with i from `first` to `last`."""
        count = (self.end - self.start)[first:last]
        row = np.repeat(np.arange(first, last), count)
        skipped = self.start[first:last] - (np.cumsum(count) - count)
        column = self._order[np.arange(count.sum()) + np.repeat(skipped, count)]
        similar = np.bitwise_count(self._looks[row] ^ self._others[column]) <= _BITS
        return row[similar] * len(self._others) + column[similar]


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


def _alike(small: Callable[[str, int], np.ndarray], one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Returns whether the pixels of two images, given as (split, position), are nearly equal. small: as `_small`."""
    try:
        difference = np.abs(small(*one) - small(*other))
    except (BadImage, OSError):  # the file was removed or changed since it was read
        return False
    return bool(difference.mean() <= _MEAN and difference.max() <= _MOST)


def _small(source: Source, encoding: Encoding, split: str, place: int) -> np.ndarray:
    found = source.load(split, place)
    pixels = found if isinstance(found, np.ndarray) else decode(found, encoding)
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX), np.int16)


def _pixels_only(encoding: Encoding) -> Encoding:
    """Returns an encoding with the same pixels before they are compressed."""
    return replace(encoding, kind="raw", check=True, seek_table=False)


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
            splits[split] = listing.take(rows[split])
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
    found = near_duplicates(source, looks, encoding)
    for split, twins in found.items():
        say(
            f"drop_duplicates=true leaves out {counted(len(twins), 'image')} of {split} that "
            f"{agree(len(twins), 'looks', 'look')} like images of earlier splits"
        )
    return Without(source, found) if any(found.values()) else source
