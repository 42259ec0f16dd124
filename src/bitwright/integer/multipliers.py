# SPDX-License-Identifier: MIT
"""Requantization: from int32 accumulators to integers of few bits, by one multiplication, one rounding and one clamp.

Two formulas stand side by side. The *integer* one is the meaning of the model; the *float32* one is what inference
engines compute:

    integer    clamp(round_half_even(accumulator * b / 2**c))               exact, in int64
    float32    clamp(rint(float32(accumulator) * float32(b / 2**c)))        each step rounded to 24 significant bits

`b` is a channel's multiplier and `c` its shift. `certificate` chooses them such that the two formulas agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import LoweringError
from bitwright.quantizer.sums import FLOAT32_EXACT as FLOAT32_EXACT
from bitwright.quantizer.sums import INT32_MAX as INT32_MAX
from bitwright.quantizer.sums import weighted_bound

IntArray = npt.NDArray[np.integer[Any]]

MAX_SHIFT = 62
MAX_MULTIPLIER = 2**31 - 1
INT32_MIN = -INT32_MAX - 1

MAX_ADDITION_CHANGE = 2.0**-11
"""How far the multipliers of an addition may be from the nearest ones, relatively."""

_MOST_PAIRS = 2**16  # of two 8-bit tensors


@dataclass(frozen=True, eq=False)
class Multipliers:
    """The ratios `multiplier / 2**shift` of a layer, one per channel (or a single one, for all channels).

    Attributes:
        multiplier: int64 [channels], from 1 to 2**31 - 1.
        shift: int32 [channels], right shifts in bits, from 0 to 62.

    Raises:
        LoweringError: If the arrays are not one-dimensional, of equal length and in range.

    >>> Multipliers(np.array([3, 5]), np.array([1, 4])).real()
    array([1.5   , 0.3125])
    """

    multiplier: npt.NDArray[np.int64]
    shift: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        multiplier, shift = np.asarray(self.multiplier), np.asarray(self.shift)
        if multiplier.ndim != 1 or multiplier.shape != shift.shape or multiplier.size == 0:
            raise LoweringError(
                f"expected one multiplier and one shift per channel, got shapes {multiplier.shape} and {shift.shape}."
            )
        _check_range("multiplier", multiplier, 1, MAX_MULTIPLIER)
        _check_range("shift", shift, 0, MAX_SHIFT)
        # Private, read-only copies: a certificate must not be changed after it was proved.
        frozen_multiplier, frozen_shift = multiplier.astype(np.int64), shift.astype(np.int32)
        frozen_multiplier.flags.writeable = frozen_shift.flags.writeable = False
        object.__setattr__(self, "multiplier", frozen_multiplier)
        object.__setattr__(self, "shift", frozen_shift)

    def __len__(self) -> int:
        return int(self.multiplier.size)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Multipliers):
            return NotImplemented
        return np.array_equal(self.multiplier, other.multiplier) and np.array_equal(self.shift, other.shift)

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def real(self) -> npt.NDArray[np.float64]:
        """`multiplier / 2**shift` as float64 [channels]: exact, since 31 bits fit into 53."""
        return np.ldexp(self.multiplier.astype(np.float64), -self.shift)

    def as_float32(self) -> npt.NDArray[np.float32]:
        """`multiplier / 2**shift` as float32 [channels], exactly.

        Raises:
            LoweringError: If a ratio is no normal float32 number, as with most 31-bit multipliers.
        """
        exact = float32_exact(self.multiplier, self.shift)
        if not exact.all():
            channel = int(np.argmin(exact))
            raise LoweringError(
                f"channel {channel}: expected a ratio of at most 24 significant bits, got {self.multiplier[channel]} / "
                f"2**{self.shift[channel]}. Float32 engines need certified multipliers."
            )
        return self.real().astype(np.float32)


def float32_exact(multiplier: IntArray, shift: IntArray) -> npt.NDArray[np.bool_]:
    """Where `multiplier / 2**shift` is a normal float32 number: bool, of the arguments' shape."""
    real = np.ldexp(multiplier.astype(np.float64), -shift)
    return np.asarray((real.astype(np.float32) == real) & (real >= np.finfo(np.float32).tiny))


