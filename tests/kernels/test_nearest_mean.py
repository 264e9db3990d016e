import numpy as np
import pytest
import torch
from numba import get_num_threads, set_num_threads

from fastlt.kernels import best_class, tiles
from fastlt.kernels import nearest_mean as op
from fastlt.kernels.gpu import SIMULATED
from fastlt.kernels.nearest_mean import nearest_mean

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1), (1, 5, 3), (4, 1, 5), (4, 4, 1), (5, 7, 13), (4, 131, 2)]  # N, C, D
CASES = [(*shape, torch.float32) for shape in SHAPES] + [(*SHAPES[4], dtype) for dtype in DTYPES[1:]]
KINDS = {"un": (False, False), "l2n": (False, True), "cl2n": (True, True)}
TIE = 1e-5


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Three rows a tile, so that every test but the smallest has several."""
    monkeypatch.setattr(tiles, "tile_rows", lambda columns, device: 3)


def problem(seed, n, c, d, dtype=torch.float32):
    """Features as tensors, means and centre as arrays, all around a common mean, as features of a network are."""
    rng = np.random.default_rng(seed)
    features = torch.from_numpy((rng.standard_normal((n, d)) + 0.5).astype(np.float32)).to(dtype)
    means = (rng.standard_normal((c, d)) + 0.5).astype(np.float32)
    return features, means, (rng.standard_normal(d) / 4 + 0.5).astype(np.float32)


def kept(features):
    """As an array where NumPy knows the dtype."""
    return features if features.dtype == torch.bfloat16 else features.numpy()


def margins(features, means, distance, centre, normalize):
    """Scores in float64, and the difference below which two of a row are a tie [N]."""
    z = features.double().numpy() - (0 if centre is None else centre)
    norm = np.linalg.norm(z, axis=1, keepdims=True)
    if normalize:
        z = np.divide(z, norm, out=np.zeros_like(z), where=norm > 0)
    mean_norm = np.linalg.norm(means.astype(np.float64), axis=1)
    if distance == "cosine":
        unit = means / np.where(mean_norm == 0, 1, mean_norm)[:, None]
        return z @ unit.T, TIE * np.linalg.norm(z, axis=1)
    scale = ((np.linalg.norm(z, axis=1)[:, None] + mean_norm) * mean_norm).max(axis=1)
    return z @ means.T.astype(np.float64) - mean_norm**2 / 2, TIE * scale


def assert_nearest(labels, scores, tie):
    """Decisions of float64, but for ties; returns how many rows have one."""
    assert labels.dtype == np.int64 and labels.shape == (len(scores),)
    loses = scores.max(axis=1) - scores[np.arange(len(scores)), labels]
    assert (loses <= tie).all(), np.argmax(loses - tie)
    second = np.sort(scores, axis=1)[:, -2] if scores.shape[1] > 1 else np.full(len(scores), -np.inf)
    return int((scores.max(axis=1) - second <= tie).sum())


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "c", "d", "dtype"), CASES)
def test_equals_float64(backend, kind, distance, n, c, d, dtype):
    centred, normalize = KINDS[kind]
    features, means, centre = problem(n + c + d, n, c, d, dtype)
    centre = centre if centred else None
    labels = backend(op, "nearest_mean", kept(features), means, distance, centre, normalize)
    ties = assert_nearest(labels, *margins(features, means, distance, centre, normalize))
    assert ties <= 0.1 * n or (
        d == 1 and (normalize or distance == "cosine")
    )  # there every z, or unit mean, is 1 or -1


def test_random_small_problems_decide_as_float64(backend):
    few = backend.name == "cuda" and SIMULATED
    rows = ties = 0
    for seed in range(2 if few else 250):
        rng = np.random.default_rng(seed)
        n, c, d = rng.integers(1, 4 if few else 12, 3)
        features, means, centre = problem(seed, n, c, d + 1)
        counts = rng.integers(0, 2, c)
        counts[rng.integers(c)] = 1
        for distance in ("l2", "cosine"):
            for centred, normalize in KINDS.values():
                around = centre if centred else None
                labels = backend(op, "nearest_mean", features.numpy(), means, distance, around, normalize, counts)
                scores, tie = margins(features, means, distance, around, normalize)
                scores[:, counts == 0] = -np.inf
                rows, ties = rows + n, ties + assert_nearest(labels, scores, tie)
    assert rows > (10 if few else 8000) and ties <= 0.002 * rows


def test_wide_features_decide_as_float64():
    features, means, centre = problem(0, 400, 100, 2048)
    for distance in ("l2", "cosine"):
        for centred, normalize in KINDS.values():
            around = centre if centred else None
            labels = nearest_mean(features.numpy(), means, distance, around, normalize)
            assert assert_nearest(labels, *margins(features, means, distance, around, normalize)) <= 4


def test_the_nearest_by_hand(backend):
    means = np.array([[4, 0], [1, 1], [0, 3]], np.float32)
    features = np.array([[3.5, 0.5], [1, 0.9], [0.1, 9], [5, 4.9], [2, 0.5]], np.float32)
    np.testing.assert_array_equal(backend(op, "nearest_mean", features, means, "l2"), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(backend(op, "nearest_mean", features, means, "cosine"), [0, 1, 2, 1, 0])


def test_the_lowest_of_equal_classes(backend):
    means = np.array([[9, 9], [1, 2], [1, 2], [1, 2]], np.float32)
    features = np.array([[1, 2], [0, 0], [-1, 4], [2, 2]], np.float32)
    np.testing.assert_array_equal(backend(op, "nearest_mean", features, means, "l2"), [1, 1, 1, 1])
    counts = np.array([1, 0, 3, 3])
    np.testing.assert_array_equal(backend(op, "nearest_mean", features, means, "l2", None, False, counts), [2, 2, 2, 2])


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_a_class_without_images_is_never_predicted(backend, distance):
    means = np.array([[0, 0], [5, 5], [0, 0], [-6, 5]], np.float32)
    features = np.array([[0, 0], [0.1, 0.1], [-1, -1], [-3, 3.5]], np.float32)
    counts = np.array([0, 4, 0, 1])
    labels = backend(op, "nearest_mean", features, means, distance, None, False, counts)
    np.testing.assert_array_equal(labels, [1, 1, 3, 3])


def test_a_row_of_norm_zero_stays_zero(backend):
    means = np.array([[1, 0.5], [0.1, 0], [-1, 0]], np.float32)
    features = np.array([[2, 3], [4, 3]], np.float32)
    centre = np.array([2, 3], np.float32)
    np.testing.assert_array_equal(backend(op, "nearest_mean", features, means, "l2", centre, True), [1, 0])
    np.testing.assert_array_equal(backend(op, "nearest_mean", features, means, "cosine", centre, True), [0, 1])


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_a_mean_of_norm_zero_takes_part(backend, distance):
    means = np.array([[-3, -3], [0, 0]], np.float32)
    np.testing.assert_array_equal(
        backend(op, "nearest_mean", np.array([[1, 1], [-2, -2]], np.float32), means, distance), [1, 0]
    )


def test_norms_that_float32_cannot_square():
    means = np.eye(3, dtype=np.float32)
    features = means[[2, 0, 1]] * np.array([[1e30], [1], [1e-30]], np.float32)
    np.testing.assert_array_equal(nearest_mean(features, means, "l2", normalize=True), [2, 0, 1])


def test_many_classes(monkeypatch):
    monkeypatch.undo()
    means = np.random.default_rng(0).standard_normal((8142, 5)).astype(np.float32)
    order = np.random.default_rng(1).permutation(8142)
    np.testing.assert_array_equal(nearest_mean(means[order], means, "l2"), order)
    np.testing.assert_array_equal(nearest_mean(means[order] * 7, means, "cosine"), order)


def test_memory_of_any_layout():
    features, means, centre = problem(0, 10, 4, 6)
    x = features.numpy()
    expected = nearest_mean(x, means, "l2", centre, True)
    locked = x.copy()
    locked.flags.writeable = False
    for same in (locked, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(nearest_mean(same, means, "l2", centre, True), expected)
    result = nearest_mean(features.T.contiguous().T, torch.from_numpy(means), "l2", torch.from_numpy(centre), True)
    assert isinstance(result, torch.Tensor)
    np.testing.assert_array_equal(result.numpy(), expected)
    assert isinstance(expected, np.ndarray)


def test_any_number_of_threads_gives_the_same(monkeypatch):
    monkeypatch.undo()
    features, means, centre = problem(0, 3000, 300, 65)
    several = nearest_mean(features, means, "l2", centre, True)
    threads, numba_threads = torch.get_num_threads(), get_num_threads()
    try:
        torch.set_num_threads(1)
        set_num_threads(1)
        assert torch.equal(several, nearest_mean(features, means, "l2", centre, True))
    finally:
        torch.set_num_threads(threads)
        set_num_threads(numba_threads)


X, M = np.ones((5, 2), np.float32), np.eye(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": X.astype(np.float64)}, "float64.*float32 and float16"),
        ({"features": X[0]}, r"\(2,\); allowed is \[N, D\]"),
        ({"features": X[:0]}, r"\(0, 2\)"),
        ({"means": M.astype(np.float16)}, "float16; allowed are float32"),
        ({"means": np.ones((3, 4), np.float32)}, "2 columns and means 4"),
        ({"means": np.array([[1, 2], [0, np.nan]], np.float32)}, "class 1 has norm nan; allowed"),
        ({"means": np.array([[1, 2], [0, 3e19]], np.float32)}, "class 1 has norm 3e\\+19; allowed are norms below 1e"),
        ({"distance": "l1"}, "'l1'; allowed are 'l2' and 'cosine'"),
        ({"centre": np.ones(3, np.float32)}, r"\(3,\); allowed are floats of shape \(2,\)"),
        ({"centre": np.array([np.inf, 0])}, "centre has a NaN or infinite"),
        ({"counts": np.ones(3, np.int64)}, r"\(3,\); allowed are integers or bool of shape \(2,\)"),
        ({"counts": np.ones(2)}, "float64"),
        ({"counts": np.array([2, -1])}, "count -1 of class 1"),
        ({"counts": np.zeros(2, np.bool_)}, "counts are all 0"),
        ({"features": np.full((5, 2), 3e38, np.float32), "normalize": True}, "row 0 has no finite"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        nearest_mean(**{"features": X, "means": M, "distance": "l2", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_row_that_is_not_finite_is_named(value, dtype):
    features = torch.ones(5, 2).to(dtype)
    features[3, 1] = features[4, 0] = value
    for distance in ("l2", "cosine"):
        for normalize in (False, True):
            with pytest.raises(ValueError, match="features row 3 has no finite"):
                nearest_mean(features, M, distance, normalize=normalize)


def test_best_class_of_awkward_scores(backend):
    """NaN of either sign, infinities, zeros of either sign, ties within and across blocks of classes."""
    inf, nan = np.inf, np.nan
    rows = np.full((12, 300), -5, np.float32)
    rows[0, [7, 250]] = 2
    rows[1, [130, 250]] = -0.0, 0.0
    rows[2, [130, 250]] = 0.0, -0.0
    rows[3, 299] = nan
    rows[4, 0] = np.copysign(np.float32(nan), np.float32(-1))
    rows[5, 5] = inf
    rows[6] = -inf
    rows[7, 1:] = -inf
    rows[8] = -3e38
    rows[9, 128] = 1e-45
    rows[9, 127] = 0
    rows[10, [60, 61]] = 3e38, 1e38
    one, zero = np.ones((1, 300), np.float32), np.zeros((1, 300), np.float32)
    expected = [7, 130, 130, -1, -1, -1, -1, 0, 0, 128, 60, 0]
    found = run_best_class(backend, rows[:, None], one, zero)
    np.testing.assert_array_equal(found[:, 0], expected)


@pytest.mark.parametrize("products", [1, 3])
def test_best_class_with_scales_and_offsets(backend, products):
    rng = np.random.default_rng(products)
    scores = rng.standard_normal((4, products, 11)).astype(np.float32)
    scales, offsets = rng.uniform(0.5, 2, (2, 3, 11)).astype(np.float32)
    offsets[1, :5] = -np.inf
    found = run_best_class(backend, scores, scales, offsets)
    for k in range(3):
        final = scores[:, k % products] * scales[k] + offsets[k]
        np.testing.assert_array_equal(found[:, k], final.argmax(axis=1))


def run_best_class(backend, *arrays):
    if backend.name == "reference":
        return best_class.reference(*arrays)
    tensors = [torch.from_numpy(one) for one in arrays]
    if backend.name == "cuda" and not SIMULATED:
        tensors = [one.cuda() for one in tensors]
    return getattr(best_class, backend.name)(*tensors).numpy(force=True)
