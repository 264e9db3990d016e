from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backends import GPU, Backend, to_numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlt.kernels import winning_interval as op
from fastlt.kernels import winning_interval_cpu, winning_interval_cuda
from fastlt.kernels.gpu import SIMULATED
from fastlt.kernels.winning_interval import (
    winning_interval,
    winning_interval_additive,
)

TAUS = np.concatenate([np.linspace(-3, 4, 57), [-40.0, 40.0]])
CPU = Backend("cpu")
ALWAYS, NEVER = (-np.inf, np.inf), (np.inf, -np.inf)


def intervals(backend, scores, per_class, labels, additive=False):
    """Intervals of scores in memory, by the loops that a backend runs behind its matrix product."""
    if backend.name == "reference":
        return (op.reference_additive if additive else op.reference)(scores, per_class, labels)
    module = winning_interval_cpu if backend.name == "cpu" else winning_interval_cuda
    fill = module.intervals_additive if additive else module.intervals
    device = torch.device("cuda" if backend.name == "cuda" and GPU else "cpu")
    rows, each_class, classes = (torch.from_numpy(one).to(device) for one in (scores, per_class, labels))
    return to_numpy(op.intervals([(slice(None), rows)], each_class, classes, fill))


def of_features(backend, public, *arguments):
    """Intervals of features and weights by the public function, in the simulator with the loops of `cuda`."""
    if backend.name == "reference":
        pytest.skip("the reference takes scores")
    with pytest.MonkeyPatch.context() as patch:
        if backend.name == "cuda" and SIMULATED:
            patch.setattr(op, "on_gpu", lambda _: True)
        return backend(
            SimpleNamespace(**{public: getattr(op, public), "cuda": getattr(op, public)}), public, *arguments
        )


def scores_at(scores, log_norm, tau):
    z = scores.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(log_norm), z * np.exp(-tau * log_norm), 0.0)


def adjusted_at(scores, log_prior, tau):
    return scores.astype(np.float64) - tau * log_prior


def compare_with_argmax(scores, per_class, labels, interval, at):
    """Check every tau that is not a tie against the definition; return the share of ties."""
    lo, hi = interval
    ties = 0
    for tau in TAUS:
        z = at(scores, per_class, tau)
        own = z[np.arange(len(labels)), labels]
        z[np.arange(len(labels)), labels] = -np.inf
        rival = z.max(axis=1)
        alone = np.isinf(rival)
        size = np.maximum(np.abs(own), np.abs(rival))
        if at is adjusted_at:  # where score and prior cancel, their own size decides about rounding
            size = np.maximum(size, np.abs(tau * per_class).max())
        tie = ~alone & (np.abs(own - rival) <= 1e-9 * size)
        inside = (lo <= tau) & (tau <= hi)
        np.testing.assert_array_equal(inside[~tie], (own > rival)[~tie], err_msg=f"tau {tau}")
        ties += tie.sum()
    return ties / (len(TAUS) * len(labels))


