"""Big-endian 64-bit words at any byte of an array, which Numba has no function for."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_intrinsic: Any = intrinsic  # type checkers do not know that Numba itself passes the typing context
_WORD = ir.IntType(64)


def _place(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(_WORD))


@_intrinsic
def load_word(typingctx, array, index):
    """Returns the bytes array[index:index + 8] of a uint8 array as uint64, the first byte highest. Without a check."""

    def build(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], args[1])
        return builder.bswap(builder.load(place, align=1))

    return types.uint64(array, types.intp), build


@_intrinsic
def store_word(typingctx, array, index, word):
    """Stores a uint64 in array[index:index + 8] of a uint8 array, the highest byte first. Without a check."""

    def build(context, builder, signature, args):
        place = _place(context, builder, signature.args[0], args[0], args[1])
        builder.store(builder.bswap(args[2]), place, align=1)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.uint64), build
