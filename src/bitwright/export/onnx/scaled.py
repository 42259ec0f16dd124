# SPDX-License-Identifier: MIT
"""Additions and rescaling of whole tensors: float32 arithmetic on integers, the same in ONNX and QONNX files."""

from __future__ import annotations

from typing import Any, Protocol

from bitwright.integer.ops import IntegerAdd, IntegerRequantize


class ScalingBuilder(Protocol):
    """A graph that can scale and round tensors of integers, however it stores them."""

    def node(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, named after its one output."""

    def scalar(self, value: float) -> str:
        """A float32 scalar."""

    def real(self, source: str, scale: float, output: str) -> str:
        """`source * scale` as float32."""

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        """`clamp(round_half_even(real), low, high)` as the tensor of integers `output`."""


def add_scaled_sum(op: IntegerAdd, builder: ScalingBuilder) -> None:
    """Both terms and their sum are exact in float32: the multipliers were chosen so."""
    terms = [
        builder.real(source, multiplier / 2**op.shift, f"{op.name}.term{index}")
        for index, (source, multiplier) in enumerate(zip(op.inputs, op.multipliers, strict=True))
    ]
    builder.rounded(builder.node("Add", terms, f"{op.name}.sum"), op.name, op.low, op.high)


def requantize_tensor(op: IntegerRequantize, builder: ScalingBuilder) -> None:
    """One proved multiplier for the whole tensor."""
    scale = float(op.rescale.multipliers.as_float32()[0])
    real = builder.real(op.inputs[0], scale, f"{op.name}.real")
    builder.rounded(real, op.name, op.rescale.low, op.rescale.high)
