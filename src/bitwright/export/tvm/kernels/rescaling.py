# SPDX-License-Identifier: MIT
"""Requantization with integers alone: one multiplication in 64 bits, one shift, halves to even.

Multipliers and shifts are doubled together as far as 31 bits allow, which changes no ratio. From a shift of 32 on, a product's
lower half only matters for rounding: after adding a half, the upper 32 bits are shifted in 32-bit lanes. Halves need the extra
step to even only where some accumulator can meet one, which the bound of each channel tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.export.tvm.kernels.script import Buffer, Expr, T, cast, clamp, constant, let, load, number
from bitwright.integer.multipliers import MAX_MULTIPLIER, MAX_SHIFT
from bitwright.integer.ops import Rescale

HALF_PRODUCT = 32


@dataclass(frozen=True)
class Rounding:
    """How a layer's accumulators become its output.

    Attributes:
        upper: Every shift is at least 32.
        ties: Some accumulator may lie exactly between two results.
        low: Smallest result.
        high: Largest result.
    """

    upper: bool
    ties: bool
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Constants:
    """What the kernels read: int32 multipliers and shifts, and int64 addends, each of shape [channels]."""

    multiplier: npt.NDArray[np.int32]
    shift: npt.NDArray[np.int32]
    addend: npt.NDArray[np.int64]

    def arrays(self) -> list[npt.NDArray[np.int32] | npt.NDArray[np.int64]]:
        """In the order of the kernels' parameters."""
        return [self.multiplier, self.shift, self.addend]

    def at(self, channels: npt.NDArray[np.int64]) -> Constants:
        """Those of some channels, in another order."""
        return Constants(self.multiplier[channels], self.shift[channels], self.addend[channels])


def plan_rounding(rescale: Rescale, largest: npt.NDArray[np.int64], channels: int) -> tuple[Rounding, Constants]:
    """The kernel's form and constants of a requantization.

    Args:
        rescale: The rescaling of the operation.
        largest: Largest magnitude of an accumulator, int64 [channels] or [1].
        channels: The channels of the result.

    >>> from bitwright.integer.multipliers import Multipliers
    >>> ratio = Rescale(Multipliers(np.array([3]), np.array([4])), 0, 255)
    >>> rounding, constants = plan_rounding(ratio, np.array([7]), 1)
    >>> rounding, int(constants.multiplier[0]), int(constants.shift[0])
    (Rounding(upper=True, ties=False, low=0, high=255), 1610612736, 1)
    """
    multiplier = np.broadcast_to(rescale.multipliers.multiplier.astype(np.int64), channels)
    shift = np.broadcast_to(rescale.multipliers.shift.astype(np.int64), channels)
    trailing = np.log2((multiplier & -multiplier).astype(np.float64)).astype(np.int64)
    # acc * b is an odd multiple of 2**(c-1) only if 2**(c-1-trailing) divides acc, which then is no less than that.
    nearest = shift - 1 - trailing
    ties = bool(((nearest >= 0) & (np.ldexp(1.0, nearest.astype(np.int32)) <= largest)).any())
    room = np.floor(np.log2(MAX_MULTIPLIER / multiplier.astype(np.float64))).astype(np.int64)
    doublings = np.clip(np.minimum(room, MAX_SHIFT - shift), 0, None)
    multiplier, shift = multiplier << doublings, shift + doublings
    upper = bool((shift >= HALF_PRODUCT).all())
    half = (np.int64(1) << shift) >> 1
    addend = np.maximum(half - 1, 0) if ties or not upper else half
    constants = Constants(
        multiplier.astype(np.int32), (shift - HALF_PRODUCT if upper else shift).astype(np.int32), addend
    )
    return Rounding(upper, ties, rescale.low, rescale.high), constants


def constant_parameters(channels: int) -> list[Buffer]:
    """The parameters of a kernel that `rescaled` reads."""
    return [
        constant("multiplier", [channels], "int32"),
        constant("shift", [channels], "int32"),
        constant("addend", [channels], "int64"),
    ]


def rescaled(rounding: Rounding, sums: Expr, parameters: list[Buffer], first: Expr, lanes: int, dtype: str) -> Expr:
    """`clamp(round_half_even(sums * multiplier / 2**shift), low, high)` for channels from `first` on.

    Args:
        rounding: The form.
        sums: int32 accumulators, `lanes` of them.
        parameters: What `constant_parameters` made.
        first: The first channel.
        lanes: How many.
        dtype: The type of the result.
    """
    multiplier, shift, addend = (load(buffer, first, lanes=lanes) for buffer in parameters)
    product = cast(sums, "int64", lanes) * cast(multiplier, "int64", lanes)
    if not rounding.upper:
        long_shift = cast(shift, "int64", lanes)
        product = let(product)
        # A shift of 0 rounds nothing: its addend is 0, and so is its step to even.
        one = T.min(long_shift, number(1, "int64", lanes))
        rounded = (product + addend + ((product >> long_shift) & one)) >> long_shift
        return cast(clamp(rounded, rounding.low, rounding.high, "int64", lanes), dtype, lanes)
    if rounding.ties:
        product = let(product)
        odd = (_upper(product, lanes) >> shift) & number(1, "int32", lanes)
        product = product + cast(odd, "int64", lanes)
    rounded = _upper(product + addend, lanes) >> shift
    return cast(clamp(rounded, rounding.low, rounding.high, "int32", lanes), dtype, lanes)


def _upper(value: Expr, lanes: int) -> Expr:
    """The upper half of 64-bit numbers."""
    return cast(value >> number(HALF_PRODUCT, "int64", lanes), "int32", lanes)


def rounded_shift(value: Expr, shift: int, dtype: str, lanes: int) -> Expr:
    """`value / 2**shift`, halves to even, for one shift for all."""
    if shift == 0:
        return value
    value = let(value)
    places = number(shift, dtype, lanes)
    odd = (value >> places) & number(1, dtype, lanes)
    return (value + odd + number((1 << (shift - 1)) - 1, dtype, lanes)) >> places
