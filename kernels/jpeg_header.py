"""Reads the header of a JPEG file in compiled code, with every index checked: damaged files give 0, never a crash.

Only files are taken whose windows can be cut out by MCUs (jpeg_window.py): Huffman-coded, sequential, 8 bits, one scan
with all components, no restart markers, grey or three components of which the first has the samples of one or two
columns and rows and the others of one. An MCU is the smallest unit of the scan: the blocks of 8 x 8 samples of all
components that cover the same pixels.
"""

import numpy as np
from numba import njit

# Places in the array `head`. Offsets are those of bytes in the file.
HEIGHT, WIDTH, COMPONENTS, SCAN, MCU_HEIGHT, MCU_WIDTH, ROWS, COLUMNS, TABLE, TABLE_LENGTH, BEFORE_SCAN = range(11)
DC, AC = 11, 15  # for each of four table numbers: offset of the 16 counts of a Huffman table, 0 if there is none
DC_TABLE, AC_TABLE = 19, 22  # the table numbers of up to three components
HEAD = 25

SIGNATURE = np.frombuffer(b"fastlt seek\0", np.uint8)
"""The first bytes of the segment that holds a seek table (jpeg_seek.py)."""

MARKER = 0xE9  # APP9, the marker of that segment
_KEPT = np.zeros(256, np.bool_)
_KEPT[[0xC0, 0xC1, 0xC4, 0xDB, 0xE0, 0xEE, 0xDA]] = True
KEPT = _KEPT
"""The markers of segments that determine pixels: frame, Huffman and quantization tables, JFIF, Adobe, scan."""


@njit(cache=True)
def read_header(data, head):
    """Reads a file's header.

    data: uint8 [length], the file. head: int64 [HEAD], is filled. Returns whether windows of the file can be cut.
    """
    head[:] = 0
    at, end = 2, len(data)
    if end < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return False
    while at + 4 <= end:
        marker = data[at + 1]
        length = np.int64(data[at + 2]) << 8 | data[at + 3]
        if data[at] != 0xFF or length < 2 or at + 2 + length > end:
            return False
        if marker == 0xC0 or marker == 0xC1:
            if head[COMPONENTS] or not _read_frame(data, at + 4, length - 2, head):
                return False
        elif marker == 0xC4:
            if not _read_tables(data, at + 4, length - 2, head):
                return False
        elif marker == 0xDA:
            head[BEFORE_SCAN], head[SCAN] = at, at + 2 + length
            return _read_scan(data, at + 4, length - 2, head)
        elif marker == MARKER and _is_table(data, at + 4, length - 2):
            if head[TABLE]:
                return False
            head[TABLE], head[TABLE_LENGTH] = at, 2 + length
        elif marker == 0xDD:
            if length != 4 or data[at + 4] or data[at + 5]:
                return False
        elif not (0xE0 <= marker <= 0xEF or marker == 0xFE or marker == 0xDB):
            return False
        at += 2 + length
    return False


@njit(cache=True)
def _is_table(data, at, length):
    if length < len(SIGNATURE):
        return False
    same = 0
    for i in range(len(SIGNATURE)):
        same += data[at + i] == SIGNATURE[i]
    return same == len(SIGNATURE)


@njit(cache=True)
def _read_frame(data, at, length, head):
    if length < 6 or data[at] != 8:
        return False
    count = data[at + 5]
    height, width = np.int64(data[at + 1]) << 8 | data[at + 2], np.int64(data[at + 3]) << 8 | data[at + 4]
    if length != 6 + 3 * count or (count != 1 and count != 3) or height == 0 or width == 0:
        return False
    across, down = data[at + 7] >> 4, data[at + 7] & 15
    if not 1 <= across <= 2 or not 1 <= down <= 2:
        return False
    for k in range(1, count):
        if data[at + 7 + 3 * k] != 0x11:
            return False
    if count == 1:  # the only component is never interleaved: an MCU is one block
        across, down = 1, 1
    head[HEIGHT], head[WIDTH], head[COMPONENTS] = height, width, count
    head[MCU_HEIGHT], head[MCU_WIDTH] = 8 * down, 8 * across
    head[ROWS], head[COLUMNS] = -(-height // (8 * down)), -(-width // (8 * across))
    for k in range(count):
        head[DC_TABLE + k] = data[at + 6 + 3 * k]  # the component's name, until the scan gives its tables
    return True


@njit(cache=True)
def _read_tables(data, at, length, head):
    while length > 0:
        if length < 17:
            return False
        kind, number, symbols, code = data[at] >> 4, data[at] & 15, 0, 0
        for i in range(16):
            symbols += data[at + 1 + i]
            code = (code << 1) + data[at + 1 + i]
            if code >= 1 << (i + 1) and data[at + 1 + i]:  # more codes than there are, or one of ones only
                return False
        if kind > 1 or number > 3 or not 1 <= symbols <= 256 or length < 17 + symbols:
            return False
        head[(AC if kind else DC) + number] = at + 1
        at += 17 + symbols
        length -= 17 + symbols
    return True


@njit(cache=True)
def _read_scan(data, at, length, head):
    count = head[COMPONENTS]
    if count == 0 or length != 4 + 2 * count or data[at] != count:
        return False
    for k in range(count):
        if data[at + 1 + 2 * k] != head[DC_TABLE + k]:
            return False
        tables = data[at + 2 + 2 * k]
        dc, ac = tables >> 4, tables & 15
        if dc > 3 or ac > 3 or head[DC + dc] == 0 or head[AC + ac] == 0:
            return False
        head[DC_TABLE + k], head[AC_TABLE + k] = dc, ac
    end = at + 1 + 2 * count
    return data[end] == 0 and data[end + 1] == 63 and data[end + 2] == 0
