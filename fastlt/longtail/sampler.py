"""Class-aware samplers (section 3 of the paper): the order of the sample ids of an epoch, from a seed and the epoch.

A law, such as `class` or `sqrt`, says how probable each class is at a position of the epoch. A drawing, such as `quota`
or `iid`, says how samples are drawn with these probabilities.
"""

import inspect
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fastlt.core.errors import UserError
from fastlt.core.resumable import whole_number
from fastlt.core.words import counted
from fastlt.kernels.sample_order import (
    drawn_classes,
    sample_order,
    sample_order_cycled,
    sample_order_iid,
    sample_order_reference,
)
from fastlt.longtail import DRAWINGS
from fastlt.registry import call_part, find_part, is_own, own_sources

LAWS = ("instance", "class", "sqrt", "progressive")
REFERENCE_VISIT = 4  # images that the class-balanced sampler of the paper's code takes of a class at each visit

_POWER = {"instance": 1.0, "class": 0.0, "sqrt": 0.5}


def class_probabilities(
    counts: np.ndarray, law: str, progress: float = 0.0, options: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Returns the probability of each class at a position, p_j = n_j^q / sum_i n_i^q, float64 [C].

    counts: training images n_j of each class, [C]. A class without images gets probability 0.
    law: instance (q = 1), class (q = 0), sqrt (q = 1/2), root_N (q = 1/N for a number N of at least 1), or progressive,
        which is (1 - progress) p^instance + progress p^class. Or `package.module:NAME` of a user's own function, called
        as NAME(counts float64 [C], progress, **options), which returns weights [C] in proportion to p.
    progress: share t/T of the training that is done, in [0, 1].
    options: keyword arguments for an own law.

    Raises UserError for an unknown law, or if an own law returns something else than valid weights.

    >>> class_probabilities(np.array([900, 100]), "sqrt").tolist()
    [0.75, 0.25]
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
    # An own law may divide by the count 0 of an empty class, give what has no finite sum, and change what it is given.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = call_part("sampler", law, find_part("sampler", law, {}), options, counts.copy(), progress)
        weight = np.asarray(found, np.float64)
        weight = np.where(counts > 0, weight, 0.0) if weight.shape == counts.shape else weight
        total = weight.sum()
    if weight.shape != counts.shape or weight.min() < 0 or not 0 < total < np.inf:
        raise UserError(
            f"sampler={law} gives {np.array2string(weight, threshold=4)} for {counted(len(counts), 'class')}: it must "
            "give a finite weight of at least 0 for each class, and not 0 for all"
        )
    return weight / total


def _power(law: str) -> float:
    """Returns the power q of a built-in law other than `progressive`. Raises UserError for an unknown law."""
    root = re.fullmatch(r"root_(\d+(?:\.\d+)?)", law)
    if root and float(root[1]) >= 1:
        return 1 / float(root[1])
    if law not in _POWER:
        find_part("sampler", law, dict.fromkeys(LAWS), "sampler.name=root_N for q = 1/N")
    return _POWER[law]


def by_quota(law: str, drawing: str) -> bool:
    """Returns whether this law and drawing give the order of `quota` drawing.

    `dataloader` and `reference` draw the law `instance` as `quota` does, as a permutation.
    """
    return drawing == "quota" or (law == "instance" and drawing in ("dataloader", "reference"))


def quotas(probabilities: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """Returns how many positions of an epoch each class gets, int64 [C]: length * p_j, rounded at random.

    probabilities: p, float64 [C]. length: positions of the epoch. seed, epoch: determine the rounding.

    The rounding is systematic, with one random offset for all classes. So the sum is exactly `length`, every class is
    less than one away from length * p_j, and its expectation is exactly length * p_j.

    >>> quotas(np.array([0.5, 0.25, 0.25]), 100, seed=0, epoch=0).tolist()
    [50, 25, 25]
    """
    offset = np.random.default_rng([seed, epoch]).random()
    edges = np.concatenate([[0.0], np.cumsum(probabilities * length)])
    edges[-1] = length
    whole = np.rint(edges)
    # An edge that is whole except for the last bits of a float must not be rounded at random.
    edges = np.where(np.abs(edges - whole) < 1e-6, whole, edges)
    return np.diff(np.floor(edges + offset)).astype(np.int64)


@dataclass(frozen=True)
class SamplerConfig:
    """The sampler of a training.

    name: a law: instance, class, sqrt, progressive, root_N (a class of n images has a probability in proportion to the
        N-th root of n), or package.module:NAME of an own law or own order.
    drawing: how images are drawn with these probabilities: quota (each class gets its share of the epoch, its images
        take turns), iid (independently), dataloader (as code with PyTorch's samplers does) or reference (as the paper's
        code does).
    options: keyword arguments for an own law or order.
    """

    name: str
    drawing: str = "quota"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if is_own(self.name):
            find_part("sampler", self.name, {})
        elif self.options:
            raise UserError(f"sampler.options={self.options}: sampler={self.name} takes none")
        elif self.name != "progressive":
            _power(self.name)
        if self.drawing not in DRAWINGS:
            raise UserError(f"sampler.drawing={self.drawing} is unknown: allowed are {', '.join(DRAWINGS)}")


class Order(Protocol):
    """The methods that the loader needs of a sampler. len() is the number of positions of an epoch."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray:
        """Returns the sample ids of an epoch in their order, int64."""
        ...

    def others(self, sample: int) -> np.ndarray:
        """Returns the ids of the samples that may replace `sample` if it is damaged, int64, the first choice first."""
        ...

    def described(self) -> dict[str, Any]:
        """Returns plain values that differ for different orders, by which a loader's state is checked."""
        ...


@dataclass(frozen=True)
class Sampler:
    """The order of the samples of an epoch, as a pure function of the seed and the epoch. An epoch has N positions.

    members: sample ids grouped by class, int64 [N].
    class_start: where each class begins in `members`, and N, int64 [C + 1].
    law, options: as in `class_probabilities`.
    epochs: of the training. The law `progressive` goes from instance-balanced in the first to class-balanced in the
        last.
    drawing: how samples are drawn.
        - `quota`: each class gets its expected number of positions, rounded, and its images take turns across epochs.
        - `iid`: independent draws of a class, then of one of its images.
        - `dataloader`: what code with a PyTorch DataLoader usually does, a permutation (shuffle=True) for the law
          `instance` and independent draws (WeightedRandomSampler) for every other law.
        - `reference`: what the paper's code does: a permutation for `instance`; four images at each visit of a class
          for `class`; a class drawn independently, then its next image, for `progressive`; independent draws for roots.

    Raises UserError for an unknown law or drawing, for arrays of another form or type, and for a seed or a number of
    epochs that cannot be.

    Example:

    >>> class_start = np.array([0, 6, 8])  # six images of class 0, two of class 1
    >>> sampler = Sampler(np.arange(8), class_start, law="class", seed=0)
    >>> sampler.quota(epoch=0).tolist()
    [4, 4]
    >>> ids = sampler.order(epoch=0)  # int64 [8]; the two images of class 1 come twice each
    """

    members: np.ndarray
    class_start: np.ndarray
    law: str = "instance"
    seed: int = 0
    epochs: int = 1
    drawing: str = "quota"
    options: Mapping[str, Any] = field(default_factory=dict)
    _last: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        SamplerConfig(self.law, self.drawing, dict(self.options))
        whole_number("seed", self.seed, 0, 2**63 - 1)
        whole_number("epochs", self.epochs, 1)
        for name in ("members", "class_start"):
            value = getattr(self, name)
            if not (isinstance(value, np.ndarray) and value.dtype == np.int64 and value.ndim == 1 and len(value)):
                raise UserError(f"{name} must be a NumPy array of int64 [n] that is not empty, as those of a split are")
        if self.class_start[0] != 0 or self.class_start[-1] != len(self) or (self.counts < 0).any():
            raise UserError(f"class_start must rise from 0 to {len(self)}, the number of members")
        if is_own(self.law):
            self.probabilities(0)
        if self.drawing == "reference" and self.law == "class" and not self.counts.all():
            raise UserError(
                f"class {np.argmin(self.counts)} has no image, and sampler.drawing=reference visits every class: take "
                "quota or iid"
            )

    def __len__(self) -> int:
        return len(self.members)

    @property
    def counts(self) -> np.ndarray:
        """Returns the number of images of each class, int64 [C]."""
        return np.diff(self.class_start)

    def others(self, sample: int) -> np.ndarray:
        """Returns the other samples of a sample's class, int64, beginning with the next in `members`, cyclically."""
        place = int(np.flatnonzero(self.members == sample)[0])
        number = int(np.searchsorted(self.class_start, place, "right")) - 1
        start, end = self.class_start[number : number + 2]
        return np.concatenate([self.members[place + 1 : end], self.members[start:place]])

    def described(self) -> dict[str, Any]:
        """Returns everything that the order depends on, as plain values by name."""
        about = {"law": self.law, "seed": int(self.seed), "epochs": int(self.epochs), "drawing": self.drawing}
        crc32 = zlib.crc32(self.class_start.tobytes(), zlib.crc32(self.members.tobytes()))
        about |= {"samples": len(self), "crc32": crc32}
        own = {"options": dict(self.options), **own_sources(law=self.law)} if is_own(self.law) else {}
        return {**about, **own}

    def probabilities(self, epoch: int) -> np.ndarray:
        """Returns the class probabilities of an epoch, float64 [C]."""
        progress = min(epoch / (self.epochs - 1), 1.0) if self.epochs > 1 else 0.0
        return class_probabilities(self.counts, self.law, progress, self.options)

    def quota(self, epoch: int) -> np.ndarray:
        """Returns the number of positions of each class in an epoch under `quota` drawing, int64 [C], with sum N."""
        return quotas(self.probabilities(epoch), len(self), self.seed, epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Returns the sample ids of an epoch in their order, int64 [N]."""
        at, theirs = (len(self), self.seed, epoch), self.drawing == "reference"
        if theirs and self.law == "class":
            return sample_order_reference(self.members, self.class_start, REFERENCE_VISIT, *at)
        if theirs and self.law == "progressive":
            drawn = self._drawn_before(epoch, self._drawn_classes)
            return sample_order_cycled(self.members, self.class_start, self.probabilities(epoch), drawn, *at)
        if not by_quota(self.law, self.drawing):
            return sample_order_iid(self.members, self.class_start, self.probabilities(epoch), *at)
        drawn = self._drawn_before(epoch, self.quota)
        return sample_order(self.members, self.class_start, self.quota(epoch), drawn, self.seed, epoch)

    def _drawn_classes(self, epoch: int) -> np.ndarray:
        """Returns how often each class is drawn in an epoch whose positions draw their classes, int64 [C]."""
        classes = drawn_classes(self.probabilities(epoch), len(self), self.seed, epoch)
        return np.bincount(classes, minlength=len(self.counts))

    def _drawn_before(self, epoch: int, drawn_in: Callable[[int], np.ndarray]) -> np.ndarray:
        """Returns how often each class is drawn in all epochs before this one, int64 [C].

        The last result is kept, so that the next epoch adds one to it instead of counting all epochs again.
        """
        first, drawn = self._last.get("drawn", (0, np.zeros(len(self.counts), np.int64)))
        if first > epoch:
            first, drawn = 0, np.zeros_like(drawn)
        for earlier in range(first, epoch):
            drawn = drawn + drawn_in(earlier)
        self._last["drawn"] = epoch, drawn
        return drawn


def make_sampler(members: np.ndarray, class_start: np.ndarray, config: SamplerConfig, seed: int, epochs: int) -> Order:
    """Returns the sampler that a configuration describes.

    members, class_start, seed, epochs: as in Sampler.
    config: its name is a law, which gives a Sampler, or the `package.module:NAME` of a class with a method `order`,
        such as a subclass of Sampler. That class is called as NAME(members, class_start, seed=, epochs=, **options).

    Raises UserError for an unknown law, or for an own class that lacks a method of Order or whose `order` returns
    something else than int64 ids.
    """
    law, options = config.name, config.options
    found = find_part("sampler", law, {}) if is_own(law) else None
    if not (inspect.isclass(found) and hasattr(found, "order")):
        return Sampler(members, class_start, law, seed, epochs, config.drawing, options)
    order = call_part("sampler", law, found, {"seed": seed, "epochs": epochs, **options}, members, class_start)
    check_order(order, f"sampler={law}")
    ids = ids_of_epoch(order, 0, f"sampler={law}")
    if strangers := np.setdiff1d(ids, members)[:1].tolist():
        raise UserError(f"sampler={law}: order(0) gives the sample id {strangers[0]}, which is none of `members`")
    return order


def check_order(order: Any, name: str) -> None:
    """Raises UserError if an object lacks a method of Order. name: of the object, for the message."""
    missing = [one for one in ("__len__", "order", "others", "described") if not hasattr(order, one)]
    if missing:
        raise UserError(f"{name} has no {', '.join(missing)}: it must have the methods of Sampler")


def ids_of_epoch(order: Order, epoch: int, name: str) -> np.ndarray:
    """Returns the ids of an epoch, int64 [len(order)]. Raises UserError if an own order gives something else."""
    ids = order.order(epoch)
    if not isinstance(ids, np.ndarray) or ids.dtype != np.int64 or ids.shape != (len(order),):
        raise UserError(f"{name}: order({epoch}) must give sample ids, int64 [{len(order)}]")
    return ids


@dataclass(frozen=True)
class InOrder:
    """The samples of `ids` in the given order, once each, in every epoch: the order for evaluation.

    ids: sample ids, int64 [n].
    labels: class indices of these, [n], if another sample of its class may replace a damaged one; None forbids that.

    Raises UserError for ids of another form or type.

    Example: `fastlt.Loader(dataset, "test", fastlt.InOrder(np.arange(len(dataset.split("test")))), augment, batch=64)`
    """

    ids: np.ndarray
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.ids, np.ndarray) and self.ids.dtype == np.int64 and self.ids.ndim == 1):
            raise UserError("ids must be a NumPy array of int64 [n], such as np.arange(n)")

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
