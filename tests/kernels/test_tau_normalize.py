import numpy as np
import pytest
import torch

from fastlt.kernels import tau_normalize as op
from fastlt.kernels.tau_normalize import tau_normalize

SHAPES = [(1, 1), (1, 5), (3, 1), (5, 7), (9, 3)]


@pytest.mark.parametrize(("c", "d"), SHAPES)
@pytest.mark.parametrize("taus", [[0.0], [1.0], [-1.5, 0.0, 0.3, 0.7, 2.0]])
def test_equals_the_formula(backend, c, d, taus):
    weight = np.random.default_rng(c + d).standard_normal((c, d)).astype(np.float32) * 3
    weight[c // 2] *= 1e-3
    result = backend(op, "tau_normalize", weight, np.array(taus))
    assert result.shape == (len(taus), c, d) and result.dtype == np.float32
    for tau, scaled in zip(taus, result, strict=True):
        for row, original in zip(scaled, weight, strict=True):
            norm = np.sqrt((original.astype(np.float64) ** 2).sum())
            np.testing.assert_allclose(row, original / norm**tau, rtol=1e-6)


def test_tau_zero_changes_nothing_and_one_gives_unit_length(backend):
    weight = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    same, unit = backend(op, "tau_normalize", weight, np.array([0.0, 1.0]))
    np.testing.assert_array_equal(same, weight)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_a_zero_row_stays_zero(backend):
    weight = np.array([[0, 0], [3, 4]], np.float32)
    result = backend(op, "tau_normalize", weight, np.array([-1.0, 0.0, 2.0]))
    assert not result[:, 0].any()
    np.testing.assert_allclose(result[:, 1], [[15, 20], [3, 4], [3 / 25, 4 / 25]], rtol=1e-6)


def test_many_classes():
    weight = np.random.default_rng(0).standard_normal((8142, 3)).astype(np.float32)
    np.testing.assert_allclose(tau_normalize(weight, [0.7]), op.reference(weight, np.array([0.7])), rtol=1e-6)


def test_tensors_give_tensors():
    weight = torch.randn(3, 4, requires_grad=True)
    result = tau_normalize(weight, torch.tensor([0.5]))
    assert isinstance(result, torch.Tensor) and not result.requires_grad
    np.testing.assert_array_equal(result.numpy(), tau_normalize(weight.detach().numpy(), 0.5))


@pytest.mark.parametrize(
    ("weight", "taus", "message"),
    [
        (np.ones((2, 3)), [1], "float64"),
        (np.ones(3, np.float32), [1], r"\(3,\)"),
        (np.ones((2, 3), np.float32), [np.nan], "nan"),
        (np.ones((2, 3), np.float32), [[1]], r"\[\[1.0\]\]"),
        (np.array([[1.0], [np.inf]], np.float32), [0], "class 1 at tau 0"),
        (np.array([[1.0], [1e-30]], np.float32), [0, 3], "class 1 at tau 3"),
    ],
)
def test_wrong_input_is_named(weight, taus, message):
    with pytest.raises(ValueError, match=message):
        tau_normalize(weight, taus)
