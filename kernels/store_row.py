"""One row of finished pixels goes into the output: normalized float32 or float16, or the pixels themselves as uint8.

Numba has no float16 on the CPU; its bits are made here from those of float32, rounded to the nearest, ties to even.
"""

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

# Bits of float32: the least that is infinite as float16, the least that is not subnormal there.
_INFINITE, _NORMAL = np.uint32(143 << 23), np.uint32(113 << 23)
_HALF, _HALF_BITS = np.float32(0.5), np.uint32(126 << 23)  # added to it, a subnormal float16 is the sum's last digits
_REBIAS = np.uint32((1 << 32) - (112 << 23) + 0xFFF)  # exponent 127 -> 15, and half a unit less one to round up


def store_row(out, i, row, plane, mean, inv_std):
    """Fills row i of the image `out` (compiled code only).

    out: [3, T_h, T_w], strides free: float32, or uint16 for the bits of float16, gets (row - mean) * inv_std; uint8
    gets `row`. row: uint8, colour c from c * plane on. mean, inv_std: float32 [3].
    """
    raise NotImplementedError  # Numba chooses below


@register_jitable
def half_bits(value):
    """The float16 nearest to a float32, as its bits in the low half of a uint32."""
    bits = np.float32(value).view(np.uint32)
    # Numba widens sums of uint32 to 64 bits; cut back at once, they stay four or eight to a vector.
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32(size >> np.uint32(13) & np.uint32(1))
    normal = np.uint32(np.uint32(size + _REBIAS + odd) >> np.uint32(13))
    subnormal = np.uint32(np.float32(size.view(np.float32) + _HALF).view(np.uint32) - _HALF_BITS)
    special = np.uint32(0x7E00) if size > np.uint32(255 << 23) else np.uint32(0x7C00)  # not a number, infinite
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
            # Through a row of its own: a target whose elements lie apart would keep the conversion from being vectors.
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
