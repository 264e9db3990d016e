from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backends import to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import get_num_threads, set_num_threads

from fastlt.kernels import class_mean as op
from fastlt.kernels.class_mean import class_mean

KINDS = ["un", "l2n", "cl2n", "global_mean"]
DTYPES = ["float32", "float16", "bfloat16"]


def assert_equal(result, expected):
    np.testing.assert_array_equal(result.counts, expected.counts)
    for kind in KINDS:
        got, want = np.asarray(getattr(result, kind)), getattr(expected, kind)
        assert got.dtype == np.float32 and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * (1 + np.abs(want).max()) * 1e-3, err_msg=kind)


def draw(n, d, c, seed=0, dtype="float32") -> tuple[Any, Any]:
    """Features as they are given (bfloat16 as a tensor) and labels, long-tailed and with empty classes."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.standard_normal((n, d)) + 0.3, 0).astype(np.float32)
    given = torch.from_numpy(features).bfloat16() if dtype == "bfloat16" else features.astype(dtype)
    return given, (c * rng.random(n) ** 3).astype(np.int64)


def wide(features):
    """As float32 in NumPy."""
    return features.float().numpy() if isinstance(features, torch.Tensor) else features.astype(np.float32)


def in_numpy(means):
    return SimpleNamespace(**{field: to_numpy(getattr(means, field)) for field in ("counts", *KINDS)})


def formula(features, labels, c):
    """un, l2n, cl2n, global mean row by row, in float64."""
    rows = wide(features).astype(np.float64)
    mean = sum(rows) / len(rows)
    sums = np.zeros((3, c, rows.shape[1]))
    for row, label in zip(rows, labels, strict=True):
        for kind, vector in enumerate((row, row, row - mean)):
            length = np.sqrt(sum(vector * vector)) if kind else 1
            sums[kind, label] += vector / length if length else 0
    return *(sums / np.maximum(np.bincount(labels, minlength=c), 1)[None, :, None]), mean


@pytest.mark.parametrize(
    ("n", "d", "c", "dtype"),
    [(1, 1, 1, "float32"), (9, 5, 1, "float32"), (20, 3, 8142, "float32"), *((14, 9, 4, dtype) for dtype in DTYPES)],
)
def test_equals_the_formula(backend, n, d, c, dtype):
    features, labels = draw(n, d, c, seed=n + d, dtype=dtype)
    result = in_numpy(backend(op, "class_mean", features, labels, c))
    np.testing.assert_array_equal(result.counts, np.bincount(labels, minlength=c))
    for kind, want in zip(KINDS, formula(features, labels, c), strict=True):
        assert getattr(result, kind).dtype == np.float32
        np.testing.assert_allclose(getattr(result, kind), want, rtol=1e-6, atol=1e-9, err_msg=kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "c"), [(5, 2), (7, 20), (9000, 40)])
@pytest.mark.parametrize("d", [1, 17, 64])
def test_cpu_equals_reference(n, c, d, dtype):
    features, labels = draw(n, d, c, seed=n + d, dtype=dtype)
    assert_equal(class_mean(features, labels, c), op.reference(wide(features), labels, c))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "c"), [(1, 1), (17, 1), (3000, 8142)])
@pytest.mark.parametrize("d", [128, 143, 600])
def test_many_columns_equal_reference(n, c, d, dtype):
    """Where products are added in float32, a mean may be off by 1e-7 of what a column of a row typically is."""
    features, labels = draw(n, d, c, seed=n + d, dtype=dtype)
    result, expected = class_mean(features, labels, c), op.reference(wide(features), labels, c)
    np.testing.assert_array_equal(result.counts, expected.counts)
    for kind in KINDS:
        got, want = np.asarray(getattr(result, kind)), getattr(expected, kind)
        typical = 1 if kind in ("un", "global_mean") else 1 / np.sqrt(d)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7 * typical, err_msg=kind)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_small_case(data):
    n, d, c = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    eighths = hnp.arrays(np.int8, (n, d)).map(lambda whole: (whole / 8).astype(np.float32))
    features = data.draw(eighths)
    labels = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    assert_equal(class_mean(features, labels, c), op.reference(features, labels, c))


@pytest.mark.parametrize("d", [33, 150])
def test_same_bits_for_any_number_of_threads_and_layout(d):
    features, labels = draw(5000, d, 11)
    before = get_num_threads()
    results = []
    for threads in (1, before):
        set_num_threads(threads)
        results.append(class_mean(features, labels, 11))
    set_num_threads(before)
    results.append(class_mean(np.asfortranarray(features), labels.astype(np.int32), 11))
    for result in results[1:]:
        for kind in KINDS:
            np.testing.assert_array_equal(getattr(result, kind), getattr(results[0], kind))
    order = np.argsort(labels, kind="stable")  # another order of rows, to the last bits another global mean
    by_class = class_mean(features[order], labels[order], 11)
    for kind in KINDS:
        np.testing.assert_allclose(getattr(by_class, kind), getattr(results[0], kind), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kinds_of_arrays(dtype):
    features, labels = draw(50, 130, 3, dtype=dtype)
    expected = class_mean(features, labels, 3)
    tensor = features if isinstance(features, torch.Tensor) else torch.from_numpy(features)
    for either in (labels, torch.from_numpy(labels)):
        result = class_mean(tensor.clone().requires_grad_(), either, 3)
        for field in ("counts", *KINDS):
            assert isinstance(getattr(result, field), torch.Tensor)
            np.testing.assert_array_equal(getattr(result, field).numpy(), np.asarray(getattr(expected, field)))
    if dtype != "bfloat16":
        assert isinstance(class_mean(features, torch.from_numpy(labels), 3).un, np.ndarray)


def test_input_may_be_read_only():
    features, labels = draw(50, 4, 3)
    features.flags.writeable = labels.flags.writeable = False
    assert class_mean(features, labels, 3).counts.sum() == 50


def test_zero_rows_and_empty_classes_give_zeros():
    features = np.zeros((3, 4), np.float32)
    result = class_mean(features, np.array([0, 0, 2]), 4)
    np.testing.assert_array_equal(result.counts, [2, 0, 1, 0])
    assert all(not getattr(result, kind).any() for kind in KINDS)


@pytest.mark.parametrize("repeats", [1, 50])
def test_rows_equal_to_the_mean_are_centred_to_zero(repeats):
    row = np.tile(np.array([0.1, -7.3, 1e-20], np.float32), repeats)
    result = class_mean(np.tile(row, (1001, 1)), np.zeros(1001, np.int64), 1)
    np.testing.assert_array_equal(result.global_mean, row)
    assert not result.cl2n.any()


@pytest.mark.parametrize("spread", [1e-4, 1, 1e3])
def test_rows_close_to_the_mean(spread):
    """The float32 next to a mean of 1000 is 6e-5 away: what lies between it and the mean must not be lost."""
    rng = np.random.default_rng(0)
    features = (1000 + spread * rng.standard_normal((90, 200))).astype(np.float32)
    labels = rng.integers(0, 4, 90)
    result, expected = class_mean(features, labels, 4), op.reference(features, labels, 4)
    np.testing.assert_allclose(result.cl2n, expected.cl2n, rtol=1e-5, atol=1e-8)


def test_no_drift_over_many_rows_of_one_class():
    rows = 1_280_000
    features = np.full((rows, 1), 0.1, np.float32)
    features[::2] = 1000.1
    result = class_mean(features, np.zeros(rows, np.int64), 1)
    assert result.un[0, 0] == np.float32((np.float64(np.float32(0.1)) + np.float64(np.float32(1000.1))) / 2)
    np.testing.assert_allclose(result.cl2n, 0, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-40, 1e-10, 1e15, 6e37])
@pytest.mark.parametrize("d", [5, 150])
def test_norms_neither_vanish_nor_overflow(scale, d):
    features, labels = draw(60, d, 3)
    features = (features + np.float32(0.5)) * np.float32(scale)
    result, expected = class_mean(features, labels, 3), op.reference(features, labels, 3)
    np.testing.assert_allclose(result.un / np.float32(scale), expected.un / np.float32(scale), rtol=1e-6)
    np.testing.assert_allclose(result.l2n, expected.l2n, rtol=1e-6)
    np.testing.assert_allclose(result.cl2n, expected.cl2n, rtol=1e-5, atol=1e-7)


def test_rows_of_all_sizes_in_one_class():
    features, labels = draw(100, 150, 2)
    features *= np.float32(10) ** np.random.default_rng(1).integers(-38, 37, (100, 1)).astype(np.float32)
    features[::7] = 0
    result, expected = class_mean(features, labels, 2), op.reference(features, labels, 2)
    for kind in KINDS:
        got, want = getattr(result, kind), getattr(expected, kind)
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7 * np.abs(want).max(), err_msg=kind)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("d", [1, 128])
def test_every_16_bit_float_is_read_as_its_value(dtype, d):
    values = torch.arange(-(2**15), 2**15).short().view(getattr(torch, dtype))
    values = values[values.isfinite()].reshape(-1, d)
    result = class_mean(values, torch.arange(len(values)), len(values))
    np.testing.assert_array_equal(result.un.numpy(), values.float().numpy())
    np.testing.assert_allclose(result.global_mean, values.double().mean(dim=0), rtol=1e-6)


ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("features", "labels", "num_classes", "message"),
    [
        (ONE.astype(np.float64), ZERO, 1, "float64"),
        (ONE[0], ZERO, 1, r"\(3,\)"),
        (ONE[:0], ZERO[:0], 1, r"\(0, 3\)"),
        (ONE, ZERO[:1], 1, r"\(1,\)"),
        (np.ones((2, 0), np.float32), ZERO, 1, r"\(2, 0\)"),
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(backend, bad):
    if backend.name == "reference":
        pytest.skip("the reference checks nothing")
    features, labels = draw(9, 3, 2)
    features[[4, 7], 2] = bad
    with pytest.raises(ValueError, match="features row 4 has a NaN or infinite value"):
        backend(op, "class_mean", features, labels, 2)
