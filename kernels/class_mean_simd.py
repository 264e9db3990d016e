"""Vectors of sixteen float32 for the loops of class_mean_cpu.py, so that sums over rows stay in registers.

The operations are written in LLVM IR for any processor, as in simd.py: LLVM splits vectors that are wider than the
hardware's. Rows are float32 or the bits of a 16-bit float (see arrays.py), which are converted as they are loaded.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 16

_intrinsic: Any = intrinsic  # type checkers do not know that Numba itself passes the typing context


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


_vector = _Vector()
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_FUSED = ("contract",)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _FLOATS)


def _words(value):
    return ir.Constant(_WORDS, [value] * LANES)


def _pointer(context, builder, kind, array, index, target):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(target))


def _from_half(builder, bits):
    """Converts the bits of float16 to float32: moves exponent and fraction, then changes the exponent's bias."""
    size = builder.shl(builder.and_(bits, _words(0x7FFF)), _words(13))
    finite = builder.icmp_unsigned("<", size, _words(0x7C00 << 13))
    size = builder.select(finite, size, builder.or_(size, _words(0x7F800000)))
    value = builder.fmul(builder.bitcast(size, _FLOATS), ir.Constant(_FLOATS, [2.0**112] * LANES))
    sign = builder.shl(builder.and_(bits, _words(0x8000)), _words(16))
    return builder.bitcast(builder.or_(builder.bitcast(value, _WORDS), sign), _FLOATS)


@_intrinsic
def load(typingctx, array, index):
    """Loads sixteen values, beginning with element `index` of a C-contiguous array of any shape."""
    kind = array.dtype

    def build(context, builder, signature, args):
        stored = ir.FloatType() if kind == types.float32 else ir.IntType(16)
        where = _pointer(context, builder, signature.args[0], args[0], args[1], ir.VectorType(stored, LANES))
        found = builder.load(where, align=2 if kind != types.float32 else 4)
        if kind == types.float32:
            return found
        bits = builder.zext(found, _WORDS)
        return (
            _from_half(builder, bits)
            if kind == types.uint16
            else builder.bitcast(builder.shl(bits, _words(16)), _FLOATS)
        )

    return _vector(array, types.intp), build


@_intrinsic
def zeros(typingctx):
    """Returns a vector of zeros."""

    def build(context, builder, signature, args):
        return ir.Constant(_FLOATS, [0.0] * LANES)

    return _vector(), build


@_intrinsic
def fill(typingctx, array, index):
    """Returns a vector whose sixteen values are all array[index]."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[0], args[0], args[1], ir.FloatType())
        empty = ir.Constant(_FLOATS, ir.Undefined)
        one = builder.insert_element(empty, builder.load(where), ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, empty, _words(0))

    return _vector(array, types.intp), build


@_intrinsic
def add(typingctx, a, b):
    """Returns a + b, element by element."""

    def build(context, builder, signature, args):
        return builder.fadd(args[0], args[1])

    return _vector(_vector, _vector), build


@_intrinsic
def subtract(typingctx, a, b):
    """Returns a - b, element by element."""

    def build(context, builder, signature, args):
        return builder.fsub(args[0], args[1])

    return _vector(_vector, _vector), build


@_intrinsic
def multiply_add(typingctx, total, a, b):
    """Returns total + a * b, element by element."""

    def build(context, builder, signature, args):
        return builder.fadd(args[0], builder.fmul(args[1], args[2], flags=_FUSED), flags=_FUSED)

    return _vector(_vector, _vector, _vector), build


@_intrinsic
def add_to(typingctx, sums, index, lanes):
    """Adds sixteen values to sums[index:index + 16], in float64."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[0], args[0], args[1], _DOUBLES)
        total = builder.fadd(builder.load(where, align=8), builder.fpext(args[2], _DOUBLES))
        builder.store(total, where, align=8)
        return context.get_dummy_value()

    return types.none(sums, types.intp, _vector), build


@_intrinsic
def put(typingctx, sums, index, lanes):
    """Stores sixteen values in sums[index:index + 16], as float64."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[0], args[0], args[1], _DOUBLES)
        builder.store(builder.fpext(args[2], _DOUBLES), where, align=8)
        return context.get_dummy_value()

    return types.none(sums, types.intp, _vector), build


@_intrinsic
def add_four_to(typingctx, sums, index, a, b, c, d):
    """Adds (a + b) + (c + d) to sums[index:index + 16], all in float64."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[0], args[0], args[1], _DOUBLES)
        a, b, c, d = (builder.fpext(lanes, _DOUBLES) for lanes in args[2:])
        four = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
        builder.store(builder.fadd(builder.load(where, align=8), four), where, align=8)
        return context.get_dummy_value()

    return types.none(sums, types.intp, _vector, _vector, _vector, _vector), build


@_intrinsic
def total(typingctx, lanes):
    """Returns the sum of the sixteen values as float64, added in a fixed order."""

    def build(context, builder, signature, args):
        values = builder.fpext(args[0], _DOUBLES)
        width = LANES
        while width > 1:
            width //= 2
            low, high = ([ir.Constant(ir.IntType(32), k + shift) for k in range(width)] for shift in (0, width))
            halves = [
                builder.shuffle_vector(values, values, ir.Constant(ir.VectorType(ir.IntType(32), width), half))
                for half in (low, high)
            ]
            values = builder.fadd(*halves)
        return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))

    return types.float64(_vector), build


@_intrinsic
def prefetch(typingctx, array, index):
    """Prefetches the cache line that holds element `index`."""

    def build(context, builder, signature, args):
        where = _pointer(context, builder, signature.args[0], args[0], args[1], ir.IntType(8))
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [where.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [where.type], kind)
        builder.call(function, [where, number(0), number(2), number(1)])  # for reading, into the L2 cache, of data
        return context.get_dummy_value()

    return types.none(array, types.intp), build
