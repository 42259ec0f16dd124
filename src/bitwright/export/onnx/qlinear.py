# SPDX-License-Identifier: MIT
"""QLinearConv, the operator that adds products of bytes and requantizes them by float32 multipliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.export.onnx.builder import OnnxBuilder, Weight
from bitwright.graph.nodes import Node
from bitwright.integer.ops import Accumulate, Rescale
from bitwright.integer.proof.float32_multipliers import in_float32


def qlinear_rescale(op: Accumulate, builder: OnnxBuilder) -> Rescale | None:
    """The rescaling of what QLinearConv can compute: to at most 8 bits, by float32 multipliers."""
    rescale = op.rescale
    return None if rescale is None or builder.exceeds_byte(op.name) or not in_float32(rescale) else rescale


def add_qlinear(
    op: Node,
    rescale: Rescale,
    builder: OnnxBuilder,
    source: str,
    weight: Weight,
    bias: npt.NDArray[np.int32],
    attributes: dict[str, Any],
    output: str | None = None,
) -> None:
    """Accumulators, requantized: QLinearConv, whose scales are all 1 but for the weights', the multipliers."""
    one = builder.scalar(1.0)
    multiplier = np.broadcast_to(rescale.multipliers.as_float32(), len(bias)).copy()
    scale = builder.constant(f"{op.name}.multiplier", multiplier)
    offset = builder.constant(f"{op.name}.bias", bias)
    operands = [
        source, one, builder.zero(op.inputs[0]), weight.values, scale, weight.zeros, one, builder.zero(op.name), offset,
    ]  # fmt: skip
    builder.clamped(
        output or op.name,
        builder.model.formats[op.name],
        rescale.low,
        rescale.high,
        lambda made: builder.node("QLinearConv", operands, made, **attributes),
    )
