import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlt.kernels import accuracy_curve as op
from fastlt.kernels.accuracy_curve import CRITERIA, accuracy_curve
from fastlt.kernels.winning_interval import reference as winning_interval

INF = np.inf


def numbers(curve):
    """The fields of a curve as NumPy arrays."""
    return SimpleNamespace(**{name: value.numpy(force=True) for name, value in vars(curve).items()})


def brute_force(right, labels, groups):
    """The five accuracies, in percent, of one set of right samples."""
    per_class = np.array([right[labels == c].mean() if (labels == c).any() else np.nan for c in range(len(groups))])
    sets = [per_class, *(per_class[groups == g] for g in range(3))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a group without samples
        return 100 * np.array([right.mean(), *(np.nanmean(s) if len(s) else np.nan for s in sets)])


def curve_of_classifier(n, c, seed=0):
    """Curve and a function that classifies anew at one tau, as the authors' code does."""
    rng = np.random.default_rng(seed)
    log_norm = np.linspace(1.0, -0.5, c) + 0.1 * rng.standard_normal(c)
    labels = (c * rng.random(n) ** 2).astype(np.int64)
    cosine = rng.standard_normal((n, c)) + 2.0 * (labels[:, None] == np.arange(c))
    scores = (cosine * np.exp(log_norm)).astype(np.float32)
    groups = (np.arange(c) * 3 // c).astype(np.int8)

    def at(tau):
        return brute_force((scores * np.exp(-tau * log_norm)).argmax(axis=1) == labels, labels, groups)

    return accuracy_curve(*winning_interval(scores, log_norm, labels), labels, groups), at


@pytest.mark.parametrize("taus", [np.linspace(0, 2, 21), np.linspace(-1, 3, 101)], ids=["authors", "wide"])
@pytest.mark.parametrize(("n", "c"), [(600, 12), (500, 40), (30, 50), (200, 2), (5, 1)])
def test_equals_classifying_anew_at_every_tau(n, c, taus):
    curve, at = curve_of_classifier(n, c)
    result = curve.at(taus)
    expected = np.array([at(tau) for tau in taus]).T
    for name, want in zip(CRITERIA, expected, strict=True):
        np.testing.assert_allclose(result[name], want, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_best_is_no_worse_than_any_tau(seed):
    curve, at = curve_of_classifier(700, 15, seed)
    everywhere = np.array([at(tau) for tau in np.linspace(-3, 5, 400)]).T
    for name, values in zip(CRITERIA, everywhere, strict=True):
        tau, (lo, hi), accuracy = curve.best(name)
        assert lo < tau < hi
        assert accuracy >= values.max() - 1e-9
        assert accuracy == curve.at(tau)[name]
        assert accuracy == pytest.approx(at(tau)[CRITERIA.index(name)], abs=1e-9)


def small_cases():
    ends = st.one_of(st.sampled_from([-INF, INF, -1.0, 0.0, 0.5, 2.0]), st.floats(-9, 9))

    @st.composite
    def build(draw):
        n, c = draw(st.integers(1, 12)), draw(st.integers(1, 5))
        lo, hi = (draw(hnp.arrays(np.float64, n, elements=ends)) for _ in range(2))
        labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
        return lo, hi, labels, draw(hnp.arrays(np.int8, c, elements=st.integers(0, 2)))

    return build()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(small_cases(), st.lists(st.floats(-10, 10), max_size=5))
def test_any_small_case(backend, case, taus):
    lo, hi, labels, groups = case
    curve, expected = backend(op, "accuracy_curve", *case), numbers(op.reference(*case))
    fields = numbers(curve)
    np.testing.assert_array_equal(fields.breakpoints, expected.breakpoints)
    assert (np.diff(fields.breakpoints) > 0).all() and np.isfinite(fields.breakpoints).all()
    np.testing.assert_allclose(fields.at_breakpoints, expected.at_breakpoints, atol=1e-9)
    for name in CRITERIA:
        assert getattr(fields, name).shape == (len(fields.breakpoints) + 1,)
        np.testing.assert_allclose(getattr(fields, name), getattr(expected, name), atol=1e-9)
    taus = np.concatenate([taus, fields.breakpoints])
    result = curve.at(taus)
    for i, tau in enumerate(taus):
        want = brute_force((lo <= tau) & (tau <= hi), labels, groups)
        np.testing.assert_allclose([result[name][i] for name in CRITERIA], want, atol=1e-9)
    for name in CRITERIA:
        if np.isnan(getattr(fields, name)).any():
            with pytest.raises(ValueError, match="no sample"):
                curve.best(name)
            continue
        tau, (left, right), accuracy = curve.best(name)
        assert type(tau) is type(left) is type(right) is type(accuracy) is float
        assert left < tau < right and np.isfinite(tau) and tau not in fields.breakpoints
        assert accuracy == curve.at(tau)[name]
        ends = np.concatenate([[-INF], fields.breakpoints, [INF]])
        reachable = np.nextafter(ends[:-1], INF) < ends[1:]
        assert accuracy == pytest.approx(getattr(fields, name)[reachable].max(), abs=1e-9)


def test_tensors_and_arrays_give_the_same_curve():
    rng = np.random.default_rng(0)
    lo, labels = rng.standard_normal(50), rng.integers(0, 4, 50)
    case = lo, lo + rng.random(50), labels, np.array([0, 1, 2, 2], np.int8)
    one, two = accuracy_curve(*case), accuracy_curve(*map(torch.from_numpy, case))
    assert all(isinstance(value, torch.Tensor) for value in vars(one).values())
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(two, name))
    assert one.best() == two.best()
    np.testing.assert_array_equal(one.at(torch.tensor([0.0, 1.0]))["all"], two.at([0, 1])["all"])


def one_class(*intervals):
    lo, hi = np.array(intervals, np.float64).T
    return accuracy_curve(lo, hi, np.zeros(len(lo), np.int64), np.array([2], np.int8))


@pytest.mark.parametrize(
    ("intervals", "tau", "ends"),
    [
        ([(-INF, INF)], 0, (-INF, INF)),
        ([(INF, -INF)], 0, (-INF, INF)),  # never right: accuracy 0 everywhere
        ([(0.25, 0.75)], 0.5, (0.25, 0.75)),
        ([(0.1234, 0.4321)], 0.3, (0.1234, 0.4321)),
        ([(0.61234, 0.61239)], 0.61237, (0.61234, 0.61239)),
        ([(0.5, INF)], 2, (0.5, INF)),
        ([(-4, INF)], 0, (-4, INF)),
        ([(-0.5, INF)], 0, (-0.5, INF)),
        ([(-INF, 0.25)], -1, (-INF, 0.25)),
        ([(1e15, INF)], 1e15 + 1e9, (1e15, INF)),
        ([(0, 1), (3, 4)], 0.5, (0, 1)),  # as wide: nearest to 0
        ([(-4, -3), (1, 2)], 1.5, (1, 2)),
        ([(-2, -1), (1, 2)], -1.5, (-2, -1)),  # as near: the left one
        ([(0, 1), (3, 4.5)], 4, (3, 4.5)),  # the widest
        ([(0, 1), (1, 2)], 0.5, (0, 2)),  # one interval though the right samples change; 1 is a breakpoint
        ([(-INF, 0), (0, INF)], 0, None),
    ],
)
def test_best_tau(intervals, tau, ends):
    chosen, interval, accuracy = one_class(*intervals).best()
    if ends is None:  # 0, the first choice, is a breakpoint
        assert interval == (-INF, INF) and chosen != 0 and accuracy == 50
        return
    assert interval == ends
    assert accuracy == pytest.approx(100 * np.mean([lo <= chosen <= hi for lo, hi in intervals]))
    if len(intervals) == 2 and ends == (0, 2):
        assert 0 < chosen < 2 and chosen != 1
    else:
        assert chosen == pytest.approx(tau, rel=1e-12)


def test_interval_between_neighbouring_numbers():
    near = np.nextafter(0.3, 1)
    curve = one_class((0.3, near), (0.3, near), (1, 2))
    assert curve.best()[1] == (1, 2)  # no number lies between the two
    tau, _, accuracy = one_class((0.3, np.nextafter(near, 1))).best()
    assert tau == near and accuracy == 100


def test_single_point_counts_only_at_the_point():
    curve = one_class((0.5, 0.5), (0, 1))
    fields = numbers(curve)
    np.testing.assert_array_equal(fields.breakpoints, [0, 0.5, 1])
    np.testing.assert_array_equal(fields.all, [0, 50, 50, 0])
    np.testing.assert_array_equal(curve.at([0, 0.5, 0.6, 1, INF])["all"], [50, 100, 50, 50, 0])
    assert curve.at(0.5)["all"].shape == () and curve.at([[0.5], [2]])["all"].shape == (2, 1)


def test_group_without_samples_is_nan():
    curve = accuracy_curve([0.0], [1.0], [1], np.array([0, 2, 1], np.int8))
    fields = numbers(curve)
    assert np.isnan(fields.many).all() and np.isnan(fields.medium).all() and np.isnan(curve.at([0.5])["many"]).all()
    np.testing.assert_array_equal(fields.few, [0, 100, 0])
    np.testing.assert_array_equal(fields.mean_class, [0, 100, 0])


@pytest.mark.parametrize("sizes", [[7] * 30, np.arange(1, 200)], ids=["balanced", "sizes 1 to 199"])
def test_running_sums_do_not_drift(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(0)
    lo = rng.random(len(labels))
    groups = (np.arange(len(sizes)) % 3).astype(np.int8)
    curve = accuracy_curve(lo, lo + rng.random(len(labels)) + 1, labels, groups)
    for name in CRITERIA:
        values = getattr(curve, name)
        assert values[0] == values[-1] == 0
        assert curve.at(1.0)[name] == pytest.approx(100, abs=1e-9)
    for tau in rng.random(10):
        right = (lo <= tau) & (tau <= float(curve.breakpoints[-1]))
        got = [curve.at(tau)[name] for name in CRITERIA]
        np.testing.assert_allclose(got, brute_force(right, labels, groups), atol=1e-9)


@pytest.mark.parametrize(
    ("lo", "hi", "labels", "groups", "message"),
    [
        ([], [], [], [0], r"\(0,\)"),
        ([0.0], [1.0, 2.0], [0], [0], r"\(2,\)"),
        ([0.0], [1.0], [0, 0], [0], r"\(2,\)"),
        ([np.nan], [1.0], [0], [0], "interval 0 is nan"),
        ([0.0], [1.0], [0.5], [0], "float64"),
        ([0.0], [1.0], [0], [3], "group 3"),
        ([0.0], [1.0], [2], [0, 1], "label 2 .* 0 to 1"),
        ([0.0], [1.0], [-1], [0], "label -1"),
    ],
)
def test_wrong_input_is_named(lo, hi, labels, groups, message):
    with pytest.raises(ValueError, match=message):
        accuracy_curve(lo, hi, labels, groups)


def test_wrong_questions_are_named():
    curve = one_class((0, 1))
    with pytest.raises(ValueError, match="'top5'; allowed are all"):
        curve.best("top5")
    with pytest.raises(ValueError, match="'many' is undefined"):
        curve.best("many")
    with pytest.raises(ValueError, match="NaN"):
        curve.at([0.5, np.nan])
