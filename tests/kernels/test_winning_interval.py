from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlt.kernels import winning_interval as op
from fastlt.kernels import winning_interval_cpu, winning_interval_cuda
from fastlt.kernels.gpu import SIMULATED
from fastlt.kernels.winning_interval import (
    winning_interval,
    winning_interval_additive,
    winning_interval_linear,
    winning_interval_linear_additive,
)

TAUS = np.concatenate([np.linspace(-3, 4, 57), [-40.0, 40.0]])
ALWAYS, NEVER = (-np.inf, np.inf), (np.inf, -np.inf)


def other(name, **functions):
    """The op's further public function as a module of its own, for `backend`."""
    return SimpleNamespace(**{name: getattr(op, name)}, **functions)


ADDITIVE = other("winning_interval_additive", reference=op.reference_additive, cuda=op.cuda_additive)
LINEAR = other(
    "winning_interval_linear",
    reference=op.reference_linear,
    cuda=lambda x, weight, labels: op.linear(x, weight, labels, winning_interval_cuda.intervals),
)
LINEAR_ADDITIVE = other(
    "winning_interval_linear_additive",
    reference=op.reference_linear_additive,
    cuda=lambda x, weight, bias, prior, labels: op.linear_additive(
        x, weight, bias, prior, labels, winning_interval_cuda.intervals_additive
    ),
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


def draw_additive(n, c, kind, seed=0):
    """The same for priors."""
    scores, log_prior, labels = draw(n, c, kind, seed)
    return scores, log_prior, np.where(np.arange(n) % 2, labels, adjusted_at(scores, log_prior, 0.5).argmax(axis=1))


def run(backend, scores, log_norm, labels):
    return backend(op, "winning_interval", scores, log_norm, labels)


def run_additive(backend, scores, log_prior, labels):
    return backend(ADDITIVE, "winning_interval_additive", scores, log_prior, labels)


SHAPES = [(1, 1), (1, 2), (5, 1), (6, 7), (3, 23)]
LARGE = [(33, 2), (50, 5), (40, 65), (100, 300)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "c"), SHAPES)
def test_equals_argmax(backend, n, c, kind):
    scores, log_norm, labels = draw(n, c, kind)
    interval = run(backend, scores, log_norm, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    compare_with_argmax(scores, log_norm, labels, interval, scores_at)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "c"), LARGE)
def test_equals_reference_and_argmax(n, c, kind):
    scores, log_norm, labels = draw(n, c, kind)
    interval = winning_interval(scores, log_norm, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    ties = compare_with_argmax(scores, log_norm, labels, interval, scores_at)
    assert ties < 0.05 or kind in ("relu", "zero_norm")  # there zeros tie with zeros


@pytest.mark.parametrize("kind", ["mixed", "negative", "equal_norm", "few_norms", "wide"])
@pytest.mark.parametrize(("n", "c"), SHAPES)
def test_additive_equals_argmax(backend, n, c, kind):
    scores, log_prior, labels = draw_additive(n, c, kind)
    interval = run_additive(backend, scores, log_prior, labels)
    assert_same(interval, op.reference_additive(scores, log_prior, labels))
    compare_with_argmax(scores, log_prior, labels, interval, adjusted_at)


@pytest.mark.parametrize("kind", ["mixed", "negative", "equal_norm", "few_norms", "wide"])
@pytest.mark.parametrize(("n", "c"), LARGE)
def test_additive_equals_reference_and_argmax(n, c, kind):
    scores, log_prior, labels = draw_additive(n, c, kind)
    interval = winning_interval_additive(scores, log_prior, labels)
    assert_same(interval, op.reference_additive(scores, log_prior, labels))
    assert compare_with_argmax(scores, log_prior, labels, interval, adjusted_at) < 0.05


def test_a_thousand_small_problems(backend):
    """Every decision is the float64 argmax's, ties excepted; ties are counted and few."""
    problems = 25 if SIMULATED else 1000
    share = []
    for seed in range(problems):
        rng = np.random.default_rng([7, seed])
        n, c = int(rng.integers(1, 5)), int(rng.integers(1, 12))
        scores, log_norm, labels = draw(n, c, KINDS[seed % len(KINDS)], seed)
        interval = run(backend, scores, log_norm, labels)
        share.append(compare_with_argmax(scores, log_norm, labels, interval, scores_at))
        scores, log_prior, labels = draw_additive(n, c, "mixed", seed)
        interval = run_additive(backend, scores, log_prior, labels)
        share.append(compare_with_argmax(scores, log_prior, labels, interval, adjusted_at))
    print(f"{problems} problems, {100 * np.mean(share):.2f} % of the decisions are ties")  # noqa: T201 (pytest -s)
    assert np.mean(share) < 0.05


def test_many_classes():
    scores, log_norm, labels = draw(7, 8142, "mixed")
    interval = winning_interval(scores, log_norm, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    assert np.isfinite(interval).any()


def case(data, ends):
    """Scores, norms and labels of a hypothesis test, with ties."""
    n, c = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    scores = data.draw(hnp.arrays(np.float32, (n, c), elements=ends))
    norms = data.draw(hnp.arrays(np.float64, c, elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.3, 0.5, 2.0])))
    return scores, norms, data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))


