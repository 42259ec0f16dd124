# SPDX-License-Identifier: MIT
"""Integers as float32 numbers in a LiteRT file: what its integer kernels would round in another way is computed on these."""

from __future__ import annotations

from typing import Any

from bitwright.export.litert_builder import LitertBuilder, Stored
from bitwright.graph.nodes import Node


def cast(builder: LitertBuilder, source: int, shape: tuple[int, ...], kind: str, given: str = "FLOAT32") -> int:
    """The same numbers as another type, channels last."""
    kinds = builder.schema.TensorType
    types = {"inDataType": getattr(kinds, given), "outDataType": getattr(kinds, kind)}
    return builder.node("CAST", [source], builder.tensor(builder.nhwc(shape), kind), "CastOptions", **types)


def combined(
    builder: LitertBuilder, shape: tuple[int, ...], operator: str, inputs: list[int], activation: int = 0
) -> int:
    """A float32 product or sum."""
    options = {"MUL": "MulOptions", "ADD": "AddOptions"}[operator]
    output = builder.tensor(builder.nhwc(shape), "FLOAT32")
    return builder.node(operator, inputs, output, options, fusedActivationFunction=activation)


def dequantized(source: Stored, shape: tuple[int, ...], builder: LitertBuilder) -> int:
    """`scale * q` in float32."""
    output = builder.tensor(builder.nhwc(shape), "FLOAT32")
    return builder.node("DEQUANTIZE", [source.tensor], output, "DequantizeOptions", 2)


def integers_of(name: str, shape: tuple[int, ...], builder: LitertBuilder) -> int:
    """The integers of a tensor as float32 numbers."""
    source = builder.narrow(name)
    real = dequantized(source, shape, builder)
    return real if source.scale == 1 else combined(builder, shape, "MUL", [real, builder.floats(1 / source.scale)])


def store_rounded(op: Node, builder: LitertBuilder, low: int, high: int, make: Any) -> None:
    """Call `make` with a scale and an activation, for real values at that scale; round them, halves to even, and clamp."""
    stored, activation = builder.store(op.name, op.shape, low, high)
    builder.node("QUANTIZE", [make(stored.scale, activation)], stored.tensor, "QuantizeOptions")
