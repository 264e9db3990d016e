import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlt.kernels import winning_interval as op
from fastlt.kernels.winning_interval import winning_interval, winning_interval_additive

TAUS = np.concatenate([np.linspace(-3, 4, 57), [-40.0, 40.0]])
ALWAYS, NEVER = (-np.inf, np.inf), (np.inf, -np.inf)


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
        tie = ~alone & (np.abs(own - rival) <= 1e-9 * np.maximum(np.abs(own), np.abs(rival)))
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "c"), [(1, 1), (1, 2), (33, 2), (50, 5), (40, 65), (100, 300)])
def test_equals_reference_and_argmax(n, c, kind):
    scores, log_norm, labels = draw(n, c, kind)
    interval = winning_interval(scores, log_norm, labels)
    assert_same(interval, op.reference(scores, log_norm, labels))
    ties = compare_with_argmax(scores, log_norm, labels, interval, scores_at)
    assert ties < 0.05 or kind in ("relu", "zero_norm")  # there zeros tie with zeros


@pytest.mark.parametrize("kind", ["mixed", "negative", "equal_norm", "few_norms", "wide"])
@pytest.mark.parametrize(("n", "c"), [(1, 1), (1, 2), (33, 2), (100, 130)])
def test_additive_equals_reference_and_argmax(n, c, kind):
    scores, log_prior, labels = draw(n, c, kind)
    labels = np.where(np.arange(n) % 2, labels, adjusted_at(scores, log_prior, 0.5).argmax(axis=1))
    interval = winning_interval_additive(scores, log_prior, labels)
    assert_same(interval, op.reference_additive(scores, log_prior, labels))
    assert compare_with_argmax(scores, log_prior, labels, interval, adjusted_at) < 0.05


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_small_case(data):
    n, c = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    whole = st.integers(-3, 3).map(float)
    any_score = st.one_of(whole, st.floats(-(2.0**100), 2.0**100, width=32))
    scores = data.draw(hnp.arrays(np.float32, (n, c), elements=any_score))
    norms = data.draw(hnp.arrays(np.float64, c, elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.3, 0.5, 2.0])))
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    interval = winning_interval(scores, norms, labels)
    assert_same(interval, op.reference(scores, norms, labels))
    compare_with_argmax(scores, norms, labels, interval, scores_at)
    priors = np.where(np.isfinite(norms), norms, -4.0)
    interval = winning_interval_additive(scores, priors, labels)
    assert_same(interval, op.reference_additive(scores, priors, labels))


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
def test_odd_cases(scores, log_norm, label, expected):
    args = np.array([scores], np.float32), np.array(log_norm, np.float64), np.array([label])
    for function in (op.reference, winning_interval):
        (lo,), (hi,) = function(*args)
        assert (lo, hi) == pytest.approx(expected, rel=1e-12)


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
