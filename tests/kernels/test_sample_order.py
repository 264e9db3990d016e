"""The compiled orders are those of the definitions, image by image."""

import numpy as np
import pytest

from fastlt.kernels import sample_order as op

SIZES = [[1], [5], [4, 1, 7], [30, 0, 2, 9], [1, 1, 1, 1, 1], [200, 3]]


def grouped(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    start = np.append(0, np.cumsum(sizes))
    return np.random.default_rng(0).permutation(start[-1]) + 100, start


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (2**40 + 7, 3)])
def test_quota(sizes: list[int], seed: int, epoch: int) -> None:
    members, start = grouped(sizes)
    rng = np.random.default_rng(seed)
    quota = np.where(np.array(sizes) > 0, rng.integers(0, 3 * max(sizes) + 2, len(sizes)), 0)
    drawn = rng.integers(0, 1000, len(sizes))
    order = op.sample_order(members, start, quota, drawn, seed, epoch)
    np.testing.assert_array_equal(order, op.reference(members, start, quota, drawn, seed, epoch))
    assert order.dtype == np.int64 and len(order) == quota.sum()


@pytest.mark.parametrize("sizes", SIZES)
def test_iid(sizes: list[int]) -> None:
    members, start = grouped(sizes)
    share = np.array(sizes) ** 0.5 / (np.array(sizes) ** 0.5).sum()
    order = op.sample_order_iid(members, start, share, 300, 9, 4)
    np.testing.assert_array_equal(order, op.reference_iid(members, start, share, 300, 9, 4))


@pytest.mark.parametrize("sizes", SIZES)
def test_cycled(sizes: list[int]) -> None:
    members, start = grouped(sizes)
    share = np.array(sizes) ** 0.5 / (np.array(sizes) ** 0.5).sum()
    drawn = np.random.default_rng(1).integers(0, 1000, len(sizes))
    order = op.sample_order_cycled(members, start, share, drawn, 300, 9, 4)
    np.testing.assert_array_equal(order, op.reference_cycled(members, start, share, drawn, 300, 9, 4))


def test_a_last_class_without_samples_is_never_drawn() -> None:
    """A sum of probabilities that rounding leaves below 1 leaves nothing to the class after the last that has some."""
    members, start = grouped([2, 1, 0])
    short = np.array([0.5, 0.25, 0.0])  # as by rounding, but by enough to be seen
    assert op.drawn_classes(short, 1000, 3, 0).max() == 1
    order = op.sample_order_iid(members, start, short, 300, 3, 0)
    np.testing.assert_array_equal(order, op.reference_iid(members, start, short, 300, 3, 0))


@pytest.mark.parametrize("sizes", [sizes for sizes in SIZES if 0 not in sizes])
@pytest.mark.parametrize("visit", [1, 4])
@pytest.mark.parametrize(("length", "epoch"), [(1, 0), (37, 0), (37, 5), (64, 2)])
def test_visits_go_on_from_epoch_to_epoch(sizes: list[int], visit: int, length: int, epoch: int) -> None:
    members, start = grouped(sizes)
    order = op.sample_order_reference(members, start, visit, length, 3, epoch)
    np.testing.assert_array_equal(order, op.reference_visits(members, start, visit, length, 3, epoch))


def test_wrong_input_is_named() -> None:
    members, start = grouped([2, 0, 1])
    with pytest.raises(ValueError, match="class 1 has no image but a quota of 1"):
        op.sample_order(members, start, np.array([1, 1, 1]), np.zeros(3, np.int64), 0, 0)
    with pytest.raises(ValueError, match=r"class 1 has no image but probability 0\.2"):
        op.sample_order_iid(members, start, np.array([0.4, 0.2, 0.4]), 5, 0, 0)
    with pytest.raises(ValueError, match=r"class 1 has no image but probability 0\.2"):
        op.sample_order_cycled(members, start, np.array([0.4, 0.2, 0.4]), np.zeros(3, np.int64), 5, 0, 0)
    with pytest.raises(ValueError, match="class 1 has no image"):
        op.sample_order_reference(members, start, 4, 5, 0, 0)
    with pytest.raises(ValueError, match="must be int64, not int32"):
        op.sample_order(members.astype(np.int32), start, np.ones(3), np.zeros(3), 0, 0)
    with pytest.raises(ValueError, match="must rise from 0 to 3"):
        op.sample_order(members, start + 1, np.ones(3), np.zeros(3), 0, 0)
