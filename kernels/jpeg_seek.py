"""Seek tables: where in a JPEG file's scan the MCUs begin, so that a window can be decoded without what is before it.

A JPEG scan is one stream of Huffman codes without any landmarks, and the DC coefficient of a block is written as the
difference from the block before it. So a decoder must read everything before a window. A seek table has, for every few
MCUs of each row, the bit at which they begin and the DC coefficients before them. It is stored in the file itself, as
an application segment that decoders skip; everything else stays as it is.

The payload of the segment: SIGNATURE, version (uint8), number of components (uint8), MCUs between two points, columns
and rows of MCUs (uint16 each), then the points, row by row, with one more for the end of the scan. A point is a uint64:
from the top 31 bits for the bit offset from the start of the scan, then 11 bits for the DC coefficient of each of three
components, from which LIMIT is added. All numbers are big-endian.
"""

import numpy as np
from numba import njit

from fastlt.kernels.jpeg_bits import has_ones, peek
from fastlt.kernels.jpeg_header import (
    BEFORE_SCAN,
    COLUMNS,
    COMPONENTS,
    HEAD,
    MARKER,
    MCU_HEIGHT,
    MCU_WIDTH,
    ROWS,
    SCAN,
    SIGNATURE,
    read_header,
)
from fastlt.kernels.jpeg_huffman import CATEGORIES, LIMIT, read_symbol, signed, skip_ac
from fastlt.kernels.jpeg_tables import build_tables
from fastlt.kernels.words import load_word, store_word

VERSION = 1
STEP = 48  # pixels between two points of a row, if the table does not become too large
LARGEST = 0.05  # of the file, for the table; small files have fewer points, or no table
POINT = 8  # bytes
PREFIX = len(SIGNATURE) + 8  # bytes before the points

_MOST = 65_533 - 2  # bytes of a segment's payload
_PADDING = 16  # bytes after the stream that may be read


def with_seek_table(found: bytes) -> bytes:
    """Returns a JPEG file with a seek table; without one if windows of it cannot be cut, or if it is too small.

    Nothing else is changed. A table that the file already has is made anew. Files without a table are progressive or
    arithmetic ones, those with restart markers, with several scans, with unusual sampling, and those whose scan is not
    exactly complete.
    """
    found = _without_tables(found)
    data, head = np.frombuffer(found, np.uint8), np.zeros(HEAD, np.int64)
    if not read_header(data, head):
        return found
    count, columns, rows = (int(head[place]) for place in (COMPONENTS, COLUMNS, ROWS))
    step = STEP // int(head[MCU_WIDTH])
    room = min(_MOST, LARGEST * len(found))
    while PREFIX + (rows * -(-columns // step) + 1) * POINT > room:
        if step >= columns:
            return found
        step *= 2
    points = np.zeros(rows * -(-columns // step) + 1, np.uint64)
    if not find_points(data, head, step, points):
        return found
    prefix = bytes(SIGNATURE) + bytes([VERSION, count]) + np.array([step, columns, rows], ">u2").tobytes()
    payload = prefix + points.astype(">u8").tobytes()
    segment = bytes([0xFF, MARKER]) + (len(payload) + 2).to_bytes(2, "big") + payload
    at = int(head[BEFORE_SCAN])
    return found[:at] + segment + found[at:]


def _without_tables(found: bytes) -> bytes:
    """Returns a JPEG file without its seek tables, of which a foreign file may have any number."""
    signature, parts, kept, at = bytes(SIGNATURE), [], 0, 2
    while at + 4 <= len(found) and found[at] == 0xFF and found[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(found[at + 2 : at + 4], "big")
        if found[at + 1] == MARKER and found.startswith(signature, at + 4):
            parts.append(found[kept:at])
            kept = end
        at = end
    return b"".join([*parts, found[kept:]])


@njit(cache=True)
def find_points(data, head, step, points):
    """Reads a scan and notes where its MCUs begin.

    data: uint8 [length], the file. head: as read_header filled it. step: MCUs between two points of a row.
    points: uint64 [n], is filled.

    Returns whether the scan is complete and sound, and whether it could be written anew with other DC differences.
    """
    fast, slow, symbols, skips, _, _, complete = build_tables(data, head)
    if not complete:
        return False
    count, blocks = head[COMPONENTS], np.ones(3, np.int64)
    blocks[0] = head[MCU_HEIGHT] * head[MCU_WIDTH] // 64
    start = head[SCAN]
    stream, stuffed = np.empty(len(data) - start + _PADDING, np.uint8), np.empty(len(data) - start, np.int64)
    length, skipped, end = _unstuff(data, start, stream, stuffed)
    if end + 1 >= len(data) or data[end + 1] != 0xD9:
        return False
    last, at, row, point, before = length * 8, 0, 0, 0, 0
    predicted = np.zeros(3, np.int64)
    for row in range(head[ROWS] + 1):
        for column in range(head[COLUMNS] if row < head[ROWS] else 1):
            if column % step == 0:
                while before < skipped and stuffed[before] < at >> 3:
                    before += 1
                offset = at + 8 * before
                if offset >= 1 << 31:
                    return False
                for value in predicted:
                    offset = offset << 11 | (value + LIMIT)
                points[point] = np.uint64(offset)
                point += 1
            if row == head[ROWS]:
                break
            for k in range(count):
                for _ in range(blocks[k]):
                    bits = peek(stream, at)
                    entry = read_symbol(np.int64(bits >> np.uint64(48)), fast[0, k], slow[0, k], symbols[0, k])
                    size = entry & 255
                    if entry == 0 or size >= CATEGORIES:
                        return False
                    if size:
                        predicted[k] += signed(bits << np.uint64(entry >> 8), size)
                    at += (entry >> 8) + size
                    if not -LIMIT <= predicted[k] < LIMIT:
                        return False
                    at = skip_ac(stream, at, last, skips[k], fast[1, k], slow[1, k], symbols[1, k])
                    if at < 0:
                        return False
    return at <= last and last - at < 8


@njit(cache=True)
def _unstuff(data, start, stream, stuffed):
    """Copies a scan without the zeros that follow each byte of ones, up to the next marker.

    stuffed: is filled with the places in `stream` of the bytes that a zero followed. Returns the length of the stream,
    the number of zeros, and the offset of the marker.
    """
    o = skipped = 0
    at, end = start, len(data)
    while at < end:
        while at + 8 <= end:
            word = load_word(data, at)
            if has_ones(word):
                break
            store_word(stream, o, word)
            at += 8
            o += 8
        if at >= end:
            break
        byte = data[at]
        if byte == 0xFF:
            if at + 1 >= end or data[at + 1] != 0:
                break
            stuffed[skipped] = o
            skipped += 1
            at += 1
        stream[o] = byte
        o += 1
        at += 1
    stream[o : o + 16] = 0
    return o, skipped, at
