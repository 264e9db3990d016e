"""Samplers: (seed, epoch) -> the order of sample ids (paper section 3)."""

import re
import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastlt.core.errors import UserError
from fastlt.kernels.sample_order import (
    drawn_classes,
    sample_order,
    sample_order_cycled,
    sample_order_iid,
    sample_order_reference,
)

LAWS = ("instance", "class", "sqrt", "progressive")
DRAWINGS = ("quota", "iid", "reference")
REFERENCE_VISIT = 4  # images of a class at each visit in the authors' class-balanced sampler

_POWER = {"instance": 1.0, "class": 0.0, "sqrt": 0.5}


def class_probabilities(counts: np.ndarray, law: str, progress: float = 0.0) -> np.ndarray:
    """Probability that the next image is of class j: p_j = n_j^q / sum_i n_i^q.

    counts: [C] training images per class. law: instance (q = 1), class (q = 0), sqrt (q = 1/2), root_N (q = 1/N, N a
    number from 1 on) or progressive: (1 - progress) p^instance + progress p^class, progress = t/T in [0, 1]. Classes
    without images get 0. Returns float64 [C]. Raises UserError on an unknown law.
    """
    if law == "progressive":
        instance = class_probabilities(counts, "instance")
        return (1.0 - progress) * instance + progress * class_probabilities(counts, "class")
    counts, power = np.asarray(counts, np.float64), _power(law)
    weight = np.where(counts > 0, np.power(counts, power, where=counts > 0, out=np.zeros_like(counts)), 0.0)
    return weight / weight.sum()


def _power(law: str) -> float:
    """q of a law other than `progressive`."""
    root = re.fullmatch(r"root_(\d+(?:\.\d+)?)", law)
    if root and float(root[1]) >= 1:
        return 1 / float(root[1])
    if law not in _POWER:
        raise UserError(f"sampler={law} is unknown: allowed are {', '.join(LAWS)}, or sampler.name=root_N for q = 1/N")
    return _POWER[law]


def quotas(probabilities: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """Positions each class gets in an epoch: a seeded stochastic rounding of length * p_j.

    Systematic rounding: one random offset for all classes, so that the sum is exactly `length`, every class is less
    than one away from length * p_j, and on average exact. Returns int64 [C].
    """
    offset = np.random.default_rng([seed, epoch]).random()
    edges = np.concatenate([[0.0], np.cumsum(probabilities * length)])
    edges[-1] = length
    whole = np.rint(edges)
    # length * p_j that is whole but for the last bits of a float must not be rounded at random.
    edges = np.where(np.abs(edges - whole) < 1e-6, whole, edges)
    return np.diff(np.floor(edges + offset)).astype(np.int64)


class Order(Protocol):
    """What the loader asks of a sampler."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray:
        """Sample ids of the epoch, int64."""
        ...

    def others(self, sample: int) -> np.ndarray:
        """The samples that may stand in for a damaged one, int64."""
        ...

    def described(self) -> dict[str, Any]:
        """What tells this order from others, as plain values."""
        ...


@dataclass(frozen=True)
class Sampler:
    """The order of an epoch's samples as a pure function of the epoch.

    members: int64 [N], sample ids grouped by class. class_start: int64 [C + 1]. law: one of LAWS, or root_N. epochs: of
    the training; `progressive` goes from instance in the first to class in the last. drawing: one of DRAWINGS. An epoch
    has N positions, whatever the law.

    `reference` is what the authors' code does: instance-balanced a permutation; class-balanced four images at each
    visit of a class; progressively-balanced a class drawn on its own, then its next image; by a root independent draws.
    """

    members: np.ndarray
    class_start: np.ndarray
    law: str = "instance"
    seed: int = 0
    epochs: int = 1
    drawing: str = "quota"

    def __post_init__(self) -> None:
        if self.law != "progressive":
            _power(self.law)
        if self.drawing not in DRAWINGS:
            raise UserError(f"sampler.drawing={self.drawing} is unknown: allowed are {', '.join(DRAWINGS)}")

    def __len__(self) -> int:
        return len(self.members)

    @property
    def counts(self) -> np.ndarray:
        """Images per class, int64 [C]."""
        return np.diff(self.class_start)

    def others(self, sample: int) -> np.ndarray:
        """The other samples of a sample's class, int64, from the one behind it on, in a circle."""
        place = int(np.flatnonzero(self.members == sample)[0])
        number = int(np.searchsorted(self.class_start, place, "right")) - 1
        start, end = self.class_start[number : number + 2]
        return np.concatenate([self.members[place + 1 : end], self.members[start:place]])

    def described(self) -> dict[str, Any]:
        """What tells this order from others on the same samples."""
        return {"law": self.law, "seed": self.seed, "epochs": self.epochs, "drawing": self.drawing}

    def probabilities(self, epoch: int) -> np.ndarray:
        """Class probabilities of an epoch, float64 [C]."""
        progress = min(epoch / (self.epochs - 1), 1.0) if self.epochs > 1 else 0.0
        return class_probabilities(self.counts, self.law, progress)

    def quota(self, epoch: int) -> np.ndarray:
        """Positions of each class in an epoch under `quota` drawing, int64 [C], sum N."""
        return quotas(self.probabilities(epoch), len(self), self.seed, epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Sample ids of the epoch, int64 [N]."""
        at, theirs = (len(self), self.seed, epoch), self.drawing == "reference"
        if theirs and self.law == "class":
            return sample_order_reference(self.members, self.class_start, REFERENCE_VISIT, *at)
        if theirs and self.law == "progressive":
            drawn = np.zeros(len(self.counts), np.int64)
            for earlier in range(epoch):
                classes = drawn_classes(self.probabilities(earlier), len(self), self.seed, earlier)
                drawn += np.bincount(classes, minlength=len(drawn))
            return sample_order_cycled(self.members, self.class_start, self.probabilities(epoch), drawn, *at)
        if self.drawing == "iid" or (theirs and self.law != "instance"):
            return sample_order_iid(self.members, self.class_start, self.probabilities(epoch), *at)
        drawn = np.zeros(len(self.counts), np.int64)
        for earlier in range(epoch):
            drawn += self.quota(earlier)
        return sample_order(self.members, self.class_start, self.quota(epoch), drawn, self.seed, epoch)


@dataclass(frozen=True)
class InOrder:
    """Every sample of `ids` once, in that order, in every epoch: for evaluation.

    labels: [n], classes of `ids` if a damaged sample may be replaced by another of its class; without, it may not.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def order(self, epoch: int) -> np.ndarray:
        return self.ids

    def others(self, sample: int) -> np.ndarray:
        if self.labels is None:
            return np.empty(0, np.int64)
        place = int(np.flatnonzero(self.ids == sample)[0])
        mates = np.flatnonzero(self.labels == self.labels[place])
        return self.ids[np.concatenate([mates[mates > place], mates[mates < place]])]

    def described(self) -> dict[str, Any]:
        return {"order": "as given", "samples": len(self.ids), "crc32": zlib.crc32(self.ids.tobytes())}
