"""Philox4x32-10, the counter-based random generator of Salmon et al. (2011): 128 random bits for any (key, counter).

The generator has no state. The random number for a position is a pure function of the position, so a sample order or a
crop is the same for any batch size, thread count, rank count and point of resumption.
"""

import numpy as np
from numba import njit, uint64

_LOW = uint64(0xFFFFFFFF)
_HALF = uint64(32)
_MULTIPLY_0 = uint64(0xD2511F53)
_MULTIPLY_1 = uint64(0xCD9E8D57)
_WEYL_0 = uint64(0x9E3779B9)
_WEYL_1 = uint64(0xBB67AE85)
ROUNDS = 10


def reference(key: int, c0: int, c1: int, c2: int, c3: int) -> tuple[int, int, int, int]:
    """The definition of `philox` in Python integers."""
    key = int(key)
    x0, x1, x2, x3 = (int(word) % 2**32 for word in (c0, c1, c2, c3))
    for number in range(ROUNDS):
        k0 = (key + number * 0x9E3779B9) % 2**32
        k1 = ((key >> 32) + number * 0xBB67AE85) % 2**32
        product_0, product_1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1 = (product_1 >> 32) ^ x1 ^ k0, product_1 % 2**32
        x2, x3 = (product_0 >> 32) ^ x3 ^ k1, product_0 % 2**32
    return x0, x1, x2, x3


def reference_unit53(high: int, low: int) -> float:
    """The definition of `unit53` in Python integers."""
    return (high << 21 | low >> 11) / 2**53


@njit(inline="always")
def philox(key, c0, c1, c2, c3):
    """Returns four random 32-bit words (as uint64) for a 64-bit key and a counter of four 32-bit words."""
    k0 = uint64(key) & _LOW
    k1 = uint64(key) >> _HALF
    x0 = uint64(c0) & _LOW
    x1 = uint64(c1) & _LOW
    x2 = uint64(c2) & _LOW
    x3 = uint64(c3) & _LOW
    for _ in range(ROUNDS):
        product_0 = _MULTIPLY_0 * x0
        product_1 = _MULTIPLY_1 * x2
        x0, x1, x2, x3 = (
            (product_1 >> _HALF) ^ x1 ^ k0,
            product_1 & _LOW,
            (product_0 >> _HALF) ^ x3 ^ k1,
            product_0 & _LOW,
        )
        k0 = (k0 + _WEYL_0) & _LOW
        k1 = (k1 + _WEYL_1) & _LOW
    return x0, x1, x2, x3


@njit(inline="always")
def unit(word):
    """Returns a uniform float64 in (0, 1) from one 32-bit word."""
    return (np.float64(word) + 0.5) * (1.0 / 4294967296.0)


@njit(inline="always")
def unit53(high, low):
    """Returns a uniform float64 in [0, 1) with 53 random bits from two 32-bit words."""
    return np.float64((high << uint64(21)) | (low >> uint64(11))) * (1.0 / 9007199254740992.0)


@njit(inline="always")
def below(high, low, n):
    """Returns a uniform int64 in [0, n) from two 32-bit words; the bias is below n / 2**53."""
    return np.int64(unit53(high, low) * n)
