# SPDX-License-Identifier: MIT
"""Requantization and its multipliers, against literal twins in exact fractions."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitwright.errors import LoweringError
from bitwright.integer.multipliers import (
    INT32_MAX,
    INT32_MIN,
    MAX_MULTIPLIER,
    MAX_SHIFT,
    Multipliers,
    add_multipliers,
    add_requantize,
    dyadic,
    hawq_dyadic,
    requantize,
    requantize_float32,
    sums_at_halves,
)

WIDE = (-(2**62), 2**62)  # a clamp that never acts on results with a shift of at least 1
int32 = st.integers(INT32_MIN, INT32_MAX) | st.sampled_from([INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX])


def pair(multiplier: int, shift: int) -> Multipliers:
    """A single multiplier, for all channels."""
    return Multipliers(np.array([multiplier]), np.array([shift]))


def clamp(value: int, low: int, high: int) -> int:
    """The value within the range that is nearest to this one."""
    return max(low, min(high, value))


def nearest_float32(value: Fraction) -> Fraction:
    """The nearest number of 24 significant bits, ties to the even one (normal numbers)."""
    if value == 0:
        return value
    exponent = 0
    while abs(value) >= 2 ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    step = Fraction(2) ** (exponent - 23)
    return round(value / step) * step


def test_the_twin_rounds_as_numpy_does() -> None:
    """The literal rounding to float32 is IEEE's."""
    values = np.random.default_rng(0).normal(size=2000) * 2.0 ** np.random.default_rng(1).integers(-40, 40, 2000)
    assert all(nearest_float32(Fraction(value)) == Fraction(float(np.float32(value))) for value in values)


# --- the integer formula


@pytest.mark.parametrize(
    ("accumulator", "halved"), [(-7, -4), (-5, -2), (-3, -2), (-1, 0), (0, 0), (1, 0), (3, 2), (5, 2), (7, 4)]
)
def test_halves_go_to_even_on_both_sides(accumulator: int, halved: int) -> None:
    """Negative and positive halves go to even, in both formulas."""
    for multipliers in (pair(1, 1), pair(2**23, 24), pair(3 << 20, 21)):
        expected = halved if multipliers.multiplier[0] != 3 << 20 else round(Fraction(3 * accumulator, 2))
        assert requantize(np.array([accumulator]), multipliers, -128, 127, 0).tolist() == [expected]
        assert requantize_float32(np.array([accumulator]), multipliers, -128, 127, 0).tolist() == [expected]


@given(int32, st.integers(1, MAX_MULTIPLIER), st.integers(0, MAX_SHIFT))
@example(INT32_MIN, MAX_MULTIPLIER, 0)
@example(INT32_MIN, MAX_MULTIPLIER, 1)
@example(INT32_MAX, MAX_MULTIPLIER, 2)
@example(INT32_MIN, 2**30, MAX_SHIFT)  # exactly -1/2
@example(INT32_MIN, MAX_MULTIPLIER, MAX_SHIFT)
@example(INT32_MAX, MAX_MULTIPLIER, MAX_SHIFT)
def test_requantize_is_the_literal_twin(accumulator: int, b: int, c: int) -> None:
    """Every accumulator, multiplier and shift in range gives the rounded fraction, without overflow."""
    exact = round(Fraction(accumulator * b, 2**c))
    for low, high in ((-128, 127), (0, 255), (-32768, 32767), WIDE):
        assert requantize(np.array([[accumulator]]), pair(b, c), low, high).tolist() == [[clamp(exact, low, high)]]