def dyadic(ratio: npt.ArrayLike, bits: int = 24) -> Multipliers:
    """The nearest `b / 2**c` to each ratio, with `2**(bits-1) <= b < 2**bits`.

    Two exceptions keep the shift within its range. Below `2**(bits - 63)` the shift stays at 62 and b has fewer bits
    (at least 1); there b <= 2**(bits - 1) <= 2**30, so that every int32 accumulator gives at most a half, hence 0. From
    `2**bits` on no shift is left: an error.

    Args:
        ratio: `scale_in * scale_weight / scale_out`, [channels] or a single number, positive.
        bits: Significant bits of b, from 2 to 31. With 24, the ratio is a float32 number.

    Raises:
        LoweringError: If a ratio is not positive and finite, or too large.

    Source:
        Yao et al. 2021 (HAWQ-V3), arXiv:2011.10680, section 3.1: dyadic numbers.

    >>> pair = dyadic([0.75, 1e-3])
    >>> pair.multiplier, pair.shift
    (array([12582912,  8589935]), array([24, 33], dtype=int32))
    """
    if not 2 <= bits <= 31:
        raise LoweringError(f"expected 2 to 31 bits for a multiplier, got {bits}.")
    ratios = _checked_ratios(ratio)
    mantissa, exponent = np.frexp(ratios)  # ratio = mantissa * 2**exponent, mantissa in [1/2, 1)
    multiplier = np.rint(np.ldexp(mantissa, bits)).astype(np.int64)  # ldexp is exact: one rounding
    overflows = multiplier == 2**bits  # rounded up to the next power of two
    multiplier = np.where(overflows, 2 ** (bits - 1), multiplier)
    shift = bits - (exponent + overflows)
    if (shift < 0).any():
        channel = int(np.argmin(shift))
        raise LoweringError(f"channel {channel}: expected a ratio below 2**{bits}, got {ratios[channel]:.6g}.")
    small = np.maximum(np.rint(np.ldexp(ratios, MAX_SHIFT)), 1)
    capped = shift > MAX_SHIFT
    return Multipliers(
        np.where(capped, small, multiplier).astype(np.int64), np.minimum(shift, MAX_SHIFT).astype(np.int32)
    )


def hawq_dyadic(ratio: npt.ArrayLike) -> Multipliers:
    """The 31-bit multipliers of the published HAWQ models: the mantissa times 2**31, halves up.

    The published code allows `b = 2**31` and shifts above 62; both are rewritten without changing any result. `2**31 /
    2**c` is `2**30 / 2**(c-1)`. With a shift of 63 or more, `|accumulator * b| / 2**c < 2**62 / 2**63 = 1/2` rounds to
    0 for every int32 accumulator, and so it does with shift 62 and `b >> (c - 62) < 2**30`, or 1 where that is 0.

    Args:
        ratio: [channels] or a single number, positive; for imported models, computed as
            `float64(float32(scale_in * scale_weight)) / float64(scale_out)`.

    Raises:
        LoweringError: If a ratio is not positive and finite, or 2**31 or more.

    Source:
        Yao et al. 2021 (HAWQ-V3), arXiv:2011.10680, and its published code, `batch_frexp`.

    >>> hawq_dyadic(0.3).multiplier, hawq_dyadic(0.3).shift
    (array([1288490189]), array([32], dtype=int32))
    """
    ratios = _checked_ratios(ratio)
    mantissa, exponent = np.frexp(ratios)
    # 31 integer and 22 fractional bits: adding 1/2 is exact below 2**31, and floor then rounds halves up.
    multiplier = np.floor(np.ldexp(mantissa, 31) + 0.5).astype(np.int64)
    overflows = multiplier == 2**31
    multiplier = np.where(overflows, 2**30, multiplier)
    shift = 31 - (exponent + overflows)
    if (shift < 0).any():
        channel = int(np.argmin(shift))
        raise LoweringError(f"channel {channel}: expected a ratio below 2**31, got {ratios[channel]:.6g}.")
    excess = np.clip(shift - MAX_SHIFT, 0, 31)
    return Multipliers(np.maximum(multiplier >> excess, 1), np.minimum(shift, MAX_SHIFT).astype(np.int32))