def assert_same(result, expected):
    for got, want in zip(result, expected, strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def draw(n, c, kind, seed=0):
    """Random scores, norms and labels; most labels win near tau = 0.5."""
    rng = np.random.default_rng([seed, n, c])
    scores = rng.standard_normal((n, c)).astype(np.float32)
    log_norm = rng.standard_normal(c) * 0.5
    if kind == "negative":
        scores = -np.abs(scores)
    elif kind == "relu":
        scores = np.maximum(scores, 0)
    elif kind == "zero_norm":
        log_norm[rng.random(c) < 0.3] = -np.inf
        scores[:, np.isinf(log_norm)] = 0
        scores[: n // 2] -= 3 * np.isfinite(log_norm).astype(np.float32)
    elif kind == "equal_norm":
        log_norm[:] = 0.7
    elif kind == "few_norms":
        log_norm = np.round(log_norm * 2) / 2
    elif kind == "close_norms":
        log_norm *= 1e-6
    elif kind == "subnormal":
        scores *= np.float32(1e-39)
    elif kind == "wide":
        scores = np.exp(rng.uniform(-80, 80, (n, c))).astype(np.float32)
    labels = rng.integers(0, c, n)
    best = scores_at(scores, log_norm, 0.5).argmax(axis=1)
    return scores, log_norm, np.where(rng.random(n) < 0.7, best, labels)


KINDS = ["mixed", "negative", "relu", "zero_norm", "equal_norm", "few_norms", "close_norms", "subnormal", "wide"]


def draw_additive(n, c, kind):
    """The same for priors."""
    scores, log_prior, labels = draw(n, c, kind)
    return scores, log_prior, np.where(np.arange(n) % 2, labels, adjusted_at(scores, log_prior, 0.5).argmax(axis=1))


LARGE = [(33, 2), (40, 65), (100, 300), (7, 8142)]  # rows and classes; 64 classes are a block of the CPU's loops


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "c"), LARGE)
def test_equals_reference_and_argmax(n, c, kind):
    scores, log_norm, labels = draw(n, c, kind)
    interval = intervals(CPU, scores, log_norm, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    ties = compare_with_argmax(scores, log_norm, labels, interval, scores_at)
    assert ties < 0.05 or kind in ("relu", "zero_norm")  # there zeros tie with zeros


@pytest.mark.parametrize("kind", ["mixed", "equal_norm", "wide"])
def test_additive_equals_reference_and_argmax(kind):
    scores, log_prior, labels = draw_additive(100, 300, kind)
    interval = intervals(CPU, scores, log_prior, labels, additive=True)
    assert_same(interval, op.reference_additive(scores, log_prior, labels))
    assert compare_with_argmax(scores, log_prior, labels, interval, adjusted_at) < 0.05


def test_hundreds_of_small_problems(backend):
    """Every decision is the float64 argmax's, ties excepted; ties are counted and few."""
    share = []
    for seed in range(27 if SIMULATED else 450):
        rng = np.random.default_rng([7, seed])
        n, c = int(rng.integers(1, 7)), int(rng.integers(1, 24))
        kind = KINDS[seed % len(KINDS)]
        scores, log_norm, labels = draw(n, c, kind, seed)
        interval = intervals(backend, scores, log_norm, labels)
        assert_same(interval, op.reference(scores, log_norm, labels))
        share.append(compare_with_argmax(scores, log_norm, labels, interval, scores_at))
        log_prior = np.where(np.isfinite(log_norm), log_norm, -3.0)
        interval = intervals(backend, scores, log_prior, labels, additive=True)
        assert_same(interval, op.reference_additive(scores, log_prior, labels))
        share.append(compare_with_argmax(scores, log_prior, labels, interval, adjusted_at))
    assert np.mean(share) < 0.05


def case(data, ends):
    """Scores, norms and labels of a hypothesis test, with ties."""
    n, c = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    scores = data.draw(hnp.arrays(np.float32, (n, c), elements=ends))
    norms = data.draw(hnp.arrays(np.float64, c, elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.3, 0.5, 2.0])))
    return scores, norms, data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))


def check_case(backend, scores, norms, labels):
    interval = intervals(backend, scores, norms, labels)
    assert_same(interval, op.reference(scores, norms, labels))
    compare_with_argmax(scores, norms, labels, interval, scores_at)
    priors = np.where(np.isfinite(norms), norms, -4.0)
    interval = intervals(backend, scores, priors, labels, additive=True)
    assert_same(interval, op.reference_additive(scores, priors, labels))
    compare_with_argmax(scores, priors, labels, interval, adjusted_at)


WHOLE = st.integers(-3, 3).map(float)
ANY = st.one_of(WHOLE, st.floats(-(2.0**100), 2.0**100, width=32))
WITH_FIXTURE = [HealthCheck.function_scoped_fixture]  # fixtures here hold no state


@settings(max_examples=10 if SIMULATED else 100, deadline=None, suppress_health_check=WITH_FIXTURE)
@given(st.data())
def test_any_small_case(backend, data):
    check_case(backend, *case(data, ANY))


