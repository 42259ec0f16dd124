# SPDX-License-Identifier: MIT
"""What the published models need beyond 8 bits in a LiteRT file: multipliers of 31 bits, and tensors that no clamp keeps small.

LiteRT has no float64, but its own kernels (XNNPACK leaves them to it) multiply, subtract and compare int64, and take remainders.
With h = 2**(c-1), an accumulator a becomes `round_half_even(a * b / 2**c)` as

    p = a * b                          below 2**63, since |a| <= 2**31 and b < 2**32
    z = p mod 2**(c+1)                 from 0 to 4h
    e = (p - z) / 2**c                 an even number
    result = e + (z > h) + (z >= 3h)   what z / 2h, below 2, rounds to: at h to the even 0, at 3h to the even 2

The difference p - z is e times a power of two, hence a float32 number while |e| <= 2**24, and its division by 2**c is exact;
beyond, rounding keeps order, so that the result is still clamped. Where no clamp keeps it that small, e is 2**12 times one such
number plus a remainder below 2**12, which is another, and they are put together in int32.

Such a tensor is one of float32 of integers while all are at most 2**24, else int32. A mean is a sum, divided and rounded down in
int32.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.export.litert.real import as_real, cast, combined, store_rounded, whole_of
from bitwright.graph.nodes import Node
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import IntegerFloorAvgPool2d, Rescale
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.integer.proof.float32_multipliers import in_float32
from bitwright.integer.proof.theorems import reduced
from bitwright.quantizer.formats import UNCLAMPED_BITS
from bitwright.quantizer.sums import magnitude, window_sums

MAX_SHIFT = 61
"""Twice 2**c is an int64 number."""
LOW_BITS = 12


def in_int64(op: Node, rescale: Rescale, builder: LitertBuilder) -> bool:
    """Whether an operation is rescaled in int64: by 31-bit multipliers, or to numbers that no clamp keeps small."""
    return not in_float32(rescale) or builder.model.formats[op.name].bit_width == UNCLAMPED_BITS


def rescale_in_int64(op: Node, rescale: Rescale, builder: LitertBuilder, source: Held) -> None:
    """The integers `source`, rescaled and clamped as the tensor `op.name`.

    Raises:
        ExportError: If results that are clamped can exceed 2**24 after it, or a shift is too large.
    """
    parts = builder.reach(op.name) > FLOAT32_EXACT
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

    if source.kind == "INT8":
        source = Held(as_real(source, shape, builder), "FLOAT32")
    given = getattr(kinds, source.kind)
    long = node("CAST", [source.tensor], "CastOptions", inDataType=given, outDataType=kinds.INT64)
    product = node("MUL", [long, longs(b)], "MulOptions")
    rest = node("FLOOR_MOD", [product, longs(4 * half)], "FloorModOptions")
    even = node("SUB", [product, rest], "SubOptions")
    low_part = even
    if parts:
        low_part = node("FLOOR_MOD", [even, longs(half << (LOW_BITS + 1))], "FloorModOptions")
    above = []
    for operator, limit in (("GREATER", half), ("GREATER_EQUAL", 3 * half)):
        compared = node(operator, [rest, longs(limit)], f"{operator.title().replace('_', '')}Options", "BOOL")
        above.append(cast(builder, compared, shape, "FLOAT32", "BOOL"))
    first = combined(builder, shape, "ADD", [divided(low_part), above[0]])

    def result(activation: int) -> int:
        return combined(builder, shape, "ADD", [first, above[1]], activation)

    if not parts:
        store_rounded(op, builder, rescale.low, rescale.high, result)
        return
    high_part = cast(builder, divided(node("SUB", [even, low_part], "SubOptions"), LOW_BITS), shape, "INT32")
    power = builder.constant(np.array(1 << LOW_BITS, dtype=np.int32))
    terms = [
        combined(builder, shape, "MUL", [high_part, power], kind="INT32"),
        cast(builder, result(0), shape, "INT32"),
    ]
    builder.held[op.name] = Held(combined(builder, shape, "ADD", terms, kind="INT32"), "INT32")


def floor_average(op: IntegerFloorAvgPool2d, builder: LitertBuilder) -> None:
    """The mean of a whole image, rounded down.

    Raises:
        ExportError: If the window is smaller than the image, or a sum can leave int32.
    """
    (source,) = op.inputs
    shape, area = builder.shape(source), prod(op.kernel)
    if op.kernel != shape[1:] or op.padding != (0, 0):
        raise ExportError(f"LiteRT has an exact mean, rounded down, of whole images only ('{op.name}').")
    largest = magnitude(window_sums(op.kernel, (0, builder.reach(source))))
    if largest > INT32_MAX:
        raise ExportError(f"LiteRT adds in int32, but the sum of '{op.name}' can reach {largest}.")
    total = builder.tensor(builder.nhwc(op.shape), "INT32")
    image = [whole_of(source, builder), builder.integers(1, 2)]
    builder.node("SUM", image, total, "ReducerOptions", keepDims=True)
    mean = builder.hold(op.name, op.shape, "INT32")
    builder.node("FLOOR_DIV", [total, builder.constant(np.array(area, dtype=np.int32))], mean, "FloorDivOptions")
    # A mean lies between the ends of what it is of, so that nothing is left to clamp.
    if not builder.exceeds_byte(op.name):
        params = builder.model.formats[op.name]
        real = cast(builder, mean, op.shape, "FLOAT32", "INT32")
        store_rounded(op, builder, params.quant_min, params.quant_max, lambda activation: real)
