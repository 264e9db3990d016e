"""Dividing samples with whole groups: shares are met, no group is torn, and the compiled loop is the definition."""

import numpy as np
import pytest

from fastlt.kernels import whole_groups
from fastlt.longtail.whole_groups import divide_groups, group_name, group_numbers

SHARES = (0.7, 0.1, 0.2)


def drawn(seed: int, images: int = 3000, classes: int = 7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of a long tail, groups of one to many images, of one class or of several, and random numbers."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, images) - 1, classes - 1)
    groups = np.unique(np.minimum(rng.geometric(0.004, images), 800), return_inverse=True)[1]
    return labels, groups, rng.random(groups.max() + 1)


def arguments(seed: int) -> list[np.ndarray]:
    """What the kernel takes, made of `drawn`."""
    labels, groups, draws = drawn(seed)
    counts = np.bincount(labels)
    cells, samples = np.unique(groups * len(counts) + labels, return_counts=True)
    owner, label = np.divmod(cells, len(counts))
    start = np.searchsorted(owner, np.arange(len(draws) + 1))
    target = np.array(SHARES)[:, None] * counts
    place = np.full(len(draws), -1)
    place[::17] = np.arange(len(place[::17])) % 3
    return [np.argsort(draws), start, label, samples, target.copy(), target, place]


@pytest.mark.parametrize("seed", range(3))
def test_the_compiled_loop_is_the_definition(seed: int) -> None:
    one, other = arguments(seed), arguments(seed)
    whole_groups.reference(*one)
    whole_groups.cpu(*other)
    assert np.array_equal(one[-1], other[-1]) and (one[-1] >= 0).all()
    assert np.allclose(one[4], other[4]) and not np.array_equal(one[4], one[5])


@pytest.mark.parametrize("shares", [SHARES, (0.2,) * 5, (0.9, 0.1), (0.8, 0.0, 0.2)])
def test_shares_of_every_class_with_whole_groups(shares: tuple[float, ...]) -> None:
    labels, groups, draws = drawn(0)
    place = divide_groups(labels, groups, shares, draws)
    assert all(len(set(place[groups == group])) == 1 for group in range(groups.max() + 1))
    for part, share in enumerate(shares):
        found = np.bincount(labels[place == part], minlength=7)
        assert np.abs(found - share * np.bincount(labels)).max() <= 3, (share, found)
    assert not np.array_equal(place, divide_groups(labels, groups, shares, draws[::-1]))


def test_part_0_gets_a_group_of_every_class() -> None:
    labels = np.array([0] * 9 + [1] * 3 + [2] * 2)
    groups = np.array([0] * 9 + [1, 1, 2] + [3, 3])
    for share in (0.5, 0.99):
        place = divide_groups(labels, groups, (1 - share, share), np.arange(4), every_class_first=True)
        assert place.tolist() == [0] * 9 + [0, 0, 1] + [0, 0]
    settled = np.array([1, -1, 0, -1])
    place = divide_groups(labels, groups, (0.01, 0.99), np.arange(4), settled, every_class_first=True)
    assert place.tolist() == [1] * 9 + [0, 0, 0] + [0, 0]


def test_a_missing_name_is_a_group_alone() -> None:
    assert [group_name(one) for one in ("p 1", " ", "None", "<NA>", None, "0")] == ["p 1", "", "", "", "", "0"]
    for names in (np.array(["b", "", "a", "nan", "b", ""]), np.array([b"b", b"", b"a", b"nan", b"b", b""])):
        found = group_numbers(names)
        assert len(set(found.tolist())) == 5 and found.max() == 4 and found[0] == found[4] and found.dtype == np.int64
    assert group_numbers(np.array([7, 3, 7])).tolist() == [0, 1, 0]