@pytest.mark.parametrize(
    ("scores", "log_norm", "label", "expected"),
    [
        ([-1], [0], 0, ALWAYS),  # one class
        ([4, 1], [2, 0], 0, (-np.inf, np.log(4) / 2)),
        ([4, 1], [2, 0], 1, (np.log(4) / 2, np.inf)),
        ([-4, -1], [2, 0], 0, (np.log(4) / 2, np.inf)),  # turned round
        ([1, 1], [2, 0], 0, (-np.inf, 0)),
        ([2, 1], [1, 1], 0, ALWAYS),
        ([2, 1], [1, 1], 1, NEVER),
        ([1, 1], [1, 1], 0, ALWAYS),  # a tie at every tau is won by the first class, as in argmax
        ([1, 1], [1, 1], 1, NEVER),
        ([-1, -1], [1, 1], 1, NEVER),
        ([1, 2, 2, 1], [2, 1, 1, 2], 2, NEVER),
        ([0, -1], [1, 0], 0, ALWAYS),
        ([0, 0], [1, 0], 0, ALWAYS),
        ([0, 0], [1, 0], 1, NEVER),
        ([0, 1], [1, 0], 0, NEVER),
        ([-1, 0], [1, 0], 0, NEVER),
        ([-1, -0.0], [1, 0], 0, NEVER),
        ([-1, 1], [1, 0], 1, ALWAYS),
        ([0, -1], [-np.inf, 0], 0, ALWAYS),
        ([0, 1], [-np.inf, 0], 0, NEVER),
        ([0, -1], [-np.inf, 0], 1, NEVER),
        ([5, -1], [-np.inf, 0], 1, NEVER),  # a zero norm means a score of 0, whatever is given
        ([5, -1], [-np.inf, 0], 0, ALWAYS),
        ([5, -0.0, -1], [-np.inf, 0, 0], 1, NEVER),
        ([5, 1], [-np.inf, 0], 1, ALWAYS),
        ([-5, -1], [-np.inf, 0], 1, NEVER),
        ([3, 4, 4], [1, 0, 2], 0, NEVER),  # needs tau below and above
    ],
)
def test_odd_cases(backend, scores, log_norm, label, expected):
    args = np.array([scores], np.float32), np.array(log_norm, np.float64), np.array([label])
    (lo,), (hi,) = intervals(backend, *args)
    assert (lo, hi) == pytest.approx(expected, rel=1e-12)
    assert not np.signbit(lo) or lo != 0


def test_of_equal_classes_the_first_wins_at_every_tau(backend):
    """Every row is right for exactly one class, as in argmax, where rows of weights are equal and features are 0."""
    z = np.array([[3, 1, 3, 1], [-1, -3, -1, -3], [0, 0, 0, 0], [0, -2, 0, -2]], np.float32)
    scores, labels = z.repeat(4, axis=0), np.tile(np.arange(4), 4)
    equal = np.array([0.5, 0.2, 0.5, 0.2])
    for additive, at in ((False, scores_at), (True, adjusted_at)):
        lo, hi = intervals(backend, scores, equal, labels, additive)
        assert_same((lo, hi), (op.reference_additive if additive else op.reference)(scores, equal, labels))
        for tau in (-0.6, 0.3, 0.9):
            np.testing.assert_array_equal((lo <= tau) & (tau <= hi), at(scores, equal, tau).argmax(axis=1) == labels)


TINY = float(np.float32(1e-45))  # the smallest float32 there is


@pytest.mark.parametrize(
    ("scores", "log_norm", "label"),
    [
        ([TINY, 3 * TINY, 1e38], [0.5, 0.1, 0], 0),
        ([-TINY, -2 * TINY, -1e38], [0.5, 0.1, 0], 1),
        ([3, 2, 1], [0, 1e-29, 5e-29], 0),
        ([3, 2, 1], [0, -1e-29, 5e-29], 1),
        ([1, 3, 2], [0, 1e-300, 1], 0),  # bounds that float32 does not hold
        ([1, 3, 2], [0, 1e-39, 1], 0),
        ([3, 3 * (1 + 2**-23), 3], [0, 1, 2], 0),
        ([1e38, 1e38, 3e38], [-1000, 1000, 0], 1),
        ([1, 1 + 1e-6, 1 + 2e-6, 1 + 3e-6], [0, 1, 1, 1], 0),  # bounds closer than the margin
    ],
)
def test_where_float32_says_little(backend, scores, log_norm, label):
    args = np.array([scores], np.float32), np.array(log_norm, np.float64), np.array([label])
    assert_same(intervals(backend, *args), op.reference(*args))


