"""store_row, by way of `half_bits`: float16 is NumPy's for every float16, for what lies between, and at the ends."""

import numpy as np
from numba import njit

from fastlt.kernels.store_row import half_bits


@njit
def halves(values):
    out = np.empty(len(values), np.uint16)
    for i in range(len(values)):
        out[i] = half_bits(values[i])
    return out


def test_half_bits_round_as_numpy_does():
    rng = np.random.default_rng(0)
    exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)])
    ties = (finite[1:] + finite[:-1]) / 2  # exact in float32
    values = np.concatenate([
        exact, ties, np.nextafter(ties, np.float32(9e9)), np.nextafter(ties, np.float32(-9e9)),
        rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32),
        np.array([65519.996, 65520, 1e9, -1e9, np.inf, -np.inf, 1e-30, -0.0], np.float32),
    ])  # fmt: skip
    found = halves(values).view(np.float16)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(found.view(np.uint16)[numbers], expected.view(np.uint16)[numbers])
    assert np.isnan(found[~numbers]).all() and (~numbers).any()
