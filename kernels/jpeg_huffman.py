"""Huffman codes of JPEG files in compiled code: tables for reading them, and for writing DC differences."""

import numpy as np
from numba import njit

from fastlt.kernels.jpeg_bits import peek

CATEGORIES = 12  # numbers of bits of a DC difference, 0 to 11
LIMIT = 1024  # quantized DC coefficients of 8-bit samples are in -LIMIT..LIMIT - 1, so differences have at most 11 bits

SKIPS = 1 << 10  # entries of a table for skipping

_FAST, _SKIP = 8, 10  # codes of up to this many bits are looked up at once
_END = 128  # added to the place of a coefficient by the end of a block


@njit(cache=True)
def build_reader(data, at, fast, slow, symbols):
    """Builds the tables by which `read_symbol` reads one Huffman table.

    data, at: the file and the offset of the table's 16 counts, which read_header has checked.
    fast: uint16 [256], is filled with symbol + 256 * length for the code that eight bits begin with, 0 if it is longer.
    slow: int64 [2, 17], is filled with the last code of every length (-1: none) and what to add to a code of it for its
    place among the symbols. symbols: uint8 [256], is filled.
    """
    fast[:] = 0
    slow[0, :] = -1
    code = place = 0
    for length in range(1, 17):
        count = np.int64(data[at + length - 1])
        for i in range(count):
            symbol = data[at + 16 + place + i]
            symbols[place + i] = symbol
            if length <= _FAST:
                first = (code + i) << (_FAST - length)
                for j in range(first, first + (1 << (_FAST - length))):
                    fast[j] = np.int64(symbol) | length << 8
        slow[1, length] = place - code
        place += count
        code += count
        if count:
            slow[0, length] = code - 1
        code <<= 1


@njit(cache=True, inline="always")
def read_symbol(bits, fast, slow, symbols):
    """Returns symbol + 256 * length of the code that 16 bits (an int64) begin with; 0 if there is none."""
    entry = np.int64(fast[bits >> 8])
    if entry:
        return entry
    for length in range(_FAST + 1, 17):
        code = bits >> (16 - length)
        if code <= slow[0, length]:
            return np.int64(symbols[(slow[1, length] + code) & 255]) | length << 8
    return np.int64(0)


@njit(cache=True, inline="always")
def _skipped(symbol, length):
    """Returns the bits of an AC symbol and its coefficient, plus 32 times the coefficients that it stands for."""
    size, run = symbol & 15, symbol >> 4
    places = run + 1 if size or run == 15 else _END
    return places << 5 | (length + size)


@njit(cache=True)
def build_skips(fast, slow, symbols, skips):
    """Builds the table by which `skip_ac` skips coefficients: uint16 [SKIPS], from the tables of `build_reader`."""
    for bits in range(SKIPS):
        entry = read_symbol(bits << (16 - _SKIP), fast, slow, symbols)
        length = entry >> 8
        skips[bits] = _skipped(entry & 255, length) if 0 < length <= _SKIP else 0


@njit(cache=True)
def skip_ac(stream, at, to, skips, fast, slow, symbols):
    """Returns the bit after the AC coefficients of a block, which begin at bit `at`; -1 if they are damaged.

    stream: uint8 data without stuffed zeros, and 16 bytes more. to: the bit after the last one.
    """
    place = 1
    while place < 64:
        if at < 0 or at >= to:
            return np.int64(-1)
        bits = peek(stream, at)
        entry = np.int64(skips[bits >> np.uint64(64 - _SKIP)])
        if entry == 0:
            entry = read_symbol(np.int64(bits >> np.uint64(48)), fast, slow, symbols)
            if entry == 0:
                return np.int64(-1)
            entry = _skipped(entry & 255, entry >> 8)
            at += entry & 31
            place += entry >> 5
            continue
        at += entry & 31
        place += entry >> 5
        if place < 64:  # the word holds another one, for at most 25 of its 57 bits are used
            bits <<= np.uint64(entry & 31)
            entry = np.int64(skips[bits >> np.uint64(64 - _SKIP)])
            at += entry & 31
            place += entry >> 5
    return at if place == 64 or place > _END else np.int64(-1)


@njit(cache=True, inline="always")
def signed(bits, size):
    """Returns the signed number of `size` bits (1 to 15) that a uint64 begins with, as JPEG writes coefficients."""
    value = np.int64(bits >> np.uint64(64 - size))
    return value if value >> (size - 1) else value - (1 << size) + 1


@njit(cache=True)
def build_writer(data, at, codes, lengths):
    """Builds the codes by which DC differences are written, and says how many a table lacks.

    Categories that the table has no code for get codes of 16 bits after all others, so that the table's own codes stay
    as they are. `write_completed` writes the table that has them all.

    data, at: as in `build_reader`. codes, lengths: int64 [CATEGORIES], are filled. Returns the number of missing codes;
    -1 if there is no room for them.
    """
    lengths[:] = 0
    code = place = 0
    for length in range(1, 17):
        for _ in range(data[at + length - 1]):
            symbol = data[at + 16 + place]
            if symbol < CATEGORIES:
                codes[symbol], lengths[symbol] = code, length
            place += 1
            code += 1
        if length < 16:
            code <<= 1
    missing = 0
    for category in range(CATEGORIES):
        if lengths[category] == 0:
            codes[category], lengths[category] = code + missing, 16
            missing += 1
    # The code of ones only must stay unused, and decoders take at most 256 codes.
    return missing if code + missing <= 65535 and data[at + 15] + missing <= 255 and place + missing <= 256 else -1


@njit(cache=True)
def write_completed(data, at, number, out, o):
    """Writes a DC table with the codes that `build_writer` added, without the marker; returns the offset after it.

    number: of the table. out: uint8, room for 300 bytes from `o` on.
    """
    seen = np.zeros(CATEGORIES, np.bool_)
    out[o] = number
    total = 0
    for i in range(16):
        out[o + 1 + i] = data[at + i]
        total += data[at + i]
    for i in range(total):
        symbol = data[at + 16 + i]
        out[o + 17 + i] = symbol
        if symbol < CATEGORIES:
            seen[symbol] = True
    for category in range(CATEGORIES):
        if not seen[category]:
            out[o + 17 + total] = category
            out[o + 16] += 1
            total += 1
    return o + 17 + total
