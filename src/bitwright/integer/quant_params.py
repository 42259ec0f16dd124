# SPDX-License-Identifier: MIT
"""How a tensor of integers stands for real numbers: `real = scale * q`, with `q` in the window of its format."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.errors import LoweringError
from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.sums import Ends


@dataclass(frozen=True)
class QuantParams:
    """The integers and the scale of a quantized tensor. There is no zero point: real 0 is always the integer 0.

    Attributes:
        format: The integers that it may hold.
        scale: Real units per integer step, positive and finite.

    Raises:
        LoweringError: If the scale is out of range.

    >>> QuantParams.unsigned(4, 0.5).quant_max
    15
    >>> QuantParams(TensorFormat(4, -2, 13), 0.1).quant_min
    -2
    """

    format: TensorFormat
    scale: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise LoweringError(f"expected a positive, finite scale, got {self.scale}. Calibrate the tensor first.")

    @classmethod
    def unsigned(cls, bit_width: int, scale: float) -> QuantParams:
        """[0, 2**bit_width - 1] at a scale."""
        return cls(TensorFormat.unsigned(bit_width), scale)

    @classmethod
    def symmetric(cls, bit_width: int, scale: float) -> QuantParams:
        """[-2**(bit_width - 1), 2**(bit_width - 1) - 1] at a scale."""
        return cls(TensorFormat.symmetric(bit_width), scale)

    @property
    def stored(self) -> QuantParams:
        """The integers as bytes hold them that count from the smallest: from zero up."""
        return QuantParams(TensorFormat(self.bit_width, 0, self.format.span), self.scale)

    @property
    def bit_width(self) -> int:
        """Bits that tell the integers apart."""
        return self.format.bit_width

    @property
    def ends(self) -> Ends:
        """The smallest integer and the largest."""
        return self.format.ends

    @property
    def quant_min(self) -> int:
        """The smallest integer."""
        return self.format.quant_min

    @property
    def quant_max(self) -> int:
        """The largest integer."""
        return self.format.quant_max