def requantize(
    accumulator: IntArray, multipliers: Multipliers, quant_min: int, quant_max: int, channel_axis: int = 1
) -> npt.NDArray[np.int64]:
    """Rescale int32 accumulators in integers only: `clamp(round_half_even(accumulator * b / 2**c))`.

    Args:
        accumulator: Sums of products, any shape, in units of `scale_in * scale_weight`; values within int32.
        multipliers: One per entry of the channel axis, or a single one.
        quant_min: Smallest result.
        quant_max: Largest result.
        channel_axis: The axis of the channels; ignored with a single multiplier.

    Returns:
        int64 of the accumulator's shape, in [quant_min, quant_max], in units of `scale_out`.

    Raises:
        LoweringError: If the channels do not match, or a value is outside int32.

    Source:
        Jacob et al. 2018, arXiv:1712.05877, section 2.2; halves to even as in IEEE 754.

    >>> halves = np.array([[-5, -3, -1, 1, 3, 5]])
    >>> requantize(halves, Multipliers(np.array([1]), np.array([1])), -128, 127)
    array([[-2, -2,  0,  0,  2,  2]])
    """
    _check_accumulator(accumulator)
    b = _along_axis(multipliers.multiplier, accumulator, channel_axis)
    c = _along_axis(multipliers.shift.astype(np.int64), accumulator, channel_axis)
    # b / 2**0 is 2b / 2**1, so that a half always exists. |product| <= 2**31 * 2 * (2**31 - 1) fits int64.
    b, c = np.where(c == 0, 2 * b, b), np.maximum(c, 1)
    product: npt.NDArray[np.int64] = accumulator.astype(np.int64) * b
    # (product + half - 1 + odd) >> c, where odd is the lowest bit of floor(product / 2**c): a remainder above a half is
    # carried up, one below is not, and one of exactly a half is carried only from an odd quotient. `>>` floors, so
    # negative values need no case. With c >= 2, |product| <= 2**62 and half <= 2**61 fit; with c = 1, half - 1 + odd <=
    # 1 does.
    rounding = (product >> c) & 1
    rounding += (np.int64(1) << (c - 1)) - 1
    product += rounding
    product >>= c
    np.clip(product, quant_min, quant_max, out=product)
    return product


def requantize_float32(
    accumulator: IntArray, multipliers: Multipliers, quant_min: int, quant_max: int, channel_axis: int = 1
) -> npt.NDArray[np.int64]:
    """What a float32 engine computes: `clamp(rint(float32(accumulator) * float32(b / 2**c)))`.

    Engines that clamp before they round give the same, since the limits are integers. Arguments, shapes and errors are
    those of `requantize`; besides, every ratio must be a float32 number.

    Source:
        ONNX operator QLinearConv, as ONNX Runtime's CPU kernels compute it.

    >>> requantize_float32(np.array([[-5, -3, 3, 1000]]), Multipliers(np.array([1]), np.array([1])), -128, 127)
    array([[ -2,  -2,   2, 127]])
    """
    _check_accumulator(accumulator)
    scale = _along_axis(multipliers.as_float32(), accumulator, channel_axis)
    scaled = np.multiply(accumulator.astype(np.float32), scale, dtype=np.float32)
    return np.asarray(np.clip(np.rint(scaled), quant_min, quant_max)).astype(np.int64)


