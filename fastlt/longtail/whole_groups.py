"""Divides samples by shares so that the samples of one group, such as one patient's, stay together."""

from collections.abc import Sequence

import numpy as np

_NO_GROUP = {"", "nan", "none", "null", "<na>", "nat"}  # how files and programs write a missing value


def group_name(value: str | None) -> str:
    """Returns the name of a group; "" for a value that is missing: None, empty, or as programs write a missing one.

    Example:

        >>> group_name("ann"), group_name("NaN")
        ('ann', '')
    """
    return "" if value is None or value.strip().lower() in _NO_GROUP else value


def group_text(value: object) -> str:
    """Returns the value of a group as text, whole numbers without a point, as a column of them is often one of floats.

    Example:

        >>> group_text("ann"), group_text(7), group_text(7.0)
        ('ann', '7', '7')
    """
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)  # type: ignore[call-overload]


def group_numbers(names: np.ndarray) -> np.ndarray:
    """Returns the group of every sample as a number from 0 to G - 1, int64 [N].

    names: [N], strings, UTF-8 or integers. Samples with equal names are a group; one whose name is missing, as
    `group_name` says, is a group alone.

    Example:

        >>> group_numbers(np.array(["ann", "", "bob", "nan", "ann"])).tolist()
        [0, 1, 2, 3, 0]
    """
    known, groups = np.unique(names, return_inverse=True)
    if names.dtype.kind in "SU":
        texts = [one.decode() if isinstance(one, bytes) else one for one in known.tolist()]
        alone = np.array([not group_name(text) for text in texts], bool)[groups]
        groups[alone] = len(known) + np.arange(alone.sum())
    _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]  # in the order in which groups come first, whatever their names


def divide_groups(
    labels: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    draws: np.ndarray,
    settled: np.ndarray | None = None,
    every_class_first: bool = False,
) -> np.ndarray:
    """Returns the part of every sample, int64 [N], where samples of one group are in the same part.

    labels: int64 [N], the class of every sample. groups: int64 [N], its group, from 0 to G - 1.
    shares: the share of every class that each part should have; they add up to 1. A share of 0 is a part that gets
        none, but those that are settled.
    draws: [G], random numbers: groups are taken from the largest to the smallest, those of one size by these.
    settled: int64 [G], the parts of groups that are given, -1 for all others.
    every_class_first: whether part 0 gets the largest group of every class before anything else is divided, so that it
        has samples of all classes.

    The shares of classes are kept as nearly as whole groups allow, see kernels/whole_groups.py. The same arguments give
    the same parts.

    Example:

        >>> labels, groups = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 3])
        >>> divide_groups(labels, groups, (0.5, 0.5), np.arange(4)).tolist()
        [1, 1, 0, 0, 1, 0]
    """
    from fastlt.kernels import whole_groups  # imported here because it imports Numba, which few conversions need

    counts = np.bincount(labels)
    cells, samples = np.unique(groups * len(counts) + labels, return_counts=True)
    owner, label = np.divmod(cells, len(counts))
    sizes = np.bincount(groups)
    start = np.searchsorted(owner, np.arange(len(sizes) + 1))
    order = np.lexsort((draws, -sizes))
    each = np.asarray(shares, np.float64)
    lacking = each[:, None] * counts
    lacking[each == 0] = -np.inf
    target = np.where(each > 0, each, 1)[:, None] * np.maximum(counts, 1)
    place = np.full(len(sizes), -1) if settled is None else settled.astype(np.int64)
    if every_class_first:
        _give_every_class(place, order, start, label)
    there = place[owner] >= 0
    np.subtract.at(lacking, (place[owner[there]], label[there]), samples[there])
    whole_groups.cpu(order, start, label, samples, lacking, target, place)
    return place[groups]


def _give_every_class(place: np.ndarray, order: np.ndarray, start: np.ndarray, label: np.ndarray) -> None:
    """Puts groups into part 0 until it has one of every class that has a group which may go there.

    place: int64 [G], is changed. order: int64 [G], groups, of which the first of a class is taken. start, label: the
    classes of group g are label[start[g]:start[g + 1]].
    """
    rank = np.argsort(order)
    owner = np.repeat(np.arange(len(order)), np.diff(start))
    pairs = np.flatnonzero(place[owner] < 1)  # without those of groups that are settled in other parts
    pairs = pairs[np.argsort(-rank[owner[pairs]])]
    first = np.full(int(label.max()) + 1, -1)
    first[label[pairs]] = owner[pairs]  # what is written last stays
    served = np.zeros(len(first), bool)
    for one in np.argsort(np.bincount(label), kind="stable").tolist():  # classes of few groups have the least choice
        if not served[one] and first[one] >= 0:
            group = first[one]
            place[group] = 0
            served[label[start[group] : start[group + 1]]] = True
