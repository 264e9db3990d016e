"""Cuts the MCUs that a window needs out of a JPEG file with a seek table, as a small JPEG file.

Decoders of JPEG read everything before a window, and with it more than the window if it is not at the top. Here the
window's part of each row of MCUs is found by the seek table (jpeg_seek.py), and the bits are put together one row after
the other, without decoding. Only the DC differences at the starts of rows are written anew, because another MCU is
before them now. The header is that of the file with another size, and with a code for every DC difference.

Pixels of the window are the same as in the whole image. Where chroma has fewer samples, decoders interpolate it between
neighbours, so the MCUs with the neighbouring samples are taken as well.
"""

import numpy as np
from numba import njit

from fastlt.kernels.jpeg_bits import copy_bits, peek, put_bits, unstuff
from fastlt.kernels.jpeg_header import (
    BEFORE_SCAN,
    COLUMNS,
    COMPONENTS,
    DC,
    DC_TABLE,
    HEAD,
    HEIGHT,
    KEPT,
    MCU_HEIGHT,
    MCU_WIDTH,
    ROWS,
    SCAN,
    TABLE,
    TABLE_LENGTH,
    WIDTH,
    read_header,
)
from fastlt.kernels.jpeg_huffman import CATEGORIES, LIMIT, read_symbol, signed, skip_ac, write_completed
from fastlt.kernels.jpeg_seek import POINT, PREFIX, VERSION
from fastlt.kernels.jpeg_tables import build_tables
from fastlt.kernels.words import load_word

SPARE = 1024  # bytes that the output must have beyond the length of the file
_NARROW = 4  # pixels: libjpeg does not interpolate chroma of at most two columns, but repeats it
_WORTH = 0.1  # of the image's MCUs: if fewer need not be read, a window is not cut, as that has its cost, too


@njit(cache=True)
def cut_window(data, anchor, shape, out, placed):
    """Writes a JPEG file with a window of an image.

    data: uint8 [length], an encoded image. anchor, shape: int32 [2], y, x and height, width of the window in pixels,
    inside the image. out: uint8 [length + SPARE], receives the file. placed: int32 [2], receives the window's y and x
    in the written file, which is `data` itself if it has no seek table, if little would be saved, or if it is
    damaged.

    Returns the number of bytes written.
    """
    head = np.empty(HEAD, np.int64)
    if read_header(data, head) and head[TABLE]:
        length = _cut(data, head, anchor, shape, out, placed)
        if length:
            return length
    out[: len(data)] = data
    placed[0], placed[1] = anchor[0], anchor[1]
    return len(data)


@njit(cache=True)
def _cut(data, head, anchor, shape, out, placed):
    """Returns the number of bytes written, 0 if the file must be taken as it is."""
    high, wide = head[MCU_HEIGHT], head[MCU_WIDTH]
    step = _checked_step(data, head)
    if step == 0:
        return 0
    # One sample of chroma on every side, where it is interpolated.
    margin_y, margin_x = 2 if high > 8 else 0, 2 if wide > 8 else 0
    top, left = np.int64(anchor[0]) - margin_y, np.int64(anchor[1]) - margin_x
    bottom, right = anchor[0] + np.int64(shape[0]) + margin_y, anchor[1] + np.int64(shape[1]) + margin_x
    first, last = max(top, 0) // high, min(head[ROWS], -(-bottom // high))
    begin, end = max(left, 0) // wide // step * step, min(head[COLUMNS], -(-right // (wide * step)) * step)
    if wide > 8 and begin and head[WIDTH] - begin * wide <= _NARROW:
        begin -= step
    if anchor[0] < 0 or anchor[1] < 0 or first >= last or begin >= end:
        return 0
    if last * head[COLUMNS] - (last - first) * (end - begin) < _WORTH * head[ROWS] * head[COLUMNS]:
        return 0
    height = min(head[HEIGHT], last * high) - first * high
    width = min(head[WIDTH], end * wide) - begin * wide
    o = _write_header(data, head, height, width, out)
    o = _write_scan(data, head, step, first, last, begin, end, out, o)
    placed[0], placed[1] = anchor[0] - first * high, anchor[1] - begin * wide
    return o


