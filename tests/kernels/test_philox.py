"""Philox4x32-10 against the known answers that its authors publish."""

import numpy as np
import pytest
from numba import njit

from fastlt.kernels.philox import below, philox, unit, unit53

ONES = 0xFFFFFFFF


@njit
def words(key, c0, c1, c2, c3):
    return philox(key, c0, c1, c2, c3)


@njit
def scaled(high, low, n):
    return unit(high), unit53(high, low), below(high, low, n)


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFFFFFFFFFF, (ONES,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(key: int, counter: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert words(np.uint64(key), *map(np.uint64, counter)) == answer


def test_numbers_stay_in_range_at_the_ends() -> None:
    low, high = np.uint64(0), np.uint64(ONES)
    assert scaled(low, low, 7) == (0.5 / 2**32, 0.0, 0)
    top = scaled(high, high, 10**9)
    assert top[0] < 1
    assert top[1] < 1
    assert top[2] == 10**9 - 1
