"""Vectors of sixteen int32 lanes for Numba, for loops over pixels that LLVM does not vectorize by itself.

Numba disables LLVM's vectorizer of straight-line code (SLP), which can only be enabled for the whole process. This file
therefore defines a few vector operations in LLVM IR. They run on any processor: LLVM splits vectors that are wider than
the hardware's.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 16
BITS = 22  # fraction bits of a weight, as in Pillow: an int32 holds 8 bits of pixel, 22 of weight and 2 spare ones

_intrinsic: Any = intrinsic  # type checkers do not know that Numba itself passes the typing context


class _Vector(types.Type):
    """Sixteen int32 lanes in registers."""

    def __init__(self) -> None:
        super().__init__(name="int32x16")


_vector = _Vector()
_WIDE = ir.VectorType(ir.IntType(32), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _WIDE)


def _splat(builder, value):
    value = builder.trunc(value, ir.IntType(32)) if value.type.width > 32 else value
    one = builder.insert_element(ir.Constant(_WIDE, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_WIDE, ir.Undefined), mask)


def _constant(value):
    return ir.Constant(_WIDE, [value] * LANES)


def _pointer(context, builder, kind, array, index, target):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(target))


@_intrinsic
def fill(typingctx, value):
    """Returns a vector whose sixteen lanes are all `value`."""

    def build(context, builder, signature, args):
        return _splat(builder, args[0])

    return _vector(types.int64), build


@_intrinsic
def load_bytes(typingctx, array, index):
    """Loads the sixteen uint8 values array[index:index + 16] as int32."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[0], args[0], args[1], _BYTES)
        return builder.zext(builder.load(where, align=1), _WIDE)

    return _vector(array, types.intp), build


@_intrinsic
def load_row(typingctx, array, index, shift):
    """Loads sixteen 32-bit words, beginning at array[index], and returns byte `shift / 8` of each."""

    def build(context, builder, signature, args):
        words = builder.load(_pointer(context, builder, signature.args[0], args[0], args[1], _WIDE), align=4)
        return builder.and_(builder.lshr(words, _splat(builder, args[2])), _constant(255))

    return _vector(array, types.intp, types.int64), build


@_intrinsic
def multiply_add(typingctx, total, lanes, weight):
    """Returns total + lanes * weight in int32; `weight` is the same number for all lanes."""

    def build(context, builder, signature, args):
        return builder.add(args[0], builder.mul(args[1], _splat(builder, args[2])))

    return _vector(_vector, _vector, types.int32), build


def _to_bytes(builder, total):
    """Converts weighted sums to pixels, clipped to 0..255.

    Bicubic sums overshoot on both sides, and rounded weights may add up to a little more than one.
    """
    pixel = builder.ashr(total, _constant(BITS))
    pixel = builder.select(builder.icmp_signed("<", pixel, _constant(255)), pixel, _constant(255))
    pixel = builder.select(builder.icmp_signed(">", pixel, _constant(0)), pixel, _constant(0))
    return builder.trunc(pixel, _BYTES)


@_intrinsic
def store_pixels(typingctx, total, array, index):
    """Converts sixteen weighted sums to uint8 and stores them in array[index:index + 16]."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[1], args[1], args[2], _BYTES)
        builder.store(_to_bytes(builder, args[0]), where, align=1)
        return context.get_dummy_value()

    return types.none(_vector, array, types.intp), build


@_intrinsic
def store_planes(typingctx, total, array, index, stride):
    """Converts lanes 0..3, 4..7 and 8..11 to uint8 and stores each four at array[index + colour * stride].

    The lanes are the weighted sums of three colours, for four rows each; lanes 12..15 are ignored.
    """

    def build(context, builder, signature, args):
        words = builder.bitcast(_to_bytes(builder, args[0]), ir.VectorType(ir.IntType(32), 4))
        index = args[2]
        for colour in range(3):
            where = _pointer(context, builder, signature.args[1], args[1], index, ir.IntType(32))
            builder.store(builder.extract_element(words, ir.Constant(ir.IntType(32), colour)), where)
            index = builder.add(index, args[3])
        return context.get_dummy_value()

    return types.none(_vector, array, types.intp, types.intp), build


@_intrinsic
def as_pointer(typingctx, address):
    """Converts an integer address to a pointer to uint8."""

    def build(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.PointerType(ir.IntType(8)))

    return types.CPointer(types.uint8)(types.uintp), build
