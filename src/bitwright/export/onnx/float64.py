# SPDX-License-Identifier: MIT
"""What float32 cannot hold, in standard ONNX operators on float64: multipliers of 31 bits, and tensors that no clamp keeps small.

An accumulator a becomes `round_half_even(a * b / 2**c)`, clamped to [low, high], in one of two forms:

**Direct**: `Clip(Round(a * m))` with m = b / 2**c, a float64 number. Let R = (max(|low|, |high|) + 1) / m. Where |a| <= R and
|a| * b <= 2**53, the product is exact, so Round sees the very number. Where |a| > R, the exact product lies beyond the limit by
one or more, and since rounding does not decrease, so does the float64 one: both are clamped to the limit. So the form is exact if
`min(|a|, R) * b <= 2**53` for all a that the weights allow.

**Split**, for any int32 a and c <= 51: b = 2**15 * u + l with l < 2**15, hence u < 2**16.

    half = a * (u * 2**(14-c))         exact: a * u has at most 47 bits
    floor = Floor(half)                so that 2 * floor is even
    rest = 2 * (half - floor) + a * (l * 2**-c)
    result = 2 * floor + Round(rest)

The rest is a multiple of 2**-c below 2 + 2**(46-c) in magnitude: at most 53 bits for c <= 51, so it is exact as well. Adding an
even number before or after rounding halves to even makes no difference. No operation is ever rounded but Round, so engines may
fuse and reorder as they like.

Sums go on as float64 numbers, and a mean is Floor(sum / area): below 2**46, float64 cannot round a quotient up to the
next integer, which lacks at least 1 / area.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from bitwright.errors import ExportError
from bitwright.export.onnx.builder import WORDS, OnnxBuilder, zero_point
from bitwright.export.onnx.graph import move_in_onnx
from bitwright.graph.nodes import Node, Selection
from bitwright.integer.ops import IntegerAdd, IntegerFloorAvgPool2d, Rescale
from bitwright.integer.proof.ranges import accumulators

EXACT = 2**53
"""Every integer up to it is a float64 number."""
MAX_SPLIT_SHIFT = 51
_LOW_BITS = 15


def rescale_in_float64(op: Node, rescale: Rescale, builder: OnnxBuilder, source: str) -> None:
    """The integers `source`, of any type, rescaled and clamped as the tensor `op.name`.

    Raises:
        ExportError: If neither form is exact.
    """
    columns = (-1, *[1] * (len(op.shape) - 1)) if len(rescale.multipliers) > 1 else ()
    low, high = accumulators(op, [builder.ranges[name] for name in op.inputs], builder.model)
    double = builder.cast(source, TensorProto.DOUBLE)
    if is_direct(rescale, np.maximum(np.abs(low), np.abs(high))):
        ratio = builder.constant(f"{op.name}.multiplier", rescale.multipliers.real().reshape(columns))
        product = builder.node("Mul", [double, ratio], f"{op.name}.product")
        rounded = builder.node("Round", [product], f"{op.name}.rounded")
    else:
        rounded = _split(op, rescale, builder, double, columns)
    _store(op, builder, rounded, rescale.low, rescale.high)


def is_direct(rescale: Rescale, largest: npt.NDArray[np.int64]) -> bool:
    """Whether one float64 product is exact wherever it matters; `largest` is that of the accumulators, [channels] or [1]."""
    limit = max(abs(rescale.low), abs(rescale.high)) + 1
    pairs = zip(rescale.multipliers.multiplier.tolist(), rescale.multipliers.shift.tolist(), strict=True)
    bounds = np.broadcast_to(largest, len(rescale.multipliers)).tolist()
    return all(min(bound, (limit << c) // b + 1) * b <= EXACT for bound, (b, c) in zip(bounds, pairs, strict=True))


def _split(op: Node, rescale: Rescale, builder: OnnxBuilder, double: str, columns: tuple[int, ...]) -> str:
    """The multiplier in two parts; see above."""
    b, c = rescale.multipliers.multiplier, rescale.multipliers.shift
    if c.max() > MAX_SPLIT_SHIFT:
        channel = int(np.argmax(c))
        raise ExportError(
            f"'{op.name}', channel {channel}: expected a shift of at most {MAX_SPLIT_SHIFT} for accumulators this large, got "
            f"{c[channel]}: float64 cannot hold the product with its multiplier of 31 bits. Lower the layer with certified "
            "multipliers instead: `bitwright zoo import --float`, then `bitwright train` and `bitwright lower`."
        )
    high_part, low_part = (part.astype(np.float64) for part in (b >> _LOW_BITS, b & ((1 << _LOW_BITS) - 1)))
    upper = builder.constant(f"{op.name}.upper", np.ldexp(high_part, _LOW_BITS - 1 - c).reshape(columns))
    lower = builder.constant(f"{op.name}.lower", np.ldexp(low_part, -c).reshape(columns))

    def node(operation: str, inputs: list[str], name: str) -> str:
        return builder.node(operation, inputs, f"{op.name}.{name}")

    half = node("Mul", [double, upper], "half")
    floor = node("Floor", [half], "floor")
    fraction = node("Sub", [half, floor], "fraction")
    twice, product = node("Add", [fraction, fraction], "twice"), node("Mul", [double, lower], "product")
    rest = node("Add", [twice, product], "rest")
    even = node("Add", [floor, floor], "even")
    return node("Add", [even, node("Round", [rest], "rest_rounded")], "rounded")


def add_in_float64(op: IntegerAdd, builder: OnnxBuilder) -> None:
    """The sum of two tensors, one of which no clamp keeps small.

    Raises:
        ExportError: If float64 cannot hold the sum.
    """
    reach = [max(-low, high) for low, high in (builder.ranges[name] for name in op.inputs)]
    largest = sum(bound * multiplier for bound, multiplier in zip(reach, op.multipliers, strict=True))
    if largest > EXACT:
        raise ExportError(f"'{op.name}': expected sums of at most 2**53, which float64 holds, got up to {largest}.")
    terms = []
    for index, (source, multiplier) in enumerate(zip(op.inputs, op.multipliers, strict=True)):
        term = builder.cast(source, TensorProto.DOUBLE)
        if multiplier != 1 << op.shift:
            term = builder.node("Mul", [term, _double(builder, multiplier / 2**op.shift)], f"{op.name}.term{index}")
        terms.append(term)
    total = builder.node("Add", terms, f"{op.name}.sum")
    if op.shift:
        total = builder.node("Round", [total], f"{op.name}.rounded")
    _store(op, builder, total, op.low, op.high)


def select_in_floats(op: Selection, builder: OnnxBuilder) -> None:
    """What neither ONNX nor ONNX Runtime does on int32 or 16 bits: float64 and float32 hold all of their numbers."""
    kept_as = builder.element_type(op.name)
    floats = {TensorProto.INT32: TensorProto.DOUBLE, **dict.fromkeys(WORDS, TensorProto.FLOAT)}.get(kept_as)
    if floats is None:
        move_in_onnx(op, builder)
        return
    moved = replace(op, name=f"{op.name}.moved", inputs=(builder.cast(op.inputs[0], floats),))
    move_in_onnx(moved, builder)
    builder.node("Cast", [moved.name], op.name, to=kept_as)


def floor_average(op: IntegerFloorAvgPool2d, builder: OnnxBuilder) -> None:
    """The mean of a whole image, rounded down.

    Raises:
        ExportError: If the window is smaller than the image, which the published models' never is.
    """
    (source,) = op.inputs
    image = builder.model.shape(source)
    if op.kernel != image[1:] or op.padding != (0, 0):
        raise ExportError(
            f"'{op.name}': expected a mean over the whole image of {image[1]} x {image[2]}, got windows of "
            f"{op.kernel[0]} x {op.kernel[1]}: only the former has an exact ONNX form."
        )
    double = builder.cast(source, TensorProto.DOUBLE)
    total = builder.node("ReduceSum", [double, builder.integers(2, 3)], f"{op.name}.sum", keepdims=1)
    mean = builder.node("Div", [total, _double(builder, prod(op.kernel))], f"{op.name}.mean")
    floor = builder.node("Floor", [mean], f"{op.name}.floor")
    params = builder.model.formats[op.name]
    _store(op, builder, floor, params.quant_min, params.quant_max)


def _store(op: Node, builder: OnnxBuilder, integers: str, low: int, high: int) -> None:
    """Clamp float64 integers where they can leave [low, high], and store them as the format of `op` is."""
    steps: list[tuple[str, list[str], dict[str, int]]] = []
    least, most = builder.ranges[op.name]
    if least <= low or most >= high:  # what stays inside is never clamped
        steps.append(("Clip", [_double(builder, low), _double(builder, high)], {}))
    kept_as = builder.element_type(op.name)
    if kept_as == TensorProto.UINT8 and (point := zero_point(builder.model.formats[op.name])):
        steps.append(("Add", [_double(builder, point)], {}))
    if kept_as != TensorProto.DOUBLE or not steps:
        steps.append(("Cast", [], {"to": kept_as}))
    for index, (operation, operands, attributes) in enumerate(steps, start=1):
        output = op.name if index == len(steps) else f"{op.name}.{operation.lower()}"
        integers = builder.node(operation, [integers, *operands], output, **attributes)


def _double(builder: OnnxBuilder, value: float) -> str:
    """A float64 scalar, shared by all that use the value."""
    return builder.constant(f"double.{float(value)!r}", np.array(value, dtype=np.float64))
