# SPDX-License-Identifier: MIT
"""Requantization in a LiteRT file: float32 by a proved multiplier, or int64."""

from __future__ import annotations

from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.export.litert.int64 import in_int64, rescale_in_int64
from bitwright.export.litert.real import as_real, combined, store_rounded
from bitwright.graph.nodes import Node
from bitwright.integer.ops import Rescale


def rescale(op: Node, rescale: Rescale, builder: LitertBuilder, source: Held) -> None:
    """The integers of `source`, rescaled and clamped as the tensor `op.name`."""
    if in_int64(op, rescale, builder):
        rescale_in_int64(op, rescale, builder, source)
        return
    real, factor = as_real(source, op.shape, builder), builder.floats(rescale.multipliers.as_float32())

    def make(activation: int) -> int:
        return combined(builder, op.shape, "MUL", [real, factor], activation)

    store_rounded(op, builder, rescale.low, rescale.high, make)
