from typing import Any

import numpy as np
import pytest
import torch
from numba import get_num_threads, set_num_threads

from fastlt.kernels import best_class, tiles
from fastlt.kernels import group_count as op
from fastlt.kernels.group_count import GroupCounts, group_count

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1, 1), (1, 3, 5, 3), (4, 2, 1, 5), (4, 2, 4, 1), (5, 3, 7, 13), (4, 2, 131, 2)]  # N, K, C, D
CASES = [(*shape, torch.float32) for shape in SHAPES] + [(*SHAPES[4], dtype) for dtype in DTYPES[1:]]
TIE = 1e-5


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Three rows a tile, and products of at most two classifiers of seven classes."""
    monkeypatch.setattr(tiles, "tile_rows", lambda columns, device: 3)
    monkeypatch.setattr(best_class, "_WIDE", 14)


def problem(seed, n, k, c, d, dtype=torch.float32) -> tuple[Any, ...]:
    """Half of the labels are what the first classifier says, so that there is something to count."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.standard_normal((n, d)).astype(np.float32)).to(dtype)
    weights = rng.standard_normal((k, c, d)).astype(np.float32)
    biases, scales = rng.uniform(0.5, 2, (2, k, c)).astype(np.float32)
    labels = (features.double().numpy() @ weights[0].T).argmax(axis=1)
    labels[::2] = rng.integers(0, c, len(labels[::2]))
    groups = rng.integers(0, 3, c).astype(np.int8)
    return features if dtype == torch.bfloat16 else features.numpy(), weights, labels, groups, biases, scales


def ties(features, weights, biases, scales):
    """How many decisions are within rounding of another one."""
    if features.dtype in DTYPES:
        features = features.float().numpy()
    x = features.astype(np.float64)
    final = np.einsum("nd,kcd->nkc", x, weights) * scales + biases
    if final.shape[2] == 1:
        return 0
    size = np.linalg.norm(x, axis=1)[:, None, None] * np.linalg.norm(weights, axis=2) * scales + np.abs(biases)
    top = np.sort(final, axis=2)
    return int((top[:, :, -1] - top[:, :, -2] <= TIE * size.max(axis=2)).sum())


def assert_same(found, expected, tied=0):
    assert isinstance(found, GroupCounts) and found.correct.dtype == found.total.dtype == np.int64
    assert found.correct.shape == expected.correct.shape
    assert np.abs(found.correct - expected.correct).sum() <= 2 * tied
    np.testing.assert_array_equal(found.total, expected.total)
    np.testing.assert_array_equal(found.groups, expected.groups)


@pytest.mark.parametrize(("n", "k", "c", "d", "dtype"), CASES)
@pytest.mark.parametrize("given", ["biases", "both", "one_matrix"])
def test_equals_counting_one_by_one(backend, given, n, k, c, d, dtype):
    features, weights, labels, groups, biases, scales = problem(n + k + c + d, n, k, c, d, dtype)
    if given == "one_matrix":
        weights = weights[:1]
    arguments = [biases] if given == "biases" else [biases, scales]
    found = backend(op, "group_count", features, weights, labels, groups, *arguments)
    scales = np.ones((k, c)) if given == "biases" else scales
    assert ties(features, weights, biases, scales) == 0
    correct = np.zeros((k, c), np.int64)
    for x, label in zip(torch.as_tensor(features).double().numpy(), labels, strict=True):
        for one in range(k):
            predicted = np.argmax(scales[one] * (weights[min(one, len(weights) - 1)] @ x) + biases[one])
            correct[one, label] += predicted == label
    assert correct.sum() > 0 or n == 1
    assert_same(found, GroupCounts(correct, np.bincount(labels, minlength=c), groups))


def test_random_small_problems_decide_as_float64():
    decisions = tied = 0
    for seed in range(300):
        n, k, c, d = np.random.default_rng(seed).integers(1, 12, 4)
        features, weights, labels, groups, biases, scales = problem(seed, n, k, c, d)
        weights = weights[: 1 if seed % 2 else None]
        found = group_count(features, weights, labels, groups, biases, scales)
        near = ties(features, weights, biases, scales)
        assert_same(found, op.reference(features, weights, labels, groups, biases, scales), near)
        decisions, tied = decisions + n * k, tied + near
    assert decisions > 8000 and tied <= 0.002 * decisions


