"""Turns the hue of an image on a CPU, to the level of Pillow."""

import numpy as np
from numba import njit

_HUES = 1024  # pixels whose hues are kept between two loops
# Exact hues that Pillow's 32-bit floats round down, to the hue below.
_UNDER = np.zeros(256, np.int32)
_UNDER[[*range(1, 32), *range(88, 105, 4), *range(129, 149, 2), *range(149, 210, 4), 176, 184]] = 1


@njit(cache=True, nogil=True, error_model="numpy")  # or every division would be a branch
def turn_hue(pixels, turn):
    """Hue in steps of 1/255 of the circle, to the level of Pillow, whose hue, saturation and value have eight bits.

    With v = max(r, g, b), s = v - min(r, g, b) and k = 0, 2, 4 for red, green, blue as the largest, the hue is
    floor(255 n / 6 s) with n = k s + the difference of the other two, from 0 to 6 s. All of it is computed in whole
    numbers below 2**24, which are exact in 32-bit floats, so that vectors have twice as many pixels as with doubles.

    Pillow's rounding shows only where 255 n / 6 s is a whole number, see _UNDER.
    """
    size = len(pixels[0].reshape(-1))
    steps = int(turn * 255)
    places = np.empty(512, np.float32)  # of a hue, turned, on a circle of 510; after 256 that of exact quotients
    for level in range(256):
        places[level] = 2 * ((level + steps) & 255)
        places[256 + level] = 2 * ((level - _UNDER[level] + steps) & 255)
    levels, turned = np.empty(_HUES, np.int32), np.empty(_HUES, np.float32)
    planes = pixels.reshape((3, size))
    for first in range(0, size, _HUES):
        red, green, blue = planes[:, first : first + _HUES]
        _hues(levels[: len(red)], red, green, blue)
        for t in range(len(red)):  # a loop of its own: LLVM makes no vectors of one with such reads
            turned[t] = places[levels[t]]
        _from_hues(red, green, blue, turned[: len(red)])


@njit(cache=True, nogil=True, error_model="numpy")
def _hues(levels, red, green, blue):
    """Writes floor(255 n / 6 s) of each pixel, int32, and 256 more where the quotient is a whole number."""
    two, four, six, scale = np.float32(2), np.float32(4), np.float32(6), np.float32(42.5)
    for t in range(len(red)):
        r, g, b = np.float32(red[t]), np.float32(green[t]), np.float32(blue[t])
        most, least = max(r, max(g, b)), min(r, min(g, b))
        span = max(most - least, np.float32(1))
        n = g - b if r == most else two * span + (b - r) if g == most else four * span + (r - g)
        n = n + six * span if n < np.float32(0) else n
        level = np.int32(n * scale / span)
        levels[t] = level + (np.int32(256) if np.float32(level) * span == n * scale else np.int32(0))


@njit(cache=True, nogil=True, error_model="numpy")
def _from_hues(red, green, blue, places):
    """Gives each pixel the hue at its place on a circle of 510, in place; saturation and value stay."""
    for t in range(len(red)):
        r, g, b = np.float32(red[t]), np.float32(green[t]), np.float32(blue[t])
        most, least = max(r, max(g, b)), min(r, min(g, b))
        strength = np.float32(np.int32((most - least) * np.float32(255) / max(most, np.float32(1))))
        red[t] = _of_hue(most, strength, places[t] + np.float32(425))
        green[t] = _of_hue(most, strength, places[t] + np.float32(255))
        blue[t] = _of_hue(most, strength, places[t] + np.float32(85))


@njit(cache=True, nogil=True)
def _of_hue(most, strength, place):
    """The level of a colour: it falls from `most` over a sixth of the circle, stays for two, and rises again."""
    place = place - np.float32(510) if place >= np.float32(510) else place
    low = min(max(min(place, np.float32(340) - place), np.float32(0)), np.float32(85))
    whole = np.float32(21675)  # 255 * 85, the largest strength * low
    return np.uint8(np.int32(most * (whole - strength * low) * np.float32(1 / 21675) + np.float32(0.5)))
