"""Divides samples into parts by shares, where samples of one group go to the same part.

Groups are taken in the given order. Each goes to the part where it brings the samples of its classes nearest to their
targets t, the share of the part of every class: where it adds the least to the sum of (samples - t)^2 / t. Of equal
parts, the last gets it.

There is no CUDA version: every group's part depends on those of all groups before.
"""

import numpy as np
from numba import njit


def reference(order, start, label, samples, lacking, target, place):
    """The definition in NumPy, one group at a time. Arguments and effect are those of `cpu`."""
    for group in order.tolist():
        if place[group] < 0:
            own, number = label[start[group] : start[group + 1]], samples[start[group] : start[group + 1]]
            gain = (number * (2 * lacking[:, own] - number) / target[:, own]).sum(1)
            place[group] = len(gain) - 1 - gain[::-1].argmax()
            lacking[place[group], own] -= number


@njit(cache=True)
def cpu(order, start, label, samples, lacking, target, place):
    """Fills place, int64 [G], the part of every group, where it is below 0.

    order: int64 [G], the groups in the order in which they are taken.
    start: int64 [G + 1]. label, samples: int64. Group g has samples[k] samples of class label[k], for every k from
    start[g] to start[g + 1].
    lacking: float64 [P, C], how many samples of each class every part still lacks. It is changed. -inf in a part keeps
    groups out of it.
    target: float64 [P, C], greater than 0: how many samples of each class every part should have.
    """
    for group in order:
        if place[group] < 0:
            best, highest = 0, -np.inf
            for part in range(len(lacking) - 1, -1, -1):
                gain = 0.0
                for k in range(start[group], start[group + 1]):
                    number = samples[k]
                    gain += number * (2 * lacking[part, label[k]] - number) / target[part, label[k]]
                if gain > highest:
                    best, highest = part, gain
            place[group] = best
            for k in range(start[group], start[group + 1]):
                lacking[best, label[k]] -= samples[k]