def test_counts_and_accuracies_by_hand(backend):
    features = np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 1, 1, 3]]
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    groups = np.array([0, 0, 1, 2], np.int8)
    right = np.eye(4, dtype=np.float32)
    first = np.zeros((4, 4), np.float32)  # ties everywhere: class 0
    weights = np.stack([right, first, right[[1, 0, 2, 3]]])
    found = backend(op, "group_count", features, weights, labels, groups)
    np.testing.assert_array_equal(found.correct, [[4, 2, 0, 1], [4, 0, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(found.total, [4, 2, 0, 1])
    np.testing.assert_array_equal(found.group_correct, [[6, 0, 1], [4, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(found.group_total, [6, 0, 1])
    np.testing.assert_allclose(found.all, [100, 400 / 7, 100 / 7])
    np.testing.assert_allclose(found.mean_class, [100, 100 / 3, 100 / 3])
    np.testing.assert_allclose(found.many, [100, 50, 0])
    np.testing.assert_array_equal(found.medium, [np.nan] * 3)
    np.testing.assert_allclose(found.few, [100, 0, 100])


def test_a_bias_of_minus_infinity_takes_a_class_out(backend):
    features, weights = np.ones((4, 1), np.float32), np.array([[[3], [2], [1]]], np.float32)
    biases = np.array([[0, 0, 0], [-np.inf, 0, 0], [-np.inf, -np.inf, 0]], np.float32)
    found = backend(op, "group_count", features, weights, np.array([0, 1, 2, 1]), np.zeros(3, np.int8), biases)
    np.testing.assert_array_equal(found.correct, [[1, 0, 0], [0, 2, 0], [0, 0, 1]])


def test_many_classes(monkeypatch):
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    features, groups = rng.standard_normal((900, 4)).astype(np.float32), rng.integers(0, 3, 8142)
    weights = rng.standard_normal((2, 8142, 4)).astype(np.float32)
    weights /= np.linalg.norm(weights, axis=2, keepdims=True)
    labels = rng.integers(0, 8142, 900)
    features[::2] = weights[1, labels[::2]] * 3
    found = group_count(features, weights, labels, groups)
    assert_same(found, op.reference(features, weights, labels, groups.astype(np.int8)))
    assert found.correct[1].sum() >= 450 > found.correct[0].sum()


def test_tensors_are_counted_as_arrays_are():
    features, weights, labels, groups, biases, scales = problem(0, 9, 3, 5, 4)
    expected = group_count(features, weights, labels, groups, biases, scales)
    tensors = [torch.from_numpy(one) for one in (features, weights, labels, groups, biases, scales)]
    found = group_count(*tensors)
    assert isinstance(found.correct, np.ndarray)
    assert_same(found, expected)
    assert_same(group_count(features, weights, labels.astype(np.uint8), groups.tolist(), biases, scales), expected)


def test_any_number_of_threads_gives_the_same(monkeypatch):
    monkeypatch.undo()
    several = group_count(*(arguments := problem(0, 3000, 4, 60, 33)))
    threads, numba_threads = torch.get_num_threads(), get_num_threads()
    try:
        torch.set_num_threads(1)
        set_num_threads(1)
        assert_same(group_count(*arguments), several)
    finally:
        torch.set_num_threads(threads)
        set_num_threads(numba_threads)


X, W = np.ones((5, 2), np.float32), np.ones((3, 4, 2), np.float32)
ONES = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": X.astype(np.float64)}, "features have dtype float64"),
        ({"features": X[:, :0]}, r"\(5, 0\)"),
        ({"weights": W[0]}, r"float32 \(4, 2\); allowed is float32 \[K, C, 2\]"),
        ({"weights": np.ones((3, 4, 5), np.float32)}, r"\(3, 4, 5\)"),
        ({"weights": W.astype(np.float16)}, "float16"),
        ({"labels": np.zeros(4, np.int64)}, r"\(4,\); allowed are integers of shape \(5,\)"),
        ({"labels": np.full(5, 4)}, "label 4 is out of range; allowed is 0 to 3"),
        ({"groups": np.zeros(5, np.int8)}, r"\(5,\); allowed are integers of shape \(4,\)"),
        ({"groups": np.array([0, 1, 2, 3])}, "group 3 is unknown"),
        ({"groups": np.array([0, -1, 2, 1])}, "group -1 is unknown"),
        ({"biases": ONES[0]}, r"biases are float32 \(4,\); allowed is float32 \[K, 4\]"),
        ({"biases": ONES.astype(np.float64)}, "biases are float64"),
        ({"scales": np.ones((3, 5), np.float32)}, r"scales are float32 \(3, 5\)"),
        ({"scales": ONES[:2]}, r"\{'weights': 3, 'scales': 2\}; allowed is the same number, or 1"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    given = {"features": X, "weights": W, "labels": np.zeros(5, np.int64), "groups": np.zeros(4, np.int8), **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        group_count(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["features", "weights", "biases", "scales"])
def test_the_row_and_the_classifier_without_a_class_are_named(value, where):
    given = {"features": X.copy(), "weights": W.copy(), "biases": ONES.copy(), "scales": ONES.copy()}
    if where == "features":
        given[where][3:, 1] = value
    else:
        given[where][2] = value
    row, classifier = (3, 0) if where == "features" else (0, 2)
    with pytest.raises(ValueError, match=f"features row {row} has no finite highest score by classifier {classifier}"):
        group_count(labels=np.zeros(5, np.int64), groups=np.zeros(4, np.int8), **given)


def test_the_first_row_without_a_class_is_named_on_every_backend(backend):
    features = X.copy()
    features[[2, 4]] = np.nan
    arguments = features, W, np.zeros(5, np.int64), np.zeros(4, np.int8)
    if backend.name == "reference":  # counts them as wrong
        np.testing.assert_array_equal(op.reference(*arguments).correct[:, 0], [3, 3, 3])
        return
    with pytest.raises(ValueError, match="features row 2 has no finite highest score by classifier 0"):
        backend(op, "group_count", *arguments)
