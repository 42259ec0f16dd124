# SPDX-License-Identifier: MIT
"""Requantization: one multiplication and one rounding, halves to even; in float32 where that is proved to give the same integers.

In float32 it is the formula of the certificate, `clamp(rint(fl(fl(sum) * multiplier)))`, with every step an operation on vectors.
Elsewhere it takes integers alone: one multiplication in 64 bits and one shift.

Multipliers and shifts are doubled together as far as 31 bits allow, which changes no ratio. From a shift of 32 on, a product's
lower half only matters for rounding: after adding a half, the upper 32 bits are shifted in 32-bit lanes. Halves need the extra
step to even only where some accumulator can meet one, which the bound of each channel tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.export.tvm.kernels.script import Buffer, Expr, T, cast, clamp, constant, let, load, number
from bitwright.integer.multipliers import INT32_MAX, MAX_MULTIPLIER, MAX_SHIFT
from bitwright.integer.ops import Rescale
from bitwright.integer.proof.certificate import float32_agrees

HALF_PRODUCT = 32
LEVELS = 256


@dataclass(frozen=True)
class Rounding:
    """How a layer's accumulators become its output.

    Attributes:
        upper: Every shift is at least 32.
        ties: Some accumulator may lie exactly between two results.
        low: Smallest result.
        high: Largest result.
        real: Whether float32 gives the integers: then the first two say nothing.
    """

    upper: bool
    ties: bool
    low: int
    high: int
    real: bool = False


@dataclass(frozen=True, eq=False)
class Constants:
    """What kernels read, each of shape [channels]: int32 multipliers and shifts and int64 addends, or float32 multipliers."""

    arrays: tuple[npt.NDArray[Any], ...]

    def at(self, channels: npt.NDArray[np.int64]) -> Constants:
        """Those of some channels, in another order."""
        return Constants(tuple(values[channels] for values in self.arrays))


def agrees_in_float32(rescale: Rescale, largest: npt.NDArray[np.int64]) -> bool:
    """Whether float32 gives the integers for all accumulators up to `largest`, [channels] or [1], in at most 8 bits.

    The least integer of 32 bits has a magnitude that int32 does not hold, which the proof does not cover.
    """
    if rescale.high - rescale.low >= LEVELS or int(largest.max()) > INT32_MAX:
        return False
    bound = largest if len(largest) == len(rescale.multipliers) else largest.max()
    return bool(float32_agrees(rescale.multipliers, -bound, bound, rescale.low, rescale.high).all())


def plan_rounding(
    rescale: Rescale, largest: npt.NDArray[np.int64], channels: int, *, proved: bool = False
) -> tuple[Rounding, Constants]:
    """The kernel's form and constants of a requantization.

    Args:
        rescale: The rescaling of the operation.
        largest: Largest magnitude of an accumulator, int64 [channels] or [1].
        channels: The channels of the result.
        proved: Whether float32 gives the integers for all accumulators; of few bits, it is looked at here.

    >>> from bitwright.integer.multipliers import Multipliers
    >>> ratio = Rescale(Multipliers(np.array([3]), np.array([4])), 0, 255)
    >>> rounding, constants = plan_rounding(ratio, np.array([7]), 1)
    >>> rounding.real, constants.arrays
    (True, (array([0.1875], dtype=float32),))
    >>> rounding, constants = plan_rounding(Rescale(ratio.multipliers, -(2**31), 2**31 - 1), np.array([7]), 1)
    >>> rounding.upper, rounding.ties, int(constants.arrays[0][0]), int(constants.arrays[1][0])
    (True, False, 1610612736, 1)
    """
    if proved or agrees_in_float32(rescale, largest):
        scale = np.ascontiguousarray(np.broadcast_to(rescale.multipliers.as_float32(), channels))
        return Rounding(False, False, rescale.low, rescale.high, real=True), Constants((scale,))
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
    moved = shift - HALF_PRODUCT if upper else shift
    constants = Constants((multiplier.astype(np.int32), moved.astype(np.int32), addend))
    return Rounding(upper, ties, rescale.low, rescale.high), constants


def constant_parameters(rounding: Rounding | None, channels: int) -> list[Buffer]:
    """The parameters of a kernel that `rescaled` reads."""
    if rounding is None:
        return []
    if rounding.real:
        return [constant("multiplier", [channels], "float32")]
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
    if rounding.real:
        (scale,) = parameters
        real = cast(sums, "float32", lanes) * load(scale, first, lanes=lanes)
        # The limits are whole numbers, so that clamping before rounding is the same as after; none is too large for int32 then.
        whole = T.nearbyint(clamp(real, rounding.low, rounding.high, "float32", lanes))
        return cast(cast(whole, "int32", lanes), dtype, lanes)
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