def whole(n, c, d, dtype):
    """Features, weights, bias and labels of small whole numbers, whose products float32 holds exactly."""
    rng = np.random.default_rng([n, c, d])
    weight = rng.integers(-3, 4, (c, d)).astype(np.float32)
    weight[c // 2] = 0
    features = torch.from_numpy(rng.integers(-2, 5, (n, d)).astype(np.float32)).to(dtype)
    return features, weight, rng.integers(-2, 3, c).astype(np.float32), rng.integers(0, c, n)


def scores_of(features, weight):
    """Scores, and log norms of the weights."""
    with np.errstate(divide="ignore"):
        return features.float().numpy() @ weight.T, np.log(np.linalg.norm(weight.astype(np.float64), axis=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "c", "d"), [(1, 1, 1), (7, 9, 5)])
def test_features_and_weights_equal_the_reference(backend, n, c, d, dtype):
    features, weight, bias, labels = whole(n, c, d, dtype)
    scores, log_norm = scores_of(features, weight)
    interval = of_features(backend, "winning_interval", features, weight, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    log_prior = np.linspace(-3, -0.5, c)
    interval = of_features(backend, "winning_interval_additive", features, weight, bias, log_prior, labels)
    assert_same(interval, op.reference_additive(scores + bias, log_prior, labels))


def test_several_tiles_and_never_all_scores(monkeypatch):
    features, weight, _, labels = whole(1300, 37, 6, torch.float16)
    tiles = []

    def watch(scores, *others):
        tiles.append(len(scores))
        intervals_of_a_tile(scores, *others)

    intervals_of_a_tile = winning_interval_cpu.intervals
    monkeypatch.setattr("fastlt.kernels.tiles.tile_rows", lambda columns, device: 512)
    monkeypatch.setattr(winning_interval_cpu, "intervals", watch)
    result = winning_interval(features, weight, labels)
    assert tiles == [512, 512, 276]
    assert_same([one.numpy() for one in result], op.reference(*scores_of(features, weight), labels))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:.*invalid value:RuntimeWarning")  # inf - inf, in the simulator
def test_scores_that_are_not_finite_are_named(backend, value):
    features, weight, bias, labels = whole(5, 4, 3, torch.float32)
    features[3, 1] = value
    weight[:, 1] = [0, 1, 0, 2]
    with pytest.raises(ValueError, match="row 3"):
        of_features(backend, "winning_interval", features, weight, labels)
    with pytest.raises(ValueError, match="row 3"):
        of_features(backend, "winning_interval_additive", features, weight, bias, np.zeros(4), labels)


def test_wrong_input_is_named():
    features, weight, bias, labels = whole(6, 4, 5, torch.float32)
    prior = np.zeros(4)
    cases: list[Any] = [
        ((features.double(), weight, labels), "float64"),
        ((features[:0], weight, labels[:0]), r"\(0, 5\)"),
        ((features, weight[:, :3], labels), r"\(4, 3\), features \(6, 5\)"),
        ((features, weight.astype(np.float64), labels), "weights have dtype float64"),
        ((features, weight * np.array([[1], [1], [np.nan], [1]], np.float32), labels), "class 2"),
        ((features, weight, labels[:1]), r"\(1,\)"),
        ((features, weight, labels - 4), "label -"),
        ((features, weight, labels + 4), "label . .* 0 to 3"),
    ]
    for wrong, message in cases:
        x, w, y = wrong
        with pytest.raises(ValueError, match=message):
            winning_interval(x, w, y)
        with pytest.raises(ValueError, match=message):
            winning_interval_additive(x, w, bias, prior, y)
    for wrong_bias, wrong_prior, message in [
        (bias[:3], prior, r"bias is float32 \(3,\)"),
        (bias, prior[:3], r"log_prior is float64 \(3,\)"),
        (bias, prior - np.inf, r"log_prior\[0\] is -inf"),
        (bias, prior * np.nan, r"log_prior\[0\] is nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            winning_interval_additive(features, weight, wrong_bias, wrong_prior, labels)


def test_arrays_and_tensors_of_any_layout_give_the_same():
    features, weight, bias, labels = whole(20, 70, 6, torch.float32)
    prior = np.linspace(-3, -0.5, 70)
    frozen = np.asfortranarray(features.numpy())
    frozen.flags.writeable = labels.flags.writeable = False
    tensors = torch.from_numpy(weight).requires_grad_(), torch.from_numpy(labels.copy())
    cases: list[Any] = [
        (winning_interval, (frozen, weight, labels.astype(np.int16)), (features, *tensors)),
        (
            winning_interval_additive,
            (frozen, weight, bias, prior, labels),
            (features, tensors[0], torch.from_numpy(bias), prior, tensors[1]),
        ),
    ]
    for function, numpy, torches in cases:
        expected, result = function(*numpy), function(*torches)
        for want, got in zip(expected, result, strict=True):
            assert isinstance(want, np.ndarray) and isinstance(got, torch.Tensor) and not got.requires_grad
            np.testing.assert_array_equal(got.numpy(), want)
    turned = winning_interval(frozen[::-1], weight[:, ::-1][:, ::-1], labels[::-1])  # NumPy's views of negative strides
    np.testing.assert_array_equal(np.stack(turned)[:, ::-1], np.stack(winning_interval(frozen, weight, labels)))