@njit(cache=True)
def _checked_step(data, head):
    """Returns the MCUs between two points of the seek table, 0 if the table does not belong to the image."""
    at = head[TABLE] + 4 + PREFIX - 8
    if head[TABLE_LENGTH] < 4 + PREFIX or data[at] != VERSION or data[at + 1] != head[COMPONENTS]:
        return 0
    step = _short(data, at + 2)
    if step == 0 or _short(data, at + 4) != head[COLUMNS] or _short(data, at + 6) != head[ROWS]:
        return 0
    points = head[ROWS] * -(-head[COLUMNS] // step) + 1
    return step if head[TABLE_LENGTH] == 4 + PREFIX + points * POINT else 0


@njit(cache=True, inline="always")
def _short(data, at):
    return np.int64(data[at]) << 8 | np.int64(data[at + 1])


@njit(cache=True)
def _write_header(data, head, height, width, out):
    """Writes the segments that determine pixels, with another size and complete DC tables; returns their length."""
    out[0], out[1] = 0xFF, 0xD8
    at, o = 2, 2
    while at <= head[BEFORE_SCAN]:
        marker, length = data[at + 1], 2 + _short(data, at + 2)
        if at == head[BEFORE_SCAN]:
            for number in range(4):
                used = False
                for k in range(head[COMPONENTS]):
                    used |= head[DC_TABLE + k] == number
                if used:
                    end = write_completed(data, head[DC + number], number, out, o + 4)
                    out[o], out[o + 1], out[o + 2], out[o + 3] = 0xFF, 0xC4, (end - o - 2) >> 8, (end - o - 2) & 255
                    o = end
        if KEPT[marker]:
            out[o : o + length] = data[at : at + length]
            if marker == 0xC0 or marker == 0xC1:
                out[o + 5], out[o + 6], out[o + 7], out[o + 8] = height >> 8, height & 255, width >> 8, width & 255
            o += length
        at += length
    return o


@njit(cache=True)
def _write_scan(data, head, step, first, last, begin, end, out, o):
    """Writes columns begin..end of rows first..last of the MCUs; returns the length of the file, 0 if it fails."""
    count = head[COMPONENTS]
    fast, slow, symbols, skips, codes, lengths, complete = build_tables(data, head)
    if not complete:
        return 0
    luma = head[MCU_HEIGHT] * head[MCU_WIDTH] // 64
    across = -(-head[COLUMNS] // step)
    points = head[TABLE] + 4 + PREFIX
    before = np.zeros(3, np.int64)
    stream = np.empty(64, np.uint8)
    held, bits = np.uint64(0), 0  # fewer than 8 bits that are not written yet, at the lower end
    for row in range(first, last):
        here = load_word(data, points + POINT * (row * across + begin // step))
        there = load_word(data, points + POINT * (row * across + (across if end == head[COLUMNS] else end // step)))
        from_bit, to_bit = np.int64(here >> np.uint64(33)), np.int64(there >> np.uint64(33))
        start, stop = head[SCAN] + (from_bit >> 3), head[SCAN] + ((to_bit + 7) >> 3)
        if to_bit <= from_bit or stop > len(data):
            return 0
        if len(stream) < stop - start + 16:
            stream = np.empty(2 * (stop - start) + 16, np.uint8)
        length = unstuff(data, start, stop, stream)
        at, to = from_bit & 7, length * 8 - (-to_bit & 7)
        for k in range(count):
            word = peek(stream, at)
            entry = read_symbol(np.int64(word >> np.uint64(48)), fast[0, k], slow[0, k], symbols[0, k])
            category = entry & 255
            if entry == 0 or category >= CATEGORIES:
                return 0
            value = _coefficient(here, k)
            if category:
                value += signed(word << np.uint64(entry >> 8), category)
            at += (entry >> 8) + category
            difference, category = value - before[k], 0
            before[k] = _coefficient(there, k)
            size_left = abs(difference)
            while size_left:
                category += 1
                size_left >>= 1
            if category >= CATEGORIES or o + 32 > len(out):
                return 0
            word = np.uint64(codes[k, category]) << np.uint64(category)
            word |= np.uint64(difference if difference >= 0 else difference + (1 << category) - 1)
            o, held, bits = put_bits(out, o, held, bits, word, lengths[k, category] + category)
            rest = at
            if k + 1 < count:  # up to the next component
                at = skip_ac(stream, at, to, skips[k], fast[1, k], slow[1, k], symbols[1, k])
                for _ in range(1, luma if k == 0 else 1):
                    at = _skip_dc(stream, at, fast[0, k], slow[0, k], symbols[0, k])
                    at = skip_ac(stream, at, to, skips[k], fast[1, k], slow[1, k], symbols[1, k])
                if at < 0:
                    return 0
            else:
                at = to
            o, held, bits = copy_bits(stream, rest, at, out, o, held, bits)
            if o == 0:
                return 0
    if o + 8 > len(out):
        return 0
    if bits:
        o, held, bits = put_bits(out, o, held, bits, np.uint64((1 << (8 - bits)) - 1), 8 - bits)
    out[o], out[o + 1] = 0xFF, 0xD9
    return o + 2


@njit(cache=True, inline="always")
def _coefficient(point, component):
    """Returns the DC coefficient of a component before a point of the seek table."""
    return np.int64(point >> np.uint64(22 - 11 * component) & np.uint64(2047)) - LIMIT


@njit(cache=True, inline="always")
def _skip_dc(stream, at, fast, slow, symbols):
    """Returns the bit after a DC difference at bit `at`; a very large one, or the given -1, if there is none."""
    if at < 0:
        return at
    entry = read_symbol(np.int64(peek(stream, at) >> np.uint64(48)), fast, slow, symbols)
    return at + (entry >> 8) + (entry & 255) if entry and entry & 255 < CATEGORIES else np.int64(1 << 62)
