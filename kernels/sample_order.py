"""Draws the order of sample ids of one epoch (paper section 3), as a pure function of (seed, epoch).

There are four ways of drawing. All take the sample ids grouped by class: those of class j are
members[class_start[j]:class_start[j + 1]]. The walk of a class is the endless sequence of its samples in successive
random permutations, so that no sample comes twice before all came once. It continues from epoch to epoch.

quota      Class j gets quota[j] positions, which take the next samples of its walk, beginning with sample `drawn[j]` of
           the walk. At the end the epoch is shuffled.
iid        Every position independently draws a class by its probability, then a random sample of that class.
reference  The authors' class-balanced sampler: classes follow each other in successive random permutations, and each
           visit to a class takes the next `visit` samples of its walk.
cycled     The authors' progressive sampler: every position independently draws a class by its probability, then takes
           the next sample of that class's walk.

There is no CUDA version: the swaps of a shuffle depend on each other, and the files are read on the host anyway.
"""

from itertools import islice

import numpy as np
from numba import njit, prange, uint64

from fastlt.kernels import philox as generator
from fastlt.kernels.philox import below, philox, unit53
from fastlt.kernels.threads import start_threads

# What a random number is used for. It is part of the second counter word, so that no two uses share a number.
_WALK, _SHUFFLE, _IID, _CLASSES = 1, 2, 3, 4


