# SPDX-License-Identifier: MIT
"""How a tensor of integers stands for real numbers: `real = scale * q`, with `q` in a range set by its bit width."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.errors import LoweringError
from bitwright.quantizer.formats import MAX_TENSOR_BITS, MIN_TENSOR_BITS, UNCLAMPED_BITS, TensorFormat


@dataclass(frozen=True)
class QuantParams:
    """The range and the scale of a quantized tensor. There is no zero point: real 0 is always the integer 0.

    Attributes:
        bit_width: From 2 to 16, or 32 for sums without a clamp.
        signed: True for [-2**(bit_width-1), 2**(bit_width-1) - 1], False for [0, 2**bit_width - 1].
        scale: Real units per integer step, positive and finite.

    Raises:
        LoweringError: If the bit width or the scale is out of range.

    >>> activations = QuantParams(bit_width=4, signed=False, scale=0.5)
    >>> activations.quant_min, activations.quant_max
    (0, 15)
    >>> QuantParams(8, True, 0.1).quant_min
    -128
    """

    bit_width: int
    signed: bool
    scale: float

    def __post_init__(self) -> None:
        if not MIN_TENSOR_BITS <= self.bit_width <= MAX_TENSOR_BITS and self.bit_width != UNCLAMPED_BITS:
            raise LoweringError(
                f"expected a bit width from {MIN_TENSOR_BITS} to {MAX_TENSOR_BITS}, or {UNCLAMPED_BITS}, "
                f"got {self.bit_width}."
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise LoweringError(f"expected a positive, finite scale, got {self.scale}. Calibrate the tensor first.")

    @property
    def format(self) -> TensorFormat:
        """The integers of the range."""
        return TensorFormat(self.bit_width, self.quant_min, self.quant_max)

    @property
    def quant_min(self) -> int:
        """The smallest integer of the range."""
        return -(1 << (self.bit_width - 1)) if self.signed else 0

    @property
    def quant_max(self) -> int:
        """The largest integer of the range."""
        return (1 << (self.bit_width - self.signed)) - 1
