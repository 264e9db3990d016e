"""The bits of a JPEG scan: read without the zeros that follow each byte of ones, and written with them."""

import numpy as np
from numba import njit

from fastlt.kernels.words import load_word, store_word

_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


@njit(cache=True, inline="always")
def peek(stream, at):
    """Returns the 57 bits or more that begin at bit `at` of uint8 data, at the upper end of a uint64.

    Eight bytes from byte `at // 8` on are read without a check.
    """
    return load_word(stream, at >> 3) << np.uint64(at & 7)


@njit(cache=True, inline="always")
def has_ones(word):
    """Returns whether one of the eight bytes of a uint64 is 0xFF."""
    return ((~word - _ONES) & word & _TOPS) != 0


@njit(cache=True)
def unstuff(data, start, stop, stream):
    """Copies bytes without the zeros that follow bytes of ones, and sixteen zeros after them; returns their number."""
    o, at = 0, start
    while at < stop:
        if at + 8 <= stop:
            word = load_word(data, at)
            if not has_ones(word):
                store_word(stream, o, word)
                at += 8
                o += 8
                continue
        for _ in range(8):
            if at >= stop:
                break
            byte = data[at]
            stream[o] = byte
            o += 1
            at += 2 if byte == 0xFF else 1
    stream[o : o + 16] = 0
    return o


@njit(cache=True)
def put_bits(out, o, held, bits, word, count):
    """Writes the lower `count` bits (up to 48) of a uint64; returns the new state. At most 14 bytes are written."""
    held = held << np.uint64(count) | word
    bits += count
    while bits >= 8:
        bits -= 8
        byte = np.uint8(held >> np.uint64(bits) & np.uint64(255))
        out[o] = byte
        o += 1
        if byte == 255:
            out[o] = 0
            o += 1
    return o, held & np.uint64((1 << bits) - 1), bits


@njit(cache=True)
def copy_bits(stream, at, to, out, o, held, bits):
    """Writes bits at..to of a stream; returns the new state, with o = 0 if there is no room."""
    if 8 * (len(out) - o - 64) < to - at:
        return 0, held, bits
    if bits and to - at >= 8:
        count = 8 - bits
        o, held, bits = put_bits(out, o, held, bits, peek(stream, at) >> np.uint64(64 - count), count)
        at += count
    while to - at >= 64:  # no bits are held now
        word = peek(stream, at) | np.uint64(stream[(at >> 3) + 8]) >> np.uint64(8 - (at & 7))
        if has_ones(word):
            if 8 * (len(out) - o - 64) < to - at:
                return 0, held, bits
            o, held, bits = put_bits(out, o, held, bits, word >> np.uint64(32), 32)
            o, held, bits = put_bits(out, o, held, bits, word & np.uint64(0xFFFFFFFF), 32)
        else:
            store_word(out, o, word)
            o += 8
        at += 64
    while at < to:
        count = min(32, to - at)
        o, held, bits = put_bits(out, o, held, bits, peek(stream, at) >> np.uint64(64 - count), count)
        at += count
    return o, held, bits