def reference(members, class_start, quota, drawn, seed, epoch):
    """The definition of `quota` drawing in Python: this epoch's part of the walk of each class, then the shuffle."""
    order = []
    for j in range(len(quota)):
        own = members[class_start[j] : class_start[j + 1]].tolist()
        first, last = int(drawn[j]), int(drawn[j] + quota[j])
        walk = {
            turn: _permuted(own, seed, _WALK, j, turn) for turn in {place // len(own) for place in range(first, last)}
        }
        order += [walk[place // len(own)][place % len(own)] for place in range(first, last)]
    return np.array(_permuted(order, seed, _SHUFFLE, 0, epoch), np.int64)


def reference_iid(members, class_start, probabilities, length, seed, epoch):
    """The definition of `iid` drawing in Python, one position at a time."""
    cumulative = _cumulative(probabilities)
    order = []
    for position in range(length):
        words = generator.reference(seed, position, (_IID << 28) ^ (position >> 32), 0, epoch)
        j = int(np.searchsorted(cumulative, generator.reference_unit53(*words[:2]), "right"))
        own = members[class_start[j] : class_start[j + 1]]
        order.append(own[int(generator.reference_unit53(*words[2:]) * len(own))])
    return np.array(order, np.int64)


def reference_visits(members, class_start, visit, length, seed, epoch):
    """The definition of `reference` drawing in Python: endless iterators, run from the beginning of training."""
    classes = len(class_start) - 1

    def forever(values, purpose, stream):
        turn = 0
        while True:
            yield from _permuted(values, seed, purpose, stream, turn)
            turn += 1

    images = [forever(members[class_start[j] : class_start[j + 1]].tolist(), _WALK, j) for j in range(classes)]
    visits = forever(list(range(classes)), _CLASSES, 0)
    stream = [next(images[j]) for j in islice(visits, -(-(epoch + 1) * length // visit)) for _ in range(visit)]
    return np.array(stream[epoch * length : (epoch + 1) * length], np.int64)


def reference_cycled(members, class_start, probabilities, drawn, length, seed, epoch):
    """The definition of `cycled` drawing in Python: the classes of `iid` drawing, each with the next of its walk."""
    number_of = np.repeat(np.arange(len(probabilities)), np.diff(class_start))
    classes = reference_iid(number_of, class_start, probabilities, length, seed, epoch)
    place, order = drawn.copy(), []
    for j in classes:
        own = members[class_start[j] : class_start[j + 1]].tolist()
        turn, rest = divmod(int(place[j]), len(own))
        order.append(_permuted(own, seed, _WALK, int(j), turn)[rest])
        place[j] += 1
    return np.array(order, np.int64)


def _permuted(values, key, purpose, stream, turn):
    """Returns a Fisher-Yates shuffle, from the end; two swaps share the four words of the first one's counter."""
    values = list(values)
    for i in range(len(values) - 1, 0, -1):
        even = (len(values) - 1 - i) % 2 == 0
        if even:
            words = generator.reference(key, i, (purpose << 28) ^ (i >> 32), stream, turn)
        j = int(generator.reference_unit53(*(words[:2] if even else words[2:])) * (i + 1))
        values[i], values[j] = values[j], values[i]
    return values


@njit(cache=True)
def _shuffle(values, key, purpose, stream, turn):
    """Shuffles in place (Fisher-Yates). One Philox call gives the bits for two swaps, 53 each."""
    i = values.shape[0] - 1
    while i > 0:
        w0, w1, w2, w3 = philox(key, i, (purpose << 28) ^ (i >> 32), stream, turn)
        j = below(w0, w1, i + 1)
        values[i], values[j] = values[j], values[i]
        i -= 1
        if i > 0:
            j = below(w2, w3, i + 1)
            values[i], values[j] = values[j], values[i]
            i -= 1


@njit(cache=True, parallel=True)
def cpu(members, class_start, quota, drawn, seed, epoch):
    """Compiled `quota` drawing; see `sample_order`."""
    classes = quota.shape[0]
    begin = np.zeros(classes + 1, np.int64)
    for j in range(classes):
        begin[j + 1] = begin[j] + quota[j]
    order = np.empty(begin[classes], np.int64)
    for j in prange(classes):
        n = class_start[j + 1] - class_start[j]
        place = drawn[j]
        end = drawn[j] + quota[j]
        out = begin[j]
        while place < end:
            turn = place // n
            walk = members[class_start[j] : class_start[j + 1]].copy()
            _shuffle(walk, seed, _WALK, j, turn)
            first = place - turn * n
            count = min(n - first, end - place)
            order[out : out + count] = walk[first : first + count]
            out += count
            place += count
    _shuffle(order, seed, _SHUFFLE, 0, epoch)
    return order


@njit(cache=True)
def _draw_class(cumulative, position, seed, epoch):
    """Returns the class that a position draws, and two random words for one of its samples."""
    w0, w1, w2, w3 = philox(seed, position, (_IID << 28) ^ (position >> 32), 0, epoch)
    return np.searchsorted(cumulative, unit53(w0, w1), side="right"), w2, w3


@njit(cache=True, parallel=True)
def cpu_iid(members, class_start, cumulative, length, seed, epoch):
    """Compiled `iid` drawing; see `sample_order_iid`."""
    order = np.empty(length, np.int64)
    for position in prange(length):
        j, w2, w3 = _draw_class(cumulative, position, seed, epoch)
        n = class_start[j + 1] - class_start[j]
        order[position] = members[class_start[j] + below(w2, w3, n)]
    return order


@njit(cache=True, parallel=True)
def cpu_classes(cumulative, length, seed, epoch):
    """Returns the class of every position, int64 [length], as `cpu_iid` draws it."""
    classes = np.empty(length, np.int64)
    for position in prange(length):
        classes[position] = _draw_class(cumulative, position, seed, epoch)[0]
    return classes


@njit(cache=True)
def _sample_of_walk(j, place, members, class_start, walks, turns, seed):
    """Returns sample `place` of the walk of class j.

    The permutation of a class is kept until all its samples were taken: walks [N] holds those of all classes, turns [C]
    which of its permutations each is (-1: none yet).
    """
    a, b = class_start[j], class_start[j + 1]
    turn = place // (b - a)
    if turn != turns[j]:
        walks[a:b] = members[a:b]
        _shuffle(walks[a:b], seed, _WALK, j, turn)
        turns[j] = turn
    return walks[a + place - turn * (b - a)]


@njit(cache=True)
def cpu_cycled(members, class_start, classes, drawn, seed):
    """Compiled `cycled` drawing; see `sample_order_cycled`."""
    order = np.empty(classes.shape[0], np.int64)
    walks = members.copy()
    turns = np.full(class_start.shape[0] - 1, -1, np.int64)
    place = drawn.copy()
    for position in range(classes.shape[0]):
        j = classes[position]
        order[position] = _sample_of_walk(j, place[j], members, class_start, walks, turns, seed)
        place[j] += 1
    return order


@njit(cache=True)
def cpu_reference(members, class_start, visit, length, seed, epoch):
    """Compiled `reference` drawing; see `sample_order_reference`."""
    classes = class_start.shape[0] - 1
    order = np.empty(length, np.int64)
    walks = members.copy()
    turns = np.full(classes, -1, np.int64)
    sequence = np.arange(classes)
    sequence_turn = np.int64(-1)
    for position in range(length):
        stream = epoch * length + position  # the authors' iterators continue from epoch to epoch
        number = stream // visit
        turn = number // classes
        if turn != sequence_turn:
            sequence[:] = np.arange(classes)
            _shuffle(sequence, seed, _CLASSES, 0, turn)
            sequence_turn = turn
        j = sequence[number - turn * classes]
        place = turn * visit + stream - number * visit
        order[position] = _sample_of_walk(j, place, members, class_start, walks, turns, seed)
    return order


def sample_order(members, class_start, quota, drawn, seed, epoch):
    """Returns the sample ids of an epoch in which class j gets exactly quota[j] positions, int64 [sum(quota)].

    members: int64 [N], the sample ids grouped by class.
    class_start: int64 [C + 1], where each class begins in `members`; the last entry is N.
    quota: int64 [C], the number of positions of each class in this epoch.
    drawn: int64 [C], how many samples of each class earlier epochs took.
    seed, epoch: integers.

    Raises ValueError if a class without samples has a quota, or for wrong dtypes or class starts.

    Example, an epoch of two classes, with samples 0, 1, 2 and 3, 4:

        members, class_start = np.arange(5), np.array([0, 3, 5])
        sample_order(members, class_start, quota=np.array([2, 2]), drawn=np.array([0, 0]), seed=0, epoch=0)
    """
    _check(members, class_start, quota, "a quota of")
    start_threads()
    return cpu(members, class_start, quota, drawn, uint64(seed), np.int64(epoch))


def sample_order_iid(members, class_start, probabilities, length, seed, epoch):
    """Returns the sample ids of an epoch, int64 [length], with every position drawn independently.

    A position draws class j with probabilities[j], then one of its samples at random.

    probabilities: float64 [C], sum 1. members, class_start: as in `sample_order`. Raises ValueError if a class without
    samples has a probability above 0, or for wrong dtypes or class starts.
    """
    _check(members, class_start, probabilities, "probability")
    start_threads()
    return cpu_iid(members, class_start, _cumulative(probabilities), np.int64(length), uint64(seed), np.int64(epoch))


def drawn_classes(probabilities, length, seed, epoch):
    """Returns the class of every position of an epoch, int64 [length]: independent draws by `probabilities` [C]."""
    start_threads()
    return cpu_classes(_cumulative(probabilities), np.int64(length), uint64(seed), np.int64(epoch))


def sample_order_cycled(members, class_start, probabilities, drawn, length, seed, epoch):
    """Returns the sample ids of an epoch, int64 [length]: independently drawn classes, the next sample of each.

    probabilities: float64 [C], sum 1. drawn: int64 [C], how many samples of each class earlier epochs took. members,
    class_start: as in `sample_order`. Raises ValueError if a class without samples has a probability above 0, or for
    wrong dtypes or class starts.
    """
    _check(members, class_start, probabilities, "probability")
    classes = drawn_classes(probabilities, length, seed, epoch)
    return cpu_cycled(members, class_start, classes, drawn, uint64(seed))


def sample_order_reference(members, class_start, visit, length, seed, epoch):
    """Returns the sample ids of an epoch, int64 [length], in the order of the authors' class-balanced sampler.

    visit: how many samples each visit to a class takes (4 in the authors' code). members, class_start: as in
    `sample_order`. Raises ValueError if a class has no samples, or for wrong dtypes or class starts.
    """
    _check(members, class_start, np.full(len(class_start) - 1, visit), "visits of")
    return cpu_reference(members, class_start, np.int64(visit), np.int64(length), uint64(seed), np.int64(epoch))


def _cumulative(probabilities):
    """Returns the upper ends of the intervals of [0, 1) that draw each class, float64 [C].

    The last class that has a probability ends at 1 exactly: below it, by the rounding of the sum, the rest would draw a
    class after it, which may have no samples.
    """
    ends = np.cumsum(probabilities)
    ends[ends >= ends[-1]] = 1.0
    return ends


def _check(members, class_start, shares, what):
    """Raises the ValueErrors of the functions above; `shares`, called `what`, must be 0 for a class without samples."""
    if members.dtype != np.int64 or class_start.dtype != np.int64:
        raise ValueError(f"members and class_start must be int64, not {members.dtype} and {class_start.dtype}")
    if class_start[0] != 0 or class_start[-1] != len(members) or (np.diff(class_start) < 0).any():
        raise ValueError(f"class_start must rise from 0 to {len(members)}, the number of members")
    empty = np.flatnonzero((np.diff(class_start) == 0) & (np.asarray(shares) > 0))
    if len(empty):
        raise ValueError(f"class {empty[0]} has no image but {what} {shares[empty[0]]}")
