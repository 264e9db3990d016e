"""Samplers: (seed, epoch) -> the order of sample ids (paper section 3)."""

import inspect
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from fastlt.registry import call_part, find_part, is_own, own_sources

LAWS = ("instance", "class", "sqrt", "progressive")
DRAWINGS = ("quota", "iid", "dataloader", "reference")
REFERENCE_VISIT = 4  # images of a class at each visit in the authors' class-balanced sampler

_POWER = {"instance": 1.0, "class": 0.0, "sqrt": 0.5}


def class_probabilities(
    counts: np.ndarray, law: str, progress: float = 0.0, options: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Probability that the next image is of class j: p_j = n_j^q / sum_i n_i^q.

    counts: [C] training images per class. law: instance (q = 1), class (q = 0), sqrt (q = 1/2), root_N (q = 1/N, N a
    number from 1 on) or progressive: (1 - progress) p^instance + progress p^class, progress = t/T in [0, 1]. Or
    `package.module:NAME` of the user's own, called as NAME(counts float64 [C], progress, **options): it gives weights
    [C] in proportion to p. Classes without images get 0. Returns float64 [C]. Raises UserError on an unknown law, or
    weights that are none.
    """
    if is_own(law):
        return _own_probabilities(np.asarray(counts, np.float64), law, progress, options or {})
    if law == "progressive":
        instance = class_probabilities(counts, "instance")
        return (1.0 - progress) * instance + progress * class_probabilities(counts, "class")
    counts, power = np.asarray(counts, np.float64), _power(law)
    weight = np.where(counts > 0, np.power(counts, power, where=counts > 0, out=np.zeros_like(counts)), 0.0)
    return weight / weight.sum()


def _own_probabilities(counts: np.ndarray, law: str, progress: float, options: Mapping[str, Any]) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # of classes without images
        found = call_part("sampler", law, find_part("sampler", law, {}), options, counts, progress)
    weight = np.asarray(found, np.float64)
    weight = np.where(counts > 0, weight, 0.0) if weight.shape == counts.shape else weight
    if weight.shape != counts.shape or not np.isfinite(weight).all() or weight.min() < 0 or not weight.sum() > 0:
        raise UserError(
            f"sampler={law} gives {np.array2string(weight, threshold=4)} for {len(counts)} classes: it must give a "
            "finite weight of at least 0 for each class, and not 0 for all"
        )
    return weight / weight.sum()


def _power(law: str) -> float:
    """q of a law other than `progressive`."""
    root = re.fullmatch(r"root_(\d+(?:\.\d+)?)", law)
    if root and float(root[1]) >= 1:
        return 1 / float(root[1])
    if law not in _POWER:
        find_part("sampler", law, dict.fromkeys(LAWS), "sampler.name=root_N for q = 1/N")
    return _POWER[law]


def by_quota(law: str, drawing: str) -> bool:
    """Whether the order is that of `quota` drawing, which for the law `instance` is a permutation."""
    return drawing == "quota" or (law == "instance" and drawing in ("dataloader", "reference"))


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

    members: int64 [N], sample ids grouped by class. class_start: int64 [C + 1]. law, options: as in
    `class_probabilities`. epochs: of the training; `progressive` goes from instance in the first to class in the last.
    drawing: one of DRAWINGS. An epoch has N positions, whatever the law.

    `dataloader` is what code with a PyTorch DataLoader usually does: instance-balanced a permutation (shuffle=True), by
    any other law independent draws (WeightedRandomSampler). `reference` is what the authors' code does:
    instance-balanced a permutation; class-balanced four images at each visit of a class; progressively-balanced a class
    drawn on its own, then its next image; by a root independent draws.
    """

    members: np.ndarray
    class_start: np.ndarray
    law: str = "instance"
    seed: int = 0
    epochs: int = 1
    drawing: str = "quota"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if is_own(self.law):
            self.probabilities(0)
        elif self.options:
            raise UserError(f"sampler.options={dict(self.options)}: sampler={self.law} takes none")
        elif self.law != "progressive":
            _power(self.law)
        if self.drawing not in DRAWINGS:
            raise UserError(f"sampler.drawing={self.drawing} is unknown: allowed are {', '.join(DRAWINGS)}")
        if self.drawing == "reference" and self.law == "class" and not self.counts.all():
            raise UserError(
                f"class {np.argmin(self.counts)} has no image, and sampler.drawing=reference visits every class: take "
                "quota or iid"
            )

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
        """What tells this order from others."""
        about = {"law": self.law, "seed": self.seed, "epochs": self.epochs, "drawing": self.drawing}
        about |= {"samples": len(self), "crc32": zlib.crc32(self.members.tobytes())}
        own = {"options": dict(self.options), **own_sources(law=self.law)} if is_own(self.law) else {}
        return {**about, **own}

    def probabilities(self, epoch: int) -> np.ndarray:
        """Class probabilities of an epoch, float64 [C]."""
        progress = min(epoch / (self.epochs - 1), 1.0) if self.epochs > 1 else 0.0
        return class_probabilities(self.counts, self.law, progress, self.options)

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
        if not by_quota(self.law, self.drawing):
            return sample_order_iid(self.members, self.class_start, self.probabilities(epoch), *at)
        drawn = np.zeros(len(self.counts), np.int64)
        for earlier in range(epoch):
            drawn += self.quota(earlier)
        return sample_order(self.members, self.class_start, self.quota(epoch), drawn, self.seed, epoch)


def make_sampler(
    members: np.ndarray,
    class_start: np.ndarray,
    law: str,
    seed: int,
    epochs: int,
    drawing: str = "quota",
    options: Mapping[str, Any] | None = None,
) -> Order:
    """A Sampler; or an order of the user's own, where `law` is the `package.module:NAME` of a class with a method
    `order`, such as a subclass of Sampler: it is made as NAME(members, class_start, seed=, epochs=, **options).

    Raises UserError if there is no such law, or an own class gives no Order.
    """
    found = find_part("sampler", law, {}) if is_own(law) else None
    if not (inspect.isclass(found) and hasattr(found, "order")):
        return Sampler(members, class_start, law, seed, epochs, drawing, options or {})
    order = call_part("sampler", law, found, {"seed": seed, "epochs": epochs, **(options or {})}, members, class_start)
    missing = [name for name in ("__len__", "others", "described") if not hasattr(order, name)]
    if missing:
        raise UserError(f"sampler={law} has no {', '.join(missing)}: it must have the methods of Sampler")
    ids = order.order(0)
    if not isinstance(ids, np.ndarray) or ids.dtype != np.int64 or ids.shape != (len(order),):
        raise UserError(f"sampler={law}: order(0) must give sample ids, int64 [{len(order)}]")
    return order


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
