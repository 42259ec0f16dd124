# SPDX-License-Identifier: MIT
"""Integers as float32 numbers in a LiteRT file: what its integer kernels would round in another way is computed on these."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.graph.nodes import Node
from bitwright.integer.proof.bounds import FLOAT32_EXACT

_OPTIONS = {"MUL": "MulOptions", "DIV": "DivOptions", "ADD": "AddOptions"}


def cast(builder: LitertBuilder, source: int, shape: Sequence[int], kind: str, given: str = "FLOAT32") -> int:
    """The same numbers as another type, channels last."""
    kinds = builder.schema.TensorType
    types = {"inDataType": getattr(kinds, given), "outDataType": getattr(kinds, kind)}
    return builder.node("CAST", [source], builder.tensor(builder.nhwc(shape), kind), "CastOptions", **types)


def combined(
    builder: LitertBuilder,
    shape: Sequence[int],
    operator: str,
    inputs: list[int],
    activation: int = 0,
    kind: str = "FLOAT32",
) -> int:
    """An element-wise product, quotient or sum."""
    output = builder.tensor(builder.nhwc(shape), kind)
    return builder.node(operator, inputs, output, _OPTIONS[operator], fusedActivationFunction=activation)


def as_real(source: Held, shape: Sequence[int], builder: LitertBuilder) -> int:
    """Integers of any kind as float32 numbers; int32 beyond 2**24 is rounded once, as the certificate says."""
    if source.kind == "FLOAT32":
        return source.tensor
    if source.tensor not in builder.reals:
        if source.kind == "INT8":
            real = builder.tensor(builder.nhwc(shape), "FLOAT32")
            builder.node("DEQUANTIZE", [source.tensor], real, "DequantizeOptions", 2)
        else:
            real = cast(builder, source.tensor, shape, "FLOAT32", "INT32")
        builder.reals[source.tensor] = real
    return builder.reals[source.tensor]


def real_of(name: str, builder: LitertBuilder) -> int:
    """The integers of a tensor of the model as float32 numbers."""
    return as_real(builder.held[name], builder.shape(name), builder)


def whole_of(name: str, builder: LitertBuilder) -> int:
    """The integers of a tensor as int32."""
    held = builder.held[name]
    return held.tensor if held.kind == "INT32" else cast(builder, real_of(name, builder), builder.shape(name), "INT32")


def store_rounded(op: Node, builder: LitertBuilder, low: int, high: int, make: Callable[[int], int]) -> None:
    """The tensor `op.name`: real values, rounded, halves to even, and clamped to [low, high].

    Args:
        op: What makes the tensor.
        builder: The file.
        low: Smallest result.
        high: Largest result.
        make: Adds the operators of the real values, the last with the activation that it is called with: a ReLU or none.
    """
    if not builder.exceeds_byte(op.name):

        def quantize(output: int, activation: int) -> None:
            builder.node("QUANTIZE", [make(activation)], output, "QuantizeOptions")

        builder.saturated(op.name, op.shape, low, high, quantize)
        return
    kinds = builder.schema.ActivationFunctionType
    real = make(kinds.RELU if low == 0 else kinds.NONE)
    # The limits are integers, so that clamping before rounding is the same as after; those beyond 2**24 are never reached.
    ends = (("MINIMUM", high),) if low == 0 else (("MAXIMUM", low), ("MINIMUM", high))
    for operator, limit in ends:
        if abs(limit) <= FLOAT32_EXACT:
            clamped = builder.tensor(builder.nhwc(op.shape), "FLOAT32")
            real = builder.node(operator, [real, builder.floats(limit)], clamped, "MaximumMinimumOptions")
    builder.node("ROUND", [real], builder.hold(op.name, op.shape, "FLOAT32"))
