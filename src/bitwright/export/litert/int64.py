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

The integers of a tensor are float32 numbers while none exceeds 2**24, and int32 ones beyond. A mean is a sum, divided and rounded
down in int32.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    in_two = builder.reach(op.name) > FLOAT32_EXACT
    if in_two and not rescale.low < builder.ranges[op.name][0] <= builder.ranges[op.name][1] < rescale.high:
        raise ExportError(f"LiteRT clamps numbers of at most 2**24, but those of '{op.name}' can be larger.")
    b, c = reduced(rescale.multipliers.multiplier, rescale.multipliers.shift.astype(np.int64))
    b, c = np.where(c == 0, 2 * b, b), np.maximum(c, 1)  # so that 2**(c-1) is a whole number
    if (largest := int(c.max()) + in_two * LOW_BITS) > MAX_SHIFT:
        raise ExportError(
            f"LiteRT's int64 has no remainder of 2**{largest + 1} at '{op.name}'. Use the engine onnx or tvm."
        )
    if source.kind == "INT8":
        source = Held(as_real(source, op.shape, builder), "FLOAT32")
    words = _Int64(builder, op.shape)
    product = words.of("MUL", words.held(source), words.constant(b))
    rest = words.of("FLOOR_MOD", product, words.constant(2 << c))
    even = words.of("SUB", product, rest)
    ups = [words.compared(name, rest, times << (c - 1)) for name, times in (("GREATER", 1), ("GREATER_EQUAL", 3))]
    if not in_two:
        first = combined(builder, op.shape, "ADD", [words.divided(even, c), ups[0]])
        store_rounded(
            op,
            builder,
            rescale.low,
            rescale.high,
            lambda clamp: combined(builder, op.shape, "ADD", [first, ups[1]], clamp),
        )
        return
    low = words.of("FLOOR_MOD", even, words.constant(1 << (c + LOW_BITS)))
    high = words.divided(words.of("SUB", even, low), c + LOW_BITS)
    low_sum = combined(
        builder, op.shape, "ADD", [combined(builder, op.shape, "ADD", [words.divided(low, c), ups[0]]), ups[1]]
    )
    scaled = [cast(builder, high, op.shape, "INT32"), builder.constant(np.array(1 << LOW_BITS, dtype=np.int32))]
    terms = [combined(builder, op.shape, "MUL", scaled, kind="INT32"), cast(builder, low_sum, op.shape, "INT32")]
    builder.held[op.name] = Held(combined(builder, op.shape, "ADD", terms, kind="INT32"), "INT32")


@dataclass(frozen=True)
class _Int64:
    """int64 tensors of one shape (channels, ...), named by their indices in the file."""

    builder: LitertBuilder
    shape: tuple[int, ...]

    def held(self, source: Held) -> int:
        """A tensor of another type, cast."""
        kinds = self.builder.schema.TensorType
        types = {"inDataType": getattr(kinds, source.kind), "outDataType": kinds.INT64}
        return self._node("CAST", [source.tensor], "CastOptions", **types)

    def constant(self, values: npt.NDArray[np.int64]) -> int:
        """One number for each channel, or one for all."""
        return self.builder.constant(np.asarray(values, dtype=np.int64))

    def of(self, operator: str, first: int, second: int) -> int:
        """An operator of two tensors: MUL, SUB or FLOOR_MOD."""
        return self._node(operator, [first, second], f"{operator.title().replace('_', '')}Options")

    def compared(self, operator: str, first: int, limit: npt.NDArray[np.int64]) -> int:
        """1.0 where it holds, in float32: GREATER or GREATER_EQUAL."""
        options = f"{operator.title().replace('_', '')}Options"
        found = self._node(operator, [first, self.constant(limit)], options, kind="BOOL")
        return cast(self.builder, found, self.shape, "FLOAT32", "BOOL")

    def divided(self, multiple: int, shift: npt.NDArray[np.int64]) -> int:
        """A multiple of 2**shift, over it, in float32."""
        numbers = cast(self.builder, multiple, self.shape, "FLOAT32", "INT64")
        return combined(self.builder, self.shape, "MUL", [numbers, self.builder.floats(np.ldexp(1.0, -shift))])

    def _node(self, operator: str, inputs: list[int], options: str, kind: str = "INT64", **values: int) -> int:
        result = self.builder.tensor(self.builder.nhwc(self.shape), kind)
        return self.builder.node(operator, inputs, result, options, **values)


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