def add_multipliers(
    ratio_a: float, ratio_b: float, a_bounds: tuple[int, int], b_bounds: tuple[int, int]
) -> tuple[int, int, int]:
    """Multipliers m_a, m_b and a common shift for `clamp(round_half_even((a * m_a + b * m_b) / 2**shift))`.

    The shift is the largest, up to 24, at which the nearest m_a and m_b (at least 1) satisfy m_a, m_b <= 2**15 and
    `S = max|a| * m_a + max|b| * m_b <= 2**24`. Then every float32 engine computes the sum exactly: m_a / 2**shift is a
    float32 number; the products and the sum are integers of at most S, hence at most 24 bits, divided by 2**shift; so
    neither a product, nor the sum in either order, nor a fused multiply-add, is ever rounded. One rounding remains,
    that of the exact sum, halves to even.

    Args:
        ratio_a: `scale_a / scale_out`, positive.
        ratio_b: `scale_b / scale_out`, positive.
        a_bounds: Smallest and largest a.
        b_bounds: Smallest and largest b.

    Returns:
        (m_a, m_b, shift). The nearest pair is off by at most 2**-(shift + 1), or 2**-shift where it was raised to 1.

    Raises:
        LoweringError: If a ratio is not positive and finite, or too large for shift 0.

    >>> add_multipliers(1.0, 0.3, (-128, 127), (0, 255))
    (32768, 9830, 15)
    >>> add_multipliers(0.5, 0.25, (-128, 127), (0, 255))
    (32766, 16383, 16)
    """
    wanted = np.array([ratio_a, ratio_b], np.float64)
    if not (np.isfinite(wanted).all() and (wanted > 0).all()):
        raise LoweringError(f"expected positive, finite ratios of scales, got {ratio_a} and {ratio_b}.")

    def exact(pair: tuple[int, int]) -> bool:
        return max(pair) <= 2**15 and weighted_bound((a_bounds, b_bounds), pair) <= FLOAT32_EXACT

    for shift in range(24, -1, -1):
        m_a, m_b = (max(1, round(float(ratio) * 2**shift)) for ratio in wanted)
        if exact((m_a, m_b)):
            near = filter(exact, _pairs_around(m_a, m_b))
            if (a_bounds[1] - a_bounds[0] + 1) * (b_bounds[1] - b_bounds[0] + 1) <= _MOST_PAIRS:
                clear = (pair for pair in near if not sums_at_halves(*pair, shift, a_bounds, b_bounds))
                m_a, m_b = next(clear, (m_a, m_b))
            return m_a, m_b, shift
    raise LoweringError(
        f"expected ratios whose sum float32 engines compute exactly, got {ratio_a:.6g} and {ratio_b:.6g} for values in "
        f"{a_bounds} and {b_bounds}. Enlarge the scale of the sum, or lower the bit width of the summands."
    )


def _pairs_around(m_a: int, m_b: int) -> Iterator[tuple[int, int]]:
    """Multipliers within `MAX_ADDITION_CHANGE`, those of the smallest change first."""
    most_a, most_b = (int(m * MAX_ADDITION_CHANGE) for m in (m_a, m_b))
    step_a, step_b = np.mgrid[-most_a : most_a + 1, -most_b : most_b + 1].reshape(2, -1)
    change = np.maximum(np.abs(step_a) / m_a, np.abs(step_b) / m_b)
    for place in np.lexsort((step_b, step_a, change)):
        yield m_a + int(step_a[place]), m_b + int(step_b[place])


