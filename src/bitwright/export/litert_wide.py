# SPDX-License-Identifier: MIT
"""What the published models need beyond 8 bits in a LiteRT file: multipliers of 31 bits, and streams that no clamp keeps small.

LiteRT has no float64, but its own kernels (XNNPACK leaves them to it) multiply, subtract and compare int64, and take remainders.
With h = 2**(c-1), an accumulator a becomes `round_half_even(a * b / 2**c)` as

    p = a * b                          below 2**63, since |a| <= 2**31 and b < 2**32
    z = p mod 2**(c+1)                 from 0 to 4h
    e = (p - z) / 2**c                 an even number
    result = e + (z > h) + (z >= 3h)   what z / 2h, below 2, rounds to: at h to the even 0, at 3h to the even 2

The difference p - z is e times a power of two, hence a float32 number while |e| <= 2**24, and its division by 2**c is exact;
beyond, rounding keeps order, so that the result is still clamped. Where no clamp keeps it that small, e is 2**12 times one such
number plus a remainder below 2**12, which is another, and they are put together in int32.

Streams are int32 tensors. Their sums are int32, and a mean is a sum, divided and rounded down in int32.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.litert_builder import LitertBuilder
from bitwright.export.litert_real import cast, combined, integers_of, store_rounded
from bitwright.graph.nodes import MaxPool2d, Node
from bitwright.integer.bounds import FLOAT32_EXACT
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.narrow import in_float32
from bitwright.integer.ops import IntegerAdd, IntegerFloorAvgPool2d, Rescale
from bitwright.integer.ranges import Range
from bitwright.integer.theorems import reduced
from bitwright.quantizer.formats import UNCLAMPED_BITS
from bitwright.scheme import MAX_BITS

MAX_SHIFT = 61
"""Twice 2**c is an int64 number."""
LOW_BITS = 12


def numbers_of(name: str, builder: LitertBuilder) -> int:
    """The integers of a tensor as int32, whatever its width."""
    if name in builder.numbers:
        return builder.numbers[name]
    return cast(builder, integers_of(name, builder.shape(name), builder), builder.shape(name), "INT32")


def rescale_in_int64(op: Node, rescale: Rescale, builder: LitertBuilder, source: int) -> None:
    """The int32 integers `source`, rescaled and clamped as the tensor `op.name`.

    Raises:
        ExportError: If results that are clamped can exceed 2**24 after it, or a shift is too large.
    """
    parts = _magnitude(builder.ranges[op.name]) > FLOAT32_EXACT
    if parts and not rescale.low < builder.ranges[op.name][0] <= builder.ranges[op.name][1] < rescale.high:
        raise ExportError(f"LiteRT clamps numbers of at most 2**24, but those of '{op.name}' can be larger.")
    b, c = reduced(rescale.multipliers.multiplier, rescale.multipliers.shift.astype(np.int64))
    b, c = np.where(c == 0, 2 * b, b), np.maximum(c, 1)  # so that 2**(c-1) is a whole number
    if (largest := int(c.max()) + parts * LOW_BITS) > MAX_SHIFT:
        raise ExportError(
            f"LiteRT's int64 has no remainder of 2**{largest + 1} at '{op.name}'. Use the engine onnx or tvm."
        )
    half = np.int64(1) << (c - 1)
    kinds, shape = builder.schema.TensorType, op.shape

    def node(operator: str, inputs: list[int], options: str, kind: str = "INT64", **values: int) -> int:
        return builder.node(operator, inputs, builder.tensor(builder.nhwc(shape), kind), options, **values)

    def longs(values: npt.NDArray[np.int64]) -> int:
        return builder.constant(np.asarray(values, dtype=np.int64))

    def divided(multiple: int, bits: int = 0) -> int:
        """A multiple of 2**(c + bits), over it."""
        numbers = cast(builder, multiple, shape, "FLOAT32", "INT64")
        return combined(builder, shape, "MUL", [numbers, builder.floats(np.ldexp(1.0, -c - bits))])

    wide = node("CAST", [source], "CastOptions", inDataType=kinds.INT32, outDataType=kinds.INT64)
    product = node("MUL", [wide, longs(b)], "MulOptions")
    rest = node("FLOOR_MOD", [product, longs(4 * half)], "FloorModOptions")
    even = node("SUB", [product, rest], "SubOptions")
    low_part = even
    if parts:
        low_part = node("FLOOR_MOD", [even, longs(half << (LOW_BITS + 1))], "FloorModOptions")
    result = divided(low_part)
    for operator, limit in (("GREATER", half), ("GREATER_EQUAL", 3 * half)):
        options = f"{operator.title().replace('_', '')}Options"
        above = node(operator, [rest, longs(limit)], options, "BOOL")
        result = combined(builder, shape, "ADD", [result, cast(builder, above, shape, "FLOAT32", "BOOL")])
    if not parts:
        _store(op, builder, result, rescale.low, rescale.high)
        return
    high_part = cast(builder, divided(node("SUB", [even, low_part], "SubOptions"), LOW_BITS), shape, "INT32")
    thousands = node(
        "MUL", [high_part, builder.constant(np.array(1 << LOW_BITS, dtype=np.int32))], "MulOptions", "INT32"
    )
    whole = node("ADD", [thousands, cast(builder, result, shape, "INT32")], "AddOptions", "INT32")
    builder.numbers[op.name] = whole


def rescale_stream(op: Node, rescale: Rescale, builder: LitertBuilder, source: int, multiplier: np.float32) -> None:
    """The int32 integers `source`, rescaled to at most 8 bits by a float32 multiplier: the formula of the certificate."""
    numbers = cast(builder, source, op.shape, "FLOAT32", "INT32")
    result = combined(builder, op.shape, "MUL", [numbers, builder.floats(multiplier)])
    _store(op, builder, result, rescale.low, rescale.high)


def in_int64(op: Node, rescale: Rescale, builder: LitertBuilder) -> bool:
    """Whether an operation is rescaled in int64: by 31-bit multipliers, or to numbers that no clamp keeps small."""
    return not in_float32(rescale) or builder.model.formats[op.name].bit_width == UNCLAMPED_BITS


def is_wide(name: str, builder: LitertBuilder) -> bool:
    """Whether a tensor has more than 8 bits."""
    params = builder.model.formats.get(name)
    return params is not None and params.bit_width > MAX_BITS


def _store(op: Node, builder: LitertBuilder, real: int, low: int, high: int) -> None:
    """Float32 numbers as the tensor `op.name`: quantized where it has at most 8 bits, else clamped where they can leave it."""
    if not is_wide(op.name, builder):

        def make(scale: float, activation: int) -> int:
            return combined(builder, op.shape, "MUL", [real, builder.floats(scale)], activation)

        store_rounded(op, builder, low, high, make)
        return
    for operator, limit in (("MAXIMUM", low), ("MINIMUM", high)):
        if abs(limit) <= FLOAT32_EXACT:
            output = builder.tensor(builder.nhwc(op.shape), "FLOAT32")
            real = builder.node(operator, [real, builder.floats(limit)], output, "MaximumMinimumOptions")
    builder.numbers[op.name] = cast(builder, real, op.shape, "INT32")


def _require_float32(op: Node, builder: LitertBuilder) -> None:
    """Refuse results that float32 cannot carry; `tensor_ranges` clamped them already."""
    largest = _magnitude(builder.ranges[op.name])
    if largest > FLOAT32_EXACT:
        raise ExportError(
            f"LiteRT carries '{op.name}' through float32, which holds 2**24, but it can reach {largest}. "
            "Use the engine onnx or tvm."
        )


def _magnitude(found: Range) -> int:
    return max(-found[0], found[1])


def add_wide(op: IntegerAdd, builder: LitertBuilder) -> None:
    """The sum of two tensors, at least one of which has more than 8 bits.

    Raises:
        ExportError: If the sum is shifted, or can leave int32.
    """
    if op.shift:
        name = next(name for name in (*op.inputs, op.name) if is_wide(name, builder))
        if builder.model.formats[name].bit_width != UNCLAMPED_BITS:
            builder.narrow(name)  # which says that streams of residual additions have at most 8 bits
        raise ExportError(f"LiteRT adds streams of more than 8 bits without a shift, but '{op.name}' has one.")
    pairs = list(zip(op.inputs, op.multipliers, strict=True))
    largest = sum(_magnitude(builder.ranges[name]) * multiplier for name, multiplier in pairs)
    if largest > INT32_MAX:
        raise ExportError(f"LiteRT adds in int32, but the sum '{op.name}' can reach {largest}.")
    terms = []
    for name, multiplier in pairs:
        term = numbers_of(name, builder)
        if multiplier != 1:
            output = builder.tensor(builder.nhwc(op.shape), "INT32")
            term = builder.node(
                "MUL", [term, builder.constant(np.array(multiplier, dtype=np.int32))], output, "MulOptions"
            )
        terms.append(term)
    total = builder.node("ADD", terms, builder.tensor(builder.nhwc(op.shape), "INT32"), "AddOptions")
    for operator, limit in (("MAXIMUM", op.low), ("MINIMUM", op.high)):
        output = builder.tensor(builder.nhwc(op.shape), "INT32")
        constant = builder.constant(np.array(limit, dtype=np.int32))
        total = builder.node(operator, [total, constant], output, "MaximumMinimumOptions")
    builder.numbers[op.name] = total


def floor_average(op: IntegerFloorAvgPool2d, builder: LitertBuilder) -> None:
    """The mean of a whole image, rounded down.

    Raises:
        ExportError: If the window is smaller than the image, or a sum can leave int32.
    """
    (source,) = op.inputs
    shape, area = builder.shape(source), prod(op.kernel)
    if op.kernel != shape[1:] or op.padding != (0, 0):
        raise ExportError(f"LiteRT has an exact mean, rounded down, of whole images only ('{op.name}').")
    largest = area * _magnitude(builder.ranges[source])
    if largest > INT32_MAX:
        raise ExportError(f"LiteRT adds in int32, but the sum of '{op.name}' can reach {largest}.")
    output = builder.tensor(builder.nhwc(op.shape), "INT32")
    total = builder.node(
        "SUM", [numbers_of(source, builder), builder.integers(1, 2)], output, "ReducerOptions", keepDims=True
    )
    mean = builder.tensor(builder.nhwc(op.shape), "INT32")
    builder.node("FLOOR_DIV", [total, builder.constant(np.array(area, dtype=np.int32))], mean, "FloorDivOptions")
    if is_wide(op.name, builder):
        builder.numbers[op.name] = mean
        return
    params = builder.model.formats[op.name]
    _store(op, builder, cast(builder, mean, op.shape, "FLOAT32", "INT32"), params.quant_min, params.quant_max)


def pool_wide(op: MaxPool2d, builder: LitertBuilder, after: tuple[int, int]) -> None:
    """The maximum of windows of a stream, in float32, which holds its numbers."""
    (source,) = op.inputs
    _require_float32(op, builder)
    channels, height, width = builder.shape(source)
    image = cast(builder, builder.numbers[source], builder.shape(source), "FLOAT32", "INT32")
    if any((*op.padding, *after)):
        sizes = [-1, height + op.padding[0] + after[0], width + op.padding[1] + after[1], channels]
        around = np.array([[0, 0], [op.padding[0], after[0]], [op.padding[1], after[1]], [0, 0]], dtype=np.int32)
        least = builder.floats(builder.ranges[source][0])
        image = builder.node(
            "PADV2", [image, builder.constant(around), least], builder.tensor(sizes, "FLOAT32"), "PadV2Options", 2
        )
    largest = builder.node(
        "MAX_POOL_2D", [image], builder.tensor(builder.nhwc(op.shape), "FLOAT32"), "Pool2DOptions", 2,
        padding=builder.schema.Padding.VALID, strideH=op.stride[0], strideW=op.stride[1],
        filterHeight=op.kernel[0], filterWidth=op.kernel[1],
    )  # fmt: skip
    builder.numbers[op.name] = cast(builder, largest, op.shape, "INT32")
