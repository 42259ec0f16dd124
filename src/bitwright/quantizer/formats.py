# SPDX-License-Identifier: MIT
"""The integer format of a tensor: a window of integers that holds zero."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.errors import SchemeError
from bitwright.graph.nodes import Bounds
from bitwright.quantizer.sums import Ends, magnitude

MIN_TENSOR_BITS, MAX_TENSOR_BITS = 2, 16
UNCLAMPED_BITS = 32
"""Sums that no clamp keeps within their nominal width, as the residual tensors of published models."""


@dataclass(frozen=True)
class TensorFormat:
    """The integers that a tensor may hold. There is no zero point: real 0 is always the integer 0.

    Attributes:
        bit_width: From 2 to 16, or 32 for sums without a clamp.
        quant_min: The smallest integer of the window, from -(2**bit_width - 1) to 0.
        quant_max: The largest.

    Raises:
        SchemeError: If the window does not hold zero, or has more integers than its bits can tell apart.

    >>> TensorFormat(4, -2, 13)
    TensorFormat(bit_width=4, quant_min=-2, quant_max=13)
    """

    bit_width: int
    quant_min: int
    quant_max: int

    def __post_init__(self) -> None:
        if not MIN_TENSOR_BITS <= self.bit_width <= MAX_TENSOR_BITS and self.bit_width != UNCLAMPED_BITS:
            raise SchemeError(
                f"expected a bit width from {MIN_TENSOR_BITS} to {MAX_TENSOR_BITS}, or {UNCLAMPED_BITS}, "
                f"got {self.bit_width}."
            )
        if not self.quant_min <= 0 <= self.quant_max or self.span >= 1 << self.bit_width:
            raise SchemeError(
                f"expected a window of at most {1 << self.bit_width} integers around 0 in {self.bit_width} bits, "
                f"got [{self.quant_min}, {self.quant_max}]."
            )

    @classmethod
    def unsigned(cls, bit_width: int) -> TensorFormat:
        """[0, 2**bit_width - 1].

        >>> TensorFormat.unsigned(4).quant_max
        15
        """
        return cls(bit_width, 0, (1 << bit_width) - 1)

    @classmethod
    def symmetric(cls, bit_width: int) -> TensorFormat:
        """[-2**(bit_width - 1), 2**(bit_width - 1) - 1].

        >>> TensorFormat.symmetric(8).quant_min
        -128
        """
        half = 1 << (bit_width - 1)
        return cls(bit_width, -half, half - 1)

    @classmethod
    def starting(cls, bit_width: int, quant_min: int) -> TensorFormat:
        """All 2**bit_width integers from `quant_min` on.

        >>> TensorFormat.starting(4, -2)
        TensorFormat(bit_width=4, quant_min=-2, quant_max=13)
        """
        return cls(bit_width, quant_min, quant_min + (1 << bit_width) - 1)

    @classmethod
    def of(cls, bit_width: int, *, negative: bool) -> TensorFormat:
        """The symmetric format where values can be negative, the unsigned one otherwise."""
        return cls.symmetric(bit_width) if negative else cls.unsigned(bit_width)

    def halved(self) -> TensorFormat:
        """The window of one bit less around every other integer: for a scale twice as large.

        >>> TensorFormat(8, -31, 224).halved()
        TensorFormat(bit_width=7, quant_min=-15, quant_max=112)
        """
        return TensorFormat(self.bit_width - 1, -(-self.quant_min // 2), self.quant_max // 2)

    @property
    def span(self) -> int:
        """The largest integer less the smallest: what the stored bytes, which count from the smallest, can reach."""
        return self.quant_max - self.quant_min

    @property
    def negative(self) -> bool:
        """Whether any integer of the window is below zero."""
        return self.quant_min < 0

    @property
    def ends(self) -> Ends:
        """The smallest integer and the largest."""
        return self.quant_min, self.quant_max

    @property
    def magnitude(self) -> int:
        """The largest distance of any integer from zero."""
        return magnitude(self.ends)


def clamp_limits(bounds: Bounds | None, window: TensorFormat, scale: float) -> tuple[int, int]:
    """The integers between which a node clamps: its format, narrowed by its fused clamp.

    >>> clamp_limits(Bounds(0.0, 6.0), TensorFormat.unsigned(8), 0.05)
    (0, 120)
    """
    low, high = window.quant_min, window.quant_max
    if bounds is not None and bounds.minimum is not None:
        low = max(low, _nearest(bounds.minimum, scale))
    if bounds is not None and bounds.maximum is not None:
        high = min(high, _nearest(bounds.maximum, scale))
    return min(low, high), high


def _nearest(bound: float, scale: float) -> int:
    return round(max(min(bound / scale, 2.0**31), -(2.0**31)))