def check_case(backend, scores, norms, labels):
    interval = run(backend, scores, norms, labels)
    assert_same(interval, op.reference(scores, norms, labels))
    compare_with_argmax(scores, norms, labels, interval, scores_at)
    priors = np.where(np.isfinite(norms), norms, -4.0)
    interval = run_additive(backend, scores, priors, labels)
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
        ([1, 1], [1, 1], 1, ALWAYS),  # a tie is a win
        ([0, -1], [1, 0], 0, ALWAYS),
        ([0, 0], [1, 0], 1, ALWAYS),
        ([0, 1], [1, 0], 0, NEVER),
        ([-1, 0], [1, 0], 0, NEVER),
        ([-1, -0.0], [1, 0], 0, NEVER),
        ([-1, 1], [1, 0], 1, ALWAYS),
        ([0, -1], [-np.inf, 0], 0, ALWAYS),
        ([0, 1], [-np.inf, 0], 0, NEVER),
        ([0, -1], [-np.inf, 0], 1, NEVER),
        ([5, -1], [-np.inf, 0], 1, NEVER),  # a zero norm means a score of 0, whatever is given
        ([5, -1], [-np.inf, 0], 0, ALWAYS),
        ([5, 1], [-np.inf, 0], 1, ALWAYS),
        ([-5, -1], [-np.inf, 0], 1, NEVER),
        ([3, 4, 4], [1, 0, 2], 0, NEVER),  # needs tau below and above
    ],
)
def test_odd_cases(backend, scores, log_norm, label, expected):
    args = np.array([scores], np.float32), np.array(log_norm, np.float64), np.array([label])
    (lo,), (hi,) = run(backend, *args)
    assert (lo, hi) == pytest.approx(expected, rel=1e-12)
    assert not np.signbit(lo) or lo != 0


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
    assert_same(run(backend, *args), op.reference(*args))


