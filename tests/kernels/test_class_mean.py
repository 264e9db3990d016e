import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import get_num_threads, set_num_threads

from fastlt.kernels import class_mean as op
from fastlt.kernels.class_mean import class_mean

KINDS = ["un", "l2n", "cl2n", "global_mean"]


def assert_equal(result, expected):
    np.testing.assert_array_equal(result.counts, expected.counts)
    for kind in KINDS:
        got, want = getattr(result, kind), getattr(expected, kind)
        assert got.dtype == np.float32 and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * (1 + np.abs(want).max()) * 1e-3, err_msg=kind)


def draw(n, d, c, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n, d)) + 0.3, 0).astype(dtype)
    return features, (c * rng.random(n) ** 3).astype(np.int64)  # long-tailed, with empty classes


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("n", "c"), [(1, 1), (2, 1), (5, 2), (7, 20), (300, 7), (1000, 3), (9000, 40)])
@pytest.mark.parametrize("d", [1, 3, 17, 64])
@pytest.mark.parametrize("in_order", [False, True])
def test_cpu_equals_reference(n, c, d, dtype, in_order):
    features, labels = draw(n, d, c, seed=n + d, dtype=dtype)
    labels = np.sort(labels) if in_order else labels
    assert_equal(class_mean(features, labels, c), op.reference(features, labels, c))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_small_case(data):
    n, d, c = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    eighths = hnp.arrays(np.int8, (n, d)).map(lambda whole: (whole / 8).astype(np.float32))
    features = data.draw(eighths)
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    assert_equal(class_mean(features, labels, c), op.reference(features, labels, c))


def test_means_are_those_of_numpy():
    features, labels = draw(400, 9, 5)
    result = class_mean(features, labels, 5)
    rows = features.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    for label in np.unique(labels):
        mine = labels == label
        np.testing.assert_allclose(result.un[label], rows[mine].mean(axis=0), rtol=1e-6)
        unit = centred[mine] / np.sqrt((centred[mine] ** 2).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(result.cl2n[label], unit.mean(axis=0), rtol=1e-5, atol=1e-7)


def test_same_bits_for_any_number_of_threads_and_layout():
    features, labels = draw(5000, 33, 11)
    before = get_num_threads()
    results = []
    for threads in (1, before):
        set_num_threads(threads)
        results.append(class_mean(features, labels, 11))
    set_num_threads(before)
    results.append(class_mean(np.asfortranarray(features), labels.astype(np.int32), 11))
    order = np.argsort(labels, kind="stable")
    results.append(class_mean(features[order], labels[order], 11))
    for result in results[1:]:
        for kind in KINDS:
            np.testing.assert_array_equal(getattr(result, kind), getattr(results[0], kind))


def test_input_may_be_read_only():
    features, labels = draw(50, 4, 3)
    features.flags.writeable = labels.flags.writeable = False
    assert class_mean(features, labels, 3).counts.sum() == 50


def test_zero_rows_and_empty_classes_give_zeros():
    features = np.zeros((3, 4), np.float32)
    result = class_mean(features, np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(result.counts, [2, 0, 1, 0])
    assert all(not getattr(result, kind).any() for kind in KINDS)


def test_rows_equal_to_the_mean_are_centred_to_zero():
    features = np.tile(np.array([0.1, -7.3, 1e-20], np.float32), (1001, 1))
    result = class_mean(features, np.zeros(1001, np.int64), 1)
    np.testing.assert_array_equal(result.global_mean, features[0])
    assert not result.cl2n.any()


def test_no_drift_over_many_rows_of_one_class():
    rows = 1_280_000
    features = np.full((rows, 1), 0.1, np.float32)
    features[::2] = 1000.1
    result = class_mean(features, np.zeros(rows, np.int64), 1)
    assert result.un[0, 0] == np.float32((np.float64(np.float32(0.1)) + np.float64(np.float32(1000.1))) / 2)
    np.testing.assert_allclose(result.cl2n, 0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_neither_vanish_nor_overflow(scale):
    features, labels = draw(60, 5, 3)
    features = (features + np.float32(0.5)) * np.float32(scale)
    result, expected = class_mean(features, labels, 3), op.reference(features, labels, 3)
    np.testing.assert_allclose(result.l2n, expected.l2n, rtol=1e-6)
    np.testing.assert_allclose(result.cl2n, expected.cl2n, rtol=1e-5, atol=1e-7)


def test_every_float16_is_read_as_its_value():
    bits = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = bits[np.isfinite(bits)][:, None]
    result = class_mean(values, np.arange(len(values)), len(values))
    np.testing.assert_array_equal(result.un, values.astype(np.float32))


ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("features", "labels", "num_classes", "message"),
    [
        (ONE.astype(np.float64), ZERO, 1, "float64"),
        (ONE[0], ZERO, 1, r"\(3,\)"),
        (ONE[:0], ZERO[:0], 1, r"\(0, 3\)"),
        (ONE, ZERO[:1], 1, r"\(1,\)"),
        (ONE, ZERO.astype(np.float32), 1, "float32"),
        (ONE, ZERO - 1, 1, "label -1"),
        (ONE, ZERO + 4, 4, "label 4 .* 0 to 3"),
        (ONE, ZERO, 0, "num_classes is 0"),
        (np.array([[1, 1], [1, np.nan]], np.float32), ZERO, 1, "row 1"),
        (np.array([[1, -np.inf], [1, 1]], np.float16), ZERO, 1, "row 0"),
        (np.array([[np.inf, 1], [-np.inf, 1]], np.float32), ZERO, 1, "row 0"),
    ],
)
def test_wrong_input_is_named(features, labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        class_mean(features, labels, num_classes)