def sums_at_halves(m_a: int, m_b: int, shift: int, a_bounds: tuple[int, int], b_bounds: tuple[int, int]) -> int:
    """How many pairs of integers within bounds have a sum `(a * m_a + b * m_b) / 2**shift` halfway between two integers.

    Without any, no rule of rounding halves matters: every engine that adds exactly and rounds to nearest computes the same.

    >>> sums_at_halves(1, 3, 1, (0, 3), (0, 3)), sums_at_halves(1, 3, 3, (0, 1), (0, 1))
    (8, 1)
    """
    if shift == 0:
        return 0
    mask, half = (1 << shift) - 1, 1 << (shift - 1)
    first, second = (np.arange(low, high + 1, dtype=np.int64) for low, high in (a_bounds, b_bounds))
    wanted, found = (half - first * m_a) & mask, np.sort((second * m_b) & mask)
    ends = (np.searchsorted(found, wanted, side) for side in ("right", "left"))
    return int(np.subtract(*ends).sum())


def add_requantize(
    a: IntArray, b: IntArray, m_a: int, m_b: int, shift: int, quant_min: int, quant_max: int
) -> npt.NDArray[np.int64]:
    """Add tensors of different scales with one rounding: `clamp(round_half_even((a * m_a + b * m_b) / 2**shift))`.

    Args:
        a: Any shape, within the bounds given to `add_multipliers`.
        b: The b of the same shape, or one that broadcasts to it.
        m_a: Multiplier of a.
        m_b: Multiplier of b.
        shift: Right shift in bits, from 0 to 24.
        quant_min: Smallest result.
        quant_max: Largest result.

    Returns:
        int64 of the broadcast shape, in [quant_min, quant_max].

    Raises:
        LoweringError: If the multipliers, the shift or the sum are out of range.

    >>> add_requantize(np.array([3, -3]), np.array([2, 2]), 1, 2, 1, -8, 7)
    array([4, 0])
    """
    pair = Multipliers(np.array([m_a, m_b]), np.array([shift, shift]))
    product_a, product_b = a.astype(np.int64) * m_a, b.astype(np.int64) * m_b
    return requantize(product_a + product_b, Multipliers(np.ones(1, np.int64), pair.shift[:1]), quant_min, quant_max)


def _along_axis(values: npt.NDArray[Any], accumulator: IntArray, channel_axis: int) -> npt.NDArray[Any]:
    """Shape [channels] values such that they broadcast along one axis."""
    if values.size == 1:
        return values.reshape((1,) * accumulator.ndim)
    if not -accumulator.ndim <= channel_axis < accumulator.ndim or accumulator.shape[channel_axis] != values.size:
        raise LoweringError(
            f"expected {values.size} channels along axis {channel_axis}, got accumulators of shape {accumulator.shape}."
        )
    shape = [1] * accumulator.ndim
    shape[channel_axis] = -1
    return values.reshape(shape)


def _check_accumulator(accumulator: IntArray) -> None:
    """Refuse what is not an array of int32 values."""
    if not np.issubdtype(accumulator.dtype, np.integer):
        raise LoweringError(f"expected integer accumulators, got {accumulator.dtype}.")
    if not np.can_cast(accumulator.dtype, np.int32):
        _check_range("accumulator", accumulator, INT32_MIN, INT32_MAX)


def _check_range(name: str, values: npt.NDArray[Any], low: int, high: int) -> None:
    """Refuse arrays that are not of integers within [low, high]."""
    if not np.issubdtype(values.dtype, np.integer):
        raise LoweringError(f"expected an integer {name}, got {values.dtype}.")
    if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
        raise LoweringError(
            f"expected every {name} within [{low}, {high}], got {int(values.min())} to {int(values.max())}."
        )


def _checked_ratios(ratio: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Positive, finite ratios as float64 [channels]."""
    ratios = np.atleast_1d(np.asarray(ratio, np.float64))
    good = np.isfinite(ratios) & (ratios > 0)
    if ratios.ndim != 1 or ratios.size == 0:
        raise LoweringError(f"expected one ratio per channel, got shape {ratios.shape}.")
    if not good.all():
        channel = int(np.argmin(good))
        raise LoweringError(f"channel {channel}: expected a positive, finite ratio of scales, got {ratios[channel]}.")
    return ratios