@pytest.mark.parametrize("name", ["winning_interval", "winning_interval_additive"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("ignore:.*invalid value:RuntimeWarning")  # inf - inf, in the simulator
def test_not_finite_is_named(backend, name, value):
    if backend.name == "reference":
        pytest.skip("the reference does not check")
    scores, log_norm, labels = draw(5, 7, "mixed")
    scores[3, 6] = value
    with pytest.raises(ValueError, match="row 3"):
        backend(ADDITIVE if "additive" in name else op, name, scores, log_norm, labels)


def whole(n, c, d, dtype):
    """Features, weights, bias and labels of small whole numbers, whose products float32 holds exactly."""
    rng = np.random.default_rng([n, c, d])
    weight = rng.integers(-3, 4, (c, d)).astype(np.float32)
    weight[c // 2] = 0
    features = torch.from_numpy(rng.integers(-2, 5, (n, d)).astype(np.float32)).to(dtype)
    return features, weight, rng.integers(-2, 3, c).astype(np.float32), rng.integers(0, c, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "c", "d"), [(1, 1, 1), (7, 3, 5), (4, 9, 13)])
def test_linear_equals_reference(backend, n, c, d, dtype):
    features, weight, bias, labels = whole(n, c, d, dtype)
    scores = features.float().numpy() @ weight.T
    with np.errstate(divide="ignore"):
        log_norm = np.log(np.linalg.norm(weight.astype(np.float64), axis=1))
    interval = backend(LINEAR, "winning_interval_linear", features, weight, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    log_prior = np.linspace(-3, -0.5, c)
    arrays = features, weight, bias, log_prior, labels
    interval = backend(LINEAR_ADDITIVE, "winning_interval_linear_additive", *arrays)
    assert_same(interval, op.reference_additive(scores + bias, log_prior, labels))


def test_linear_takes_several_tiles_and_never_all_scores(monkeypatch):
    features, weight, _, labels = whole(1300, 37, 6, torch.float16)
    tiles = []

    def watch(scores, *others):
        tiles.append(len(scores))
        winning_interval_cpu.intervals(scores, *others)

    monkeypatch.setattr("fastlt.kernels.tiles.tile_rows", lambda columns, device: 512)
    result = op.linear(features, torch.from_numpy(weight), torch.from_numpy(labels), watch)
    assert tiles == [512, 512, 276]
    assert_same([one.numpy() for one in result], op.reference_linear(features.numpy(), weight, labels))


def test_linear_names_wrong_input():
    features, weight, bias, labels = whole(6, 4, 5, torch.float32)
    prior = np.zeros(4)
    cases: list[Any] = [
        ((features.double(), weight, labels), "float64"),
        ((features[:0], weight, labels[:0]), r"\(0, 5\)"),
        ((features, weight[:, :3], labels), r"\(4, 3\), features \(6, 5\)"),
        ((features, weight.astype(np.float64), labels), "weights have dtype float64"),
        ((features, weight * np.array([[1], [1], [np.nan], [1]], np.float32), labels), "class 2"),
        ((features * torch.tensor([1, 1, 1, 1, np.inf, 1])[:, None], weight, labels), "row 4"),
        ((features, weight, labels + 4), "label"),
    ]
    for wrong, message in cases:
        x, w, y = wrong
        with pytest.raises(ValueError, match=message):
            winning_interval_linear(x, w, y)
        with pytest.raises(ValueError, match=message):
            winning_interval_linear_additive(x, w, bias, prior, y)
    with pytest.raises(ValueError, match=r"bias is float32 \(3,\)"):
        winning_interval_linear_additive(features, weight, bias[:3], prior, labels)
    with pytest.raises(ValueError, match=r"log_prior\[0\] is -inf"):
        winning_interval_linear_additive(features, weight, bias, prior - np.inf, labels)


def test_tensors_give_tensors():
    features, weight, bias, labels = whole(6, 4, 5, torch.float32)
    scores, norms = features @ torch.from_numpy(weight).T, np.zeros(4)
    tensors = torch.from_numpy(weight).requires_grad_(), torch.from_numpy(labels)
    cases: list[Any] = [
        (winning_interval, (scores.numpy(), norms, labels), (scores, torch.zeros(4), tensors[1])),
        (winning_interval_additive, (scores.numpy(), norms, labels), (scores, norms, labels)),
        (winning_interval_linear, (features.numpy(), weight, labels), (features, *tensors)),
        (
            winning_interval_linear_additive,
            (features.numpy(), weight, bias, norms, labels),
            (features, tensors[0], bias, norms, tensors[1]),
        ),
    ]
    for function, numpy, torches in cases:
        expected, result = function(*numpy), function(*torches)
        for want, got in zip(expected, result, strict=True):
            assert isinstance(want, np.ndarray) and isinstance(got, torch.Tensor) and not got.requires_grad
            np.testing.assert_array_equal(got.numpy(), want)


def test_no_rows_and_any_layout():
    scores, log_norm, labels = draw(20, 70, "mixed")
    empty = winning_interval(scores[:0], log_norm, labels[:0])
    assert empty[0].shape == empty[1].shape == (0,)
    expected = winning_interval(scores, log_norm, labels)
    scores = np.asfortranarray(scores)
    scores.flags.writeable = labels.flags.writeable = False
    assert_same(winning_interval(scores, log_norm.astype(np.float64), labels.astype(np.int16)), expected)


ONE = np.ones((2, 3), np.float32)
NORM = np.zeros(3)
ZERO = np.zeros(2, np.int64)


@pytest.mark.parametrize("function", [winning_interval, winning_interval_additive])
@pytest.mark.parametrize(
    ("scores", "per_class", "labels", "message"),
    [
        (ONE.astype(np.float64), NORM, ZERO, "float64"),
        (ONE[:, :0], NORM[:0], ZERO, "at least 1"),
        (ONE, NORM[:2], ZERO, r"log_\w+ is float64 \(2,\)"),
        (ONE, NORM, ZERO[:1], r"\(1,\)"),
        (ONE, NORM, ZERO - 1, "label -1"),
        (ONE, NORM, ZERO + 3, "label 3 .* 0 to 2"),
        (ONE, np.array([0, np.nan, 0]), ZERO, r"log_\w+\[1\] is nan"),
        (ONE, np.array([0, 0, np.inf]), ZERO, r"log_\w+\[2\] is inf"),
        (ONE * np.array([[1], [np.nan]], np.float32), NORM, ZERO, "row 1"),
        (ONE * np.array([[-np.inf], [1]], np.float32), NORM, ZERO, "row 0"),
    ],
)
def test_wrong_input_is_named(function, scores, per_class, labels, message):
    with pytest.raises(ValueError, match=message):
        function(scores, per_class, labels)


def test_prior_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"log_prior\[0\] is -inf"):
        winning_interval_additive(ONE, np.array([-np.inf, 0, 0]), ZERO)
