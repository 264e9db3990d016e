"""Writes one row of resized pixels into the output: normalized float32 or float16, or the unchanged uint8 pixels.

Numba has no float16 on the CPU. This file computes its bits from those of float32, rounding to nearest, ties to even.
"""

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

# Bits of float32: the smallest value that becomes infinite as float16, the smallest that does not become subnormal.
_INFINITE, _NORMAL = np.uint32(143 << 23), np.uint32(113 << 23)
_HALF, _HALF_BITS = np.float32(0.5), np.uint32(126 << 23)  # 0.5 + x has the bits of a subnormal float16 x at its end
_REBIAS = np.uint32((1 << 32) - (112 << 23) + 0xFFF)  # changes the exponent's bias from 127 to 15, and rounds


def store_row(out, i, row, plane, mean, inv_std):
    """Fills row i of the image `out`. Can be called from compiled code only.

    out: [3, T_h, T_w] of any strides. float32, or uint16 for the bits of float16, receives (row - mean) * inv_std;
    uint8 receives the pixels unchanged.
    row: uint8, 1-D; the pixels of colour c begin at c * plane.
    mean, inv_std: float32 [3], in units of pixels (0 to 255).
    """
    raise NotImplementedError  # Numba calls the overload below


@register_jitable
def half_bits(value):
    """Returns the bits of the float16 nearest to a float32, as uint16."""
    bits = np.float32(value).view(np.uint32)
    # Numba widens sums of uint32 to 64 bits. Each is narrowed at once, so that four or eight fit in a vector.
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32(size >> np.uint32(13) & np.uint32(1))
    normal = np.uint32(np.uint32(size + _REBIAS + odd) >> np.uint32(13))
    subnormal = np.uint32(np.float32(size.view(np.float32) + _HALF).view(np.uint32) - _HALF_BITS)
    special = np.uint32(0x7E00) if size > np.uint32(255 << 23) else np.uint32(0x7C00)  # NaN or infinity
    half = special if size >= _INFINITE else normal if size >= _NORMAL else subnormal
    return np.uint16(half | bits >> np.uint32(16) & np.uint32(0x8000))


@overload(store_row)
def _store_row(out, i, row, plane, mean, inv_std):
    if out.dtype == types.uint8:

        def store(out, i, row, plane, mean, inv_std):
            for c in range(3):
                source, target = row[c * plane : c * plane + out.shape[2]], out[c, i]
                for x in range(len(target)):
                    target[x] = source[x]

    elif out.dtype == types.uint16:

        def store(out, i, row, plane, mean, inv_std):
            # The conversion goes through a contiguous row: LLVM would not vectorize it with a strided target.
            bits = np.empty(out.shape[2], np.uint16)
            for c in range(3):
                offset, factor = mean[c], inv_std[c]
                source, target = row[c * plane : c * plane + out.shape[2]], out[c, i]
                for x in range(len(bits)):
                    bits[x] = half_bits((np.float32(source[x]) - offset) * factor)
                for x in range(len(bits)):
                    target[x] = bits[x]

    else:

        def store(out, i, row, plane, mean, inv_std):
            for c in range(3):
                offset, factor = mean[c], inv_std[c]
                source, target = row[c * plane : c * plane + out.shape[2]], out[c, i]
                for x in range(len(target)):
                    target[x] = (np.float32(source[x]) - offset) * factor

    return store
