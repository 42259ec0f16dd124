# SPDX-License-Identifier: MIT
"""Additions and rescaling of whole tensors: float32 arithmetic on integers, the same in ONNX and QONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerAdd, IntegerRequantize
from bitwright.integer.quant_params import QuantParams
from bitwright.scheme import MAX_BITS

FUSED_SHIFT = 16
"""Of a sum to which float32 can add a zero point: 24 bits, less the 8 of a byte."""


class ScalingBuilder(Protocol):
    """A graph that can scale and round tensors of integers, however it stores them."""

    @property
    def model(self) -> IntegerModel:
        """What is exported."""

    def node(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node, named after its one output."""

    def scalar(self, value: float) -> str:
        """A float32 scalar."""

    def real(self, source: str, scale: float, output: str) -> str:
        """`source * scale` as float32."""

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        """`clamp(round_half_even(real), low, high)` as the tensor of integers `output`."""


def add_scaled_sum(op: IntegerAdd, builder: ScalingBuilder) -> None:
    """Both terms and their sum are exact in float32: the multipliers were chosen so.

    ONNX Runtime fuses an addition of bytes with what is around it, and then adds the zero point before it rounds. Where that
    could give another integer, the sum is rounded by an operator of its own.
    """
    terms = [
        builder.real(source, multiplier / 2**op.shift, f"{op.name}.term{index}")
        for index, (source, multiplier) in enumerate(zip(op.inputs, op.multipliers, strict=True))
    ]
    total = builder.node("Add", terms, f"{op.name}.sum")
    formats = [builder.model.formats[name] for name in (*op.inputs, op.name)]
    bytewise = all(params.bit_width <= MAX_BITS for params in formats)
    if bytewise and not rounds_behind_zero_point(op, formats[:-1], formats[-1]):
        total = builder.node("Round", [total], f"{op.name}.whole")
    builder.rounded(total, op.name, op.low, op.high)


def rounds_behind_zero_point(op: IntegerAdd, sources: Sequence[QuantParams], result: QuantParams) -> bool:
    """Whether `rint(sum + zero point)` in float32 is the integer of `rint(sum)`, moved by the zero point, for all integers.

    A sum is a multiple of `2**-shift`, and what is not clamped lies below 2**8 with the zero point added: float32 holds that up
    to a shift of 16. It then rounds as the sum alone does, but for halves, which an odd zero point moves from even to odd.
    """
    zero_point = -result.quant_min
    return zero_point == 0 or (op.shift <= FUSED_SHIFT and (zero_point % 2 == 0 or not has_halves(op, sources)))


def has_halves(op: IntegerAdd, sources: Sequence[QuantParams]) -> bool:
    """Whether some sum of integers of these formats lies midway between two results."""
    first, second = (
        np.arange(params.quant_min, params.quant_max + 1) * multiplier
        for params, multiplier in zip(sources, op.multipliers, strict=True)
    )
    sums, unit = np.add.outer(first, second), 1 << op.shift
    return bool(((2 * (sums % unit) == unit) & (sums > op.low * unit) & (sums < op.high * unit)).any())


def requantize_tensor(op: IntegerRequantize, builder: ScalingBuilder) -> None:
    """One proved multiplier for the whole tensor."""
    scale = float(op.rescale.multipliers.as_float32()[0])
    real = builder.real(op.inputs[0], scale, f"{op.name}.real")
    builder.rounded(real, op.name, op.rescale.low, op.rescale.high)