@given(st.integers(1, 31).flatmap(lambda c: st.tuples(st.just(c), st.integers(0, 2**31 // 2**c - 1))), st.booleans())
def test_requantize_of_exact_ties(tie: tuple[int, int], negative: bool) -> None:
    """Accumulators that land on k + 1/2 give the even neighbour."""
    c, k = tie
    accumulator = (2 * k + 1) * 2 ** (c - 1) * (-1 if negative else 1)  # k + 1/2 once divided
    expected = (k + k % 2) * (-1 if negative else 1)
    assert requantize(np.array([accumulator]), pair(1, c), *WIDE, 0).tolist() == [expected]


def test_requantize_takes_channels_along_any_axis() -> None:
    """Each channel is rescaled as if alone, wherever its axis stands."""
    multipliers = Multipliers(np.array([1, 3, 5]), np.array([0, 1, 3]))
    accumulator = np.random.default_rng(0).integers(-1000, 1000, (2, 3, 4, 5)).astype(np.int32)
    for function in (requantize, requantize_float32):
        result = function(accumulator, multipliers, -128, 127)
        assert result.dtype == np.int64
        for channel in range(3):
            alone = pair(int(multipliers.multiplier[channel]), int(multipliers.shift[channel]))
            assert np.array_equal(result[:, channel], function(accumulator[:, channel], alone, -128, 127))
        moved = function(np.moveaxis(accumulator, 1, -1), multipliers, -128, 127, channel_axis=-1)
        assert np.array_equal(np.moveaxis(moved, -1, 1), result)


def test_requantize_leaves_its_input_alone() -> None:
    """The accumulators are not overwritten."""
    accumulator = np.array([[5, -5]], np.int64)
    requantize(accumulator, pair(1, 1), -128, 127)
    assert accumulator.tolist() == [[5, -5]]


def test_requantize_refuses() -> None:
    """Other channels, floats and values beyond int32 are refused."""
    three = Multipliers(np.array([1, 1, 1]), np.array([0, 0, 0]))
    with pytest.raises(LoweringError, match=r"3 channels along axis 1, got accumulators of shape \(3, 4\)"):
        requantize(np.zeros((3, 4), np.int32), three, -128, 127)
    with pytest.raises(LoweringError, match="3 channels along axis 1"):
        requantize(np.zeros(3, np.int32), three, -128, 127)
    with pytest.raises(LoweringError, match="expected integer accumulators, got float32"):
        requantize(np.zeros((1, 3), np.float32), three, -128, 127)
    with pytest.raises(LoweringError, match="expected every accumulator within"):
        requantize(np.full((1, 3), 2**31), three, -128, 127)


# --- the float32 formula


@given(int32, st.integers(1, 2**24 - 1), st.integers(0, MAX_SHIFT))
def test_requantize_float32_is_the_literal_twin(accumulator: int, b: int, c: int) -> None:
    """The vectorised float32 formula rounds where an engine does: accumulator, product, result."""
    scaled = nearest_float32(nearest_float32(Fraction(accumulator)) * Fraction(b, 2**c))
    for low, high in ((-128, 127), (0, 255), (-32768, 32767)):
        result = requantize_float32(np.array([[accumulator]]), pair(b, c), low, high)
        assert result.tolist() == [[clamp(round(scaled), low, high)]]


def test_the_two_formulas_differ_without_a_certificate() -> None:
    """The nearest multiplier alone is not enough."""
    accumulator = np.arange(-(2**18), 2**18)
    multipliers = dyadic(1e-3)
    exact = requantize(accumulator, multipliers, -128, 127, 0)
    differing = np.flatnonzero(exact != requantize_float32(accumulator, multipliers, -128, 127, 0))
    assert 0 < differing.size < 100


# --- multipliers


@given(st.floats(2.0**-38, 2.0**23), st.integers(2, 31))
def test_dyadic_is_nearest(ratio: float, bits: int) -> None:
    """No multiplier of that many bits is nearer to the ratio."""
    if ratio >= 2 ** (bits - 1) or ratio < 2.0 ** (bits - 62):
        return
    chosen = dyadic(ratio, bits)
    b, c = int(chosen.multiplier[0]), int(chosen.shift[0])
    assert 2 ** (bits - 1) <= b < 2**bits
    error = abs(Fraction(b, 2**c) - Fraction(ratio))
    assert all(error <= abs(Fraction(b + step, 2**c) - Fraction(ratio)) for step in (-1, 1))
    assert chosen.real()[0] == b / 2**c


def test_dyadic_at_its_limits() -> None:
    """Carries, capped shifts, and the first ratio that is too large."""
    assert dyadic(2.0**24 - 1) == pair(2**24 - 1, 0)
    assert dyadic(1 - 2.0**-40) == pair(2**23, 23)  # rounds up to the next power of two
    assert dyadic([2.0**-39, 2.0**-62, 1e-300]) == Multipliers(np.array([2**23, 1, 1]), np.array([62, 62, 62]))
    for ratio in (2.0**24, 2.0**24 - 0.25):
        with pytest.raises(LoweringError, match=r"channel 1: expected a ratio below 2\*\*24"):
            dyadic([1.0, ratio])


@pytest.mark.parametrize("bits", [2, 24, 31])
@given(ratio=st.floats(1e-300, 2.0**-33, exclude_max=True))
def test_ratios_too_small_for_any_output_give_zero(bits: int, ratio: float) -> None:
    """Where the shift is capped, the multiplier does not matter."""
    extremes = np.array([INT32_MIN, INT32_MAX])
    assert requantize(extremes, dyadic(ratio, bits), -128, 127, 0).tolist() == [0, 0]


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_ratios_must_be_positive(ratio: float) -> None:
    """Zero, negative and infinite ratios are refused, with their channel."""
    for function in (dyadic, hawq_dyadic):
        with pytest.raises(LoweringError, match="channel 2: expected a positive, finite ratio"):
            function([1.0, 0.5, ratio])


def test_dyadic_refuses_bits_and_shapes() -> None:
    """A multiplier has 2 to 31 bits, and a layer one ratio per channel."""
    with pytest.raises(LoweringError, match="2 to 31 bits"):
        dyadic(1.0, 32)
    with pytest.raises(LoweringError, match=r"one ratio per channel, got shape \(1, 2\)"):
        dyadic([[1.0, 2.0]])


@given(st.floats(1e-30, 2.0**31, exclude_max=True), int32)
@example(1 - 2.0**-53, INT32_MAX)  # the mantissa rounds up to 1
@example(2.0**-32, INT32_MIN)
@example(2.0**-31 * (1 - 2.0**-50), INT32_MIN)
def test_hawq_dyadic_gives_the_published_results(ratio: float, accumulator: int) -> None:
    """Rewritten multipliers give what the published formula gives, for every ratio."""
    mantissa, exponent = math.frexp(ratio)
    m = int((Decimal(mantissa) * 2**31).quantize(Decimal(1), rounding=ROUND_HALF_UP))
    e = 31 - exponent
    if m == 2**31 and e == 0:
        return  # 2**31: refused
    chosen = hawq_dyadic(ratio)
    if e <= MAX_SHIFT:
        assert Fraction(int(chosen.multiplier[0]), 2 ** int(chosen.shift[0])) == Fraction(m, 2**e)
    result = int(requantize(np.array([accumulator]), chosen, *WIDE, 0)[0])
    assert result == clamp(round(Fraction(accumulator * m, 2**e)), *WIDE)


def test_hawq_dyadic_refuses_large_ratios() -> None:
    """Ratios from 2**31 on have no shift left."""
    for ratio in (2.0**31, 2.0**31 - 2.0**-22):
        with pytest.raises(LoweringError, match=r"expected a ratio below 2\*\*31"):
            hawq_dyadic(ratio)


@pytest.mark.parametrize(
    ("multiplier", "shift", "message"),
    [
        (np.array([0]), np.array([1]), "every multiplier within"),
        (np.array([2**31]), np.array([1]), "every multiplier within"),
        (np.array([1]), np.array([63]), "every shift within"),
        (np.array([1]), np.array([-1]), "every shift within"),
        (np.array([1.0]), np.array([1]), "an integer multiplier, got float64"),
        (np.array([1, 2]), np.array([1]), "one multiplier and one shift per channel"),
        (np.array([[1]]), np.array([[1]]), "one multiplier and one shift per channel"),
        (np.zeros(0, np.int64), np.zeros(0, np.int32), "one multiplier and one shift per channel"),
    ],
)
def test_multipliers_refuse(multiplier: npt.NDArray[np.int64], shift: npt.NDArray[np.int32], message: str) -> None:
    """Multipliers and shifts out of range never come to be."""
    with pytest.raises(LoweringError, match=message):
        Multipliers(multiplier, shift)


def test_multipliers_are_values() -> None:
    """They compare by content, and nobody can change them later."""
    source = np.array([3, 5])
    multipliers = Multipliers(source, np.array([1, 2]))
    source[0] = 7
    assert multipliers == Multipliers(np.array([3, 5]), np.array([1, 2]))
    assert multipliers != Multipliers(np.array([3, 5]), np.array([1, 3]))
    assert multipliers != "3 / 2"
    assert len(multipliers) == 2
    assert multipliers.multiplier.dtype == np.int64
    assert multipliers.shift.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        multipliers.multiplier[0] = 1


@given(st.integers(1, MAX_MULTIPLIER), st.integers(0, MAX_SHIFT))
def test_as_float32_is_exact_or_refused(b: int, c: int) -> None:
    """A ratio is handed to float32 engines only unrounded."""
    odd_part = b // (b & -b)
    if odd_part < 2**24:
        assert Fraction(float(pair(b, c).as_float32()[0])) == Fraction(b, 2**c)
    else:
        with pytest.raises(LoweringError, match="channel 0: expected a ratio of at most 24 significant bits"):
            pair(b, c).as_float32()


# --- addition

bounds = st.sampled_from([(-128, 127), (0, 255), (-8, 7), (0, 15), (-32768, 32767), (0, 65535), (0, 0)])
ratios = st.floats(1e-4, 100.0)


def within(m_a: int, m_b: int, a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether the sum of products is exact in float32."""
    magnitudes = [max(abs(low), abs(high)) for low, high in (a, b)]
    return max(m_a, m_b) <= 2**15 and magnitudes[0] * m_a + magnitudes[1] * m_b <= 2**24


@given(ratios, ratios, bounds, bounds)
def test_add_multipliers_take_the_largest_shift(
    ratio_a: float, ratio_b: float, a: tuple[int, int], b: tuple[int, int]
) -> None:
    """The conditions hold, and would not with one more bit; only sums at halves make others than the nearest of them."""
    m_a, m_b, shift = add_multipliers(ratio_a, ratio_b, a, b)
    assert within(m_a, m_b, a, b)
    nearest = [max(1, round(ratio * 2**shift)) for ratio in (ratio_a, ratio_b)]
    for m, near in zip((m_a, m_b), nearest, strict=True):
        assert abs(m - near) <= near / 2**11
    if [m_a, m_b] != nearest:
        assert sums_at_halves(m_a, m_b, shift, a, b) == 0 < sums_at_halves(*nearest, shift, a, b)
    if shift < 24:
        longer = [max(1, round(ratio * 2 ** (shift + 1))) for ratio in (ratio_a, ratio_b)]
        assert not within(longer[0], longer[1], a, b)


@pytest.mark.parametrize("bounds", [((0, 255), (0, 255)), ((-128, 127), (0, 255)), ((-8, 7), (0, 127))])
def test_sums_of_8_bit_tensors_avoid_halves(bounds: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Of random ratios, all but few have multipliers with which no sum lies at a half; most nearest ones do not."""
    rng = np.random.default_rng(0)
    clear = nearest = 0
    for ratios in np.exp(rng.uniform(-2, 0.5, (40, 2))).tolist():
        *pair, shift = add_multipliers(*ratios, *bounds)
        a, b = (np.arange(low, high + 1) for low, high in bounds)
        halves = (2 * np.add.outer(a * pair[0], b * pair[1]) / 2**shift) % 2 == 1
        assert sums_at_halves(*pair, shift, *bounds) == int(halves.sum())
        clear += not halves.any()
        nearest += not sums_at_halves(*(round(ratio * 2**shift) for ratio in ratios), shift, *bounds)
    assert clear >= 38
    assert nearest < clear


def test_add_multipliers_refuse() -> None:
    """No ratio is taken that float32 could not add exactly."""
    with pytest.raises(LoweringError, match=r"positive, finite ratios of scales, got 0\.0 and 1\.0"):
        add_multipliers(0.0, 1.0, (0, 255), (0, 255))
    with pytest.raises(LoweringError, match="whose sum float32 engines compute exactly, got 40000 and 1"):
        add_multipliers(4e4, 1.0, (0, 255), (0, 255))


def every_pair(
    a: tuple[int, int], b: tuple[int, int], seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs of two 8-bit ranges; of wider ones 2**16 random pairs and the corners."""
    if max(a[1] - a[0], b[1] - b[0]) < 256:
        grid = np.meshgrid(np.arange(a[0], a[1] + 1), np.arange(b[0], b[1] + 1))
        return grid[0].ravel(), grid[1].ravel()
    rng = np.random.default_rng(seed)
    first, second = rng.integers(a[0], a[1] + 1, 2**16), rng.integers(b[0], b[1] + 1, 2**16)
    first[:4], second[:4] = (a[0], a[0], a[1], a[1]), (b[0], b[1], b[0], b[1])
    return first, second


@pytest.mark.parametrize("seed", range(24))
def test_every_float32_pipeline_adds_exactly(seed: int) -> None:
    """Separate, fused (either way round) and factored float32 sums round to the integer result."""
    rng = np.random.default_rng(seed)
    choices = [(-128, 127), (0, 255), (-32768, 32767)]
    a_bounds, b_bounds = choices[seed % 3], choices[seed // 3 % 3]
    ratio_a, ratio_b = np.exp(rng.uniform(-4, 2, 2))
    if seed % 4 == 0:
        ratio_a, ratio_b = 0.5, 0.25  # many exact halves
    m_a, m_b, shift = add_multipliers(float(ratio_a), float(ratio_b), a_bounds, b_bounds)
    a, b = every_pair(a_bounds, b_bounds, seed)
    expected = add_requantize(a, b, m_a, m_b, shift, -128, 127)
    sample = range(0, a.size, 997)
    twin = [clamp(round(Fraction(int(a[i]) * m_a + int(b[i]) * m_b, 2**shift)), -128, 127) for i in sample]
    assert expected[sample].tolist() == twin

    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    scale_a, scale_b = np.float32(m_a / 2**shift), np.float32(m_b / 2**shift)
    separate = a32 * scale_a + b32 * scale_b
    assert separate.dtype == np.float32
    # A fused multiply-add rounds once. In float64 the product (48 bits) and here also the sum are exact.
    fused_a = (a.astype(np.float64) * scale_a + (b32 * scale_b)).astype(np.float32)
    fused_b = (b.astype(np.float64) * scale_b + (a32 * scale_a)).astype(np.float32)
    common = (a32 + b32 * np.float32(m_b / m_a)) * scale_a if m_b % m_a == 0 else separate
    for pipeline in (separate, fused_a, fused_b, common):
        assert np.array_equal(np.clip(np.rint(pipeline), -128, 127), expected)


@pytest.mark.parametrize(
    ("a", "b", "total"), [(-3, 0, -2), (-1, 0, 0), (1, 0, 0), (3, 0, 2), (-3, -2, -2), (-2, -1, -2)]
)
def test_addition_rounds_halves_of_the_sum_to_even(a: int, b: int, total: int) -> None:
    """Halves of the sum go to even on both sides of zero."""
    assert add_requantize(np.array([a]), np.array([b]), 1, 1, 1, -8, 7).tolist() == [total]


def test_addition_rounds_once() -> None:
    """Two branches that are rounded apart lose what one rounding of the sum keeps."""
    assert add_requantize(np.array([1]), np.array([1]), 1, 1, 1, -8, 7).tolist() == [1]
    assert add_requantize(np.array([100, -100]), np.array([100, -100]), 1, 1, 0, -128, 127).tolist() == [127, -128]
