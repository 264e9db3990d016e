"""The tables by which the components of a JPEG file are read and their DC differences written, in compiled code."""

import numpy as np
from numba import njit

from fastlt.kernels.jpeg_header import AC, AC_TABLE, COMPONENTS, DC, DC_TABLE
from fastlt.kernels.jpeg_huffman import CATEGORIES, SKIPS, build_reader, build_skips, build_writer


@njit(cache=True)
def build_tables(data, head):
    """Builds the tables of all K components.

    data: uint8 [length], the file. head: int64 [HEAD], as read_header filled it.

    Returns (fast, slow, symbols), of which [0, k] reads the DC differences and [1, k] the AC coefficients of component
    k, see `build_reader`; skips [K, SKIPS], see `build_skips`; codes and lengths [K, CATEGORIES], see `build_writer`;
    and whether every DC difference has a code.
    """
    count = head[COMPONENTS]
    fast, slow = np.empty((2, count, 256), np.uint16), np.empty((2, count, 2, 17), np.int64)
    symbols, skips = np.empty((2, count, 256), np.uint8), np.empty((count, SKIPS), np.uint16)
    codes, lengths = np.empty((count, CATEGORIES), np.int64), np.empty((count, CATEGORIES), np.int64)
    complete = True
    for k in range(count):
        dc, ac = head[DC + head[DC_TABLE + k]], head[AC + head[AC_TABLE + k]]
        complete &= build_writer(data, dc, codes[k], lengths[k]) >= 0
        build_reader(data, dc, fast[0, k], slow[0, k], symbols[0, k])
        build_reader(data, ac, fast[1, k], slow[1, k], symbols[1, k])
        build_skips(fast[1, k], slow[1, k], symbols[1, k], skips[k])
    return fast, slow, symbols, skips, codes, lengths, complete
