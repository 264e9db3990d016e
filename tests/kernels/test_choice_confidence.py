from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlt.kernels import choice_confidence as op
from fastlt.kernels.accuracy_curve import CRITERIA, accuracy_curve
from fastlt.kernels.choice_confidence import choice_confidence

INF = np.inf


def draw(n, classes=5, seed=0):
    """Intervals about 0.5 of samples of a few classes, the last of which has none; some win always, some nowhere."""
    rng = np.random.default_rng([seed, n])
    middle, half = rng.normal(0.5, 0.3, n), rng.exponential(0.5, n)
    lo, hi = middle - half, middle + half
    lo[rng.random(n) < 0.1], hi[rng.random(n) < 0.1] = -INF, INF
    nowhere = rng.random(n) < 0.1
    lo[nowhere], hi[nowhere] = INF, -INF
    labels = np.minimum((classes * rng.random(n) ** 2).astype(np.int64), classes - 1)
    return lo, hi, labels, np.append(np.arange(classes) % 3, 0).astype(np.int8)


def assert_same(case, criterion, draws=15):
    """The walk over sorted ends finds what the curve of every drawn set says."""
    tau = accuracy_curve(*case).best(criterion)[0]
    arguments: Any = *case, criterion, tau, draws, 3
    for got, want in zip(op.cpu(*arguments), op.reference(*arguments), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("n", [30, 300])
def test_equals_a_curve_for_every_drawn_set(n, criterion):
    assert_same(draw(n), criterion)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_small_case(data):
    near = float(np.nextafter(0.5, 1))  # no tau lies between the two
    ends = st.sampled_from([-INF, INF, -1.0, 0.0, 0.5, near, float(np.nextafter(near, 1)), 2.0, 2.5])
    n, c = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    lo, hi = (data.draw(hnp.arrays(np.float64, n, elements=ends)) for _ in range(2))
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    groups = data.draw(hnp.arrays(np.int8, c, elements=st.integers(0, 2)))
    assert_same((lo, hi, labels, groups), data.draw(st.sampled_from(["all", "mean_class"])), draws=4)


def test_drawn_sets_keep_the_sizes_of_classes_and_draw_every_sample():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [1, 2, 70, 500]))
    members, starts = op._by_class(labels, 5)
    total = np.zeros(len(labels), np.int32)
    for draw in range(400):
        times = np.zeros(len(labels), np.int32)
        op._resample(members, starts, np.uint64(9), draw, times)
        np.testing.assert_array_equal(np.bincount(labels, times, minlength=5), [1, 2, 70, 500, 0])
        total += times
        if draw == 0:
            assert np.mean(times == 0) == pytest.approx(np.exp(-1), abs=0.07)
    np.testing.assert_allclose(total / 400, 1, atol=6 / np.sqrt(400))  # each sample as often as any other


def test_error_is_that_of_a_mean():
    """With one class right at every tau or at none, the accuracy is a mean of drawn zeros and ones."""
    right = np.random.default_rng(0).random(400) < 0.3
    lo, hi = np.where(right, -INF, INF), np.where(right, INF, -INF)
    result = choice_confidence(lo, hi, np.zeros(400, np.int64), np.zeros(1, np.int8), draws=2000)
    share = right.mean()
    assert result.accuracy_se == pytest.approx(100 * np.sqrt(share * (1 - share) / 400), rel=0.08)
    assert result.accuracies.mean() == pytest.approx(100 * share, abs=0.3)
    assert result.tau == 0 and not result.taus.any() and result.gap == 0


def test_more_samples_are_surer():
    few, many = (choice_confidence(*draw(n), draws=100) for n in (60, 6000))
    assert np.ptp(many.quantiles) < np.ptp(few.quantiles) / 2
    assert many.accuracy_se < few.accuracy_se / 4
    assert few.gap < many.gap < 0
    for one in (few, many):
        np.testing.assert_array_equal(one.quantiles, np.quantile(one.taus, [0.05, 0.5, 0.95]))
        assert one.taus.shape == one.accuracies.shape == (100,)
        assert type(one.tau) is type(one.gap) is type(one.accuracy_se) is float


def test_a_function_of_the_seed_alone():
    case = draw(500)
    first = choice_confidence(*case, draws=20, seed=1)
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        tensors: Any = map(torch.from_numpy, case)
        again = choice_confidence(*tensors, draws=20, seed=1)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(first.taus, again.taus)
    np.testing.assert_array_equal(first.accuracies, again.accuracies)
    longer = choice_confidence(*case, draws=30, seed=1)
    np.testing.assert_array_equal(longer.taus[:20], first.taus)
    assert not np.array_equal(first.taus, choice_confidence(*case, draws=20, seed=2**64 - 1).taus)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_gpu():
    case = draw(500)
    tensors: Any = (torch.from_numpy(one).cuda() for one in case)
    on_gpu = choice_confidence(*tensors, draws=20)
    np.testing.assert_array_equal(on_gpu.taus, choice_confidence(*case, draws=20).taus)


def test_wrong_input_is_named():
    lo, hi, labels, groups = draw(30)
    for arguments, message in [
        ({"draws": 1}, "draws is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"criterion": "top5"}, "'top5'; allowed are all"),
    ]:
        with pytest.raises(ValueError, match=message):
            choice_confidence(lo, hi, labels, groups, **arguments)
    with pytest.raises(ValueError, match="'few' is undefined"):
        choice_confidence(lo, hi, labels, np.zeros(6, np.int8), "few")
    with pytest.raises(ValueError, match="label 4"):
        choice_confidence(lo, hi, labels, groups[:4])
