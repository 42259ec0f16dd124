# SPDX-License-Identifier: MIT
"""Certificates against exhaustive checks: the float32 formula and the integer one agree wherever one says so."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import LoweringError
from bitwright.integer.multipliers import (
    INT32_MAX,
    INT32_MIN,
    MAX_SHIFT,
    Multipliers,
    dyadic,
    hawq_dyadic,
    requantize,
    requantize_float32,
)
from bitwright.integer.proof.certificate import (
    MAX_RELATIVE_CHANGE,
    Certified,
    _neighbour,
    certify,
    certify_requantize,
    float32_agrees,
    provable_ratio,
)

RANGES = [(-128, 127), (0, 255), (-8, 7), (0, 15), (-2, 1), (0, 3), (0, 63)]
MILLION = np.arange(-(2**20), 2**20 + 1, dtype=np.int32)


def pair(multiplier: int, shift: int) -> Multipliers:
    """A single multiplier."""
    return Multipliers(np.array([multiplier]), np.array([shift]))


def channel(multipliers: Multipliers, index: int) -> Multipliers:
    """One channel's multiplier."""
    return pair(int(multipliers.multiplier[index]), int(multipliers.shift[index]))


def agree_on(accumulator: npt.NDArray[np.integer], multipliers: Multipliers, low: int, high: int) -> bool:
    """The two formulas, compared on every given accumulator."""
    exact = requantize(accumulator, multipliers, low, high, 0)
    return np.array_equal(exact, requantize_float32(accumulator, multipliers, low, high, 0))


def threshold(v: int, b: int, c: int) -> int:
    """The smallest accumulator with round_half_even(accumulator * b / 2**c) >= v."""
    half = (Fraction(v) - Fraction(1, 2)) * 2**c / b
    return math.ceil(half) if v % 2 == 0 else math.floor(half) + 1


# --- theorem B's verdict is the exhaustive one


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_verdict_equals_the_exhaustive_check(low: int, high: int) -> None:
    """Over all |accumulator| <= 2**20, for certified and uncertified pairs, ties included."""
    rng = np.random.default_rng(high - low)
    # Ratios whose thresholds all lie within 2**20, at random, certified, and short.
    wanted = max(-low, high) * 2.0 ** -rng.uniform(12, 19.9, 7)
    nearest = dyadic(wanted)
    certified = certify(wanted, -(2**20), 2**20, low, high).multipliers
    short = dyadic(wanted, bits=7)
    unsafe = dyadic(max(-low, high) * 2.0**-19.5 * (1 + rng.uniform(0, 0.3, 4)))
    verdicts = []
    for multipliers in (nearest, certified, short, unsafe):
        stated = float32_agrees(multipliers, -(2**20), 2**20, low, high)
        observed = [agree_on(MILLION, channel(multipliers, i), low, high) for i in range(len(multipliers))]
        assert stated.tolist() == observed
        verdicts += observed
    assert float32_agrees(certified, -(2**20), 2**20, low, high).all()
    assert True in verdicts
    if high - low >= 255:
        assert False in verdicts


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """b, c, an output range, and bounds of accumulators near one of its thresholds, up to the ends of int32."""
    b, c = draw(st.integers(1, 2**24 - 1)), draw(st.integers(0, MAX_SHIFT))
    common = draw(st.integers(0, min(MAX_SHIFT - c, 31 - b.bit_length())))
    b, c = b << common, c + common
    quant_min, quant_max = draw(st.sampled_from([*RANGES, (-32768, 32767), (0, 65535), (3, 9), (-9, -3)]))
    v = draw(st.integers(quant_min - 1, quant_max + 1) | st.sampled_from([quant_min + 1, quant_max]))
    centre = threshold(v, b, c) + draw(st.integers(-40, 40))
    low, high = (centre + offset for offset in sorted(draw(st.tuples(st.integers(-600, 600), st.integers(-600, 600)))))
    return b, c, quant_min, quant_max, *(min(max(bound, INT32_MIN), INT32_MAX) for bound in (low, high))


@settings(max_examples=4 * settings.default.max_examples)
@given(windows())
def test_verdict_equals_the_exhaustive_check_within_any_bounds(case: tuple[int, int, int, int, int, int]) -> None:
    """Also at the ends of int32, beyond 2**24, and for ranges without zero."""
    b, c, quant_min, quant_max, low, high = case
    observed = agree_on(np.arange(low, high + 1), pair(b, c), quant_min, quant_max)
    assert float32_agrees(pair(b, c), low, high, quant_min, quant_max).tolist() == [observed]


def test_both_verdicts_beyond_two_to_the_24() -> None:
    """There float32(accumulator) itself is rounded; windows around a threshold near 2**25."""
    verdicts = []
    for b in range(2**23 + 1, 2**23 + 400, 7):
        multipliers, at = pair(b, 42), threshold(51, b, 42)
        assert at > 2**24
        observed = agree_on(np.arange(at - 300, at + 300), multipliers, -128, 127)
        assert float32_agrees(multipliers, at - 300, at + 299, -128, 127).tolist() == [observed]
        verdicts.append(observed)
    assert set(verdicts) == {True, False}


# --- certified pairs: no int32 accumulator differs


@cache
def certified_channels(low: int, high: int) -> Certified:
    """Channels for every int32 accumulator: ratios over the whole useful range, and exact powers of two (ties)."""
    rng = np.random.default_rng(7)
    outermost = max(-low, high)
    ratios = outermost * 2.0 ** -rng.uniform(0, 22, 150)
    ties = 2.0 ** -np.arange(0, 16) * rng.choice([1, 3, 5, 7], 16)
    certified = certify(np.concatenate([ratios, ties]), INT32_MIN, INT32_MAX, low, high)
    assert certified.proved.all()
    assert certified.every_int32.all()
    return certified


@st.composite
def aimed(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """b, c of a certified channel, its range, and an accumulator: at a threshold, at a float32 limit, or anywhere."""
    low, high = draw(st.sampled_from([*RANGES, (0, 1023)]))
    multipliers = certified_channels(low, high).multipliers
    index = draw(st.integers(0, len(multipliers) - 1))
    b, c = int(multipliers.multiplier[index]), int(multipliers.shift[index])
    near = st.integers(low - 1, high + 1).map(lambda v: threshold(v, b, c))
    limits = st.sampled_from([-(2**25), -(2**24), 0, 2**24, 2**25, 2**30])
    centre = draw(near | limits) + draw(st.integers(-3, 3))
    accumulator = draw(st.just(centre) | st.integers(INT32_MIN, INT32_MAX))
    return b, c, low, high, min(max(accumulator, INT32_MIN), INT32_MAX)


@settings(max_examples=5 * settings.default.max_examples)
@given(aimed())
def test_no_int32_accumulator_differs_for_a_certified_pair(case: tuple[int, int, int, int, int]) -> None:
    """What the float32 engine computes is the rounded fraction."""
    b, c, low, high, accumulator = case
    exact = max(low, min(high, round(Fraction(accumulator * b, 2**c))))
    engine = np.rint(np.float32(accumulator) * np.float32(b / 2**c))
    assert int(np.clip(engine, low, high)) == exact


@pytest.mark.parametrize(("low", "high"), [*RANGES, (0, 1023)])
def test_certified_pairs_agree_around_every_threshold(low: int, high: int) -> None:
    """Two accumulators to either side of each threshold, the ends of int32, and 999 between."""
    certified = certified_channels(low, high)
    for index in range(len(certified.multipliers)):
        one = channel(certified.multipliers, index)
        b, c = int(one.multiplier[0]), int(one.shift[0])
        centres = [threshold(v, b, c) for v in range(low - 1, high + 2)]
        around = (np.array(centres)[:, None] + np.arange(-2, 3)).ravel()
        everywhere = np.concatenate(
            [around, [INT32_MIN, INT32_MAX], np.linspace(INT32_MIN, INT32_MAX, 999).astype(int)]
        )
        assert agree_on(np.clip(everywhere, INT32_MIN, INT32_MAX), one, low, high)


@pytest.mark.parametrize("shift", [1, 4, 9, 16])
def test_exact_ties_of_certified_pairs_go_to_even(shift: int) -> None:
    """Ties are part of the proof: both formulas give the even neighbour."""
    certified = certify(2.0**-shift, INT32_MIN, INT32_MAX, -128, 127)
    ties = np.arange(-127, 128, 2) * 2 ** (shift - 1)  # (2k + 1) / 2
    expected = [round(Fraction(int(tie), 2**shift)) for tie in ties]
    assert all(value % 2 == 0 for value in expected)
    assert requantize(ties, certified.multipliers, -128, 127, 0).tolist() == expected
    assert requantize_float32(ties, certified.multipliers, -128, 127, 0).tolist() == expected
    assert certified.theorem == ("A",)


@pytest.mark.slow
def test_every_single_int32_accumulator_agrees() -> None:
    """The proof, replaced by looking: all 2**32 accumulators."""
    certified = certify(4.3e-4, INT32_MIN, INT32_MAX, -128, 127)
    assert certified.theorem == ("B",)
    for start in range(INT32_MIN, INT32_MAX + 1, 2**20):
        assert agree_on(np.arange(start, start + 2**20, dtype=np.int64), certified.multipliers, -128, 127)


# --- theorem A


@pytest.mark.parametrize(
    ("low", "high", "shift"),
    [(0, 255, 16), (-128, 127, 17), (-8, 7, 21), (0, 15, 20), (-32768, 32767, 9), (0, 65535, 8)],
)
def test_theorem_a_holds_up_to_its_shift_and_not_far_beyond(low: int, high: int, shift: int) -> None:
    """Short multipliers agree everywhere; with four more bits of shift some do not."""
    rng = np.random.default_rng(shift)
    levels = np.unique(np.concatenate([[low - 1, low, low + 1, high, high + 1], rng.integers(low, high + 1, 400)]))

    def agrees(b: int, c: int) -> bool:
        centres = np.array([threshold(int(v), b, c) for v in levels])
        around = (centres[:, None] + np.arange(-2, 3)).ravel()
        extremes = np.array([INT32_MIN, INT32_MIN + 1, -(2**24) - 1, 2**24 + 1, INT32_MAX])
        return agree_on(np.clip(np.concatenate([around, extremes]), INT32_MIN, INT32_MAX), pair(b, c), low, high)

    multipliers = [int(b) for b in np.unique(np.exp(rng.uniform(0, np.log(2**20), 60)).astype(int))]
    assert all(agrees(b, c) for b in multipliers for c in (shift, shift - 3))
    assert not all(agrees(b | 1, shift + 4) for b in multipliers)
    ratio = 5 / 2**shift
    assert certify(ratio, INT32_MIN, INT32_MAX, low, high).theorem == ("A",)
    assert float32_agrees(pair(5 << 3, shift + 3), INT32_MIN, INT32_MAX, low, high).all()  # reduced first


# --- the search


def test_the_nearest_proved_float32_number_is_taken() -> None:
    """The search takes the first provable neighbour of the ratio, and reports its place."""
    ratios = np.array([3.1e-4, 4.7e-4, 9.9e-4, 2.0**-10 * (1 + 2.0**-23), 2.0**-9 * (1 - 2.0**-24)])
    certified = certify(ratios, INT32_MIN, INT32_MAX, 0, 255)
    for index, ratio in enumerate(ratios):
        up = down = np.float32(ratio)
        order = [up]
        for _ in range(150):
            up, down = np.nextafter(up, np.float32(1)), np.nextafter(down, np.float32(0))
            order += [up, down]
        good = float32_agrees(dyadic(np.array(order, np.float64)), INT32_MIN, INT32_MAX, 0, 255)
        first = int(np.argmax(good))
        assert good[first]
        assert certified.candidates[index] == first + 1
        assert certified.multipliers.real()[index] == order[first]
        assert certified.relative_change[index] == order[first] / ratio - 1
    assert certified.candidates.max() > 1


def test_candidates_are_consecutive_float32_numbers() -> None:
    """Also across a power of two, where the steps change: written out with numpy's next float32 number."""
    for ratio in (0.3, 2.0**-10 * (1 - 2.0**-22), 2.0**-10 * (1 + 2.0**-21)):
        start = dyadic(ratio)
        offset = np.arange(-12, 13)
        b, c = _neighbour(start.multiplier, start.shift, offset)
        expected = [np.float32(ratio)]
        for _ in range(12):
            expected.insert(0, np.nextafter(expected[0], np.float32(0)))
            expected.append(np.nextafter(expected[-1], np.float32(1)))
        assert np.array_equal(np.ldexp(b.astype(np.float64), -c), np.array(expected, np.float64))
        assert ((b >= 2**23) & (b < 2**24)).all()


def test_bounds_help_where_every_int32_cannot_be_had() -> None:
    """At 1e-5 the thresholds of 8 unsigned bits go up to 2.5e7 > 2**24; accumulators up to 2**22 meet 42 of them."""
    certified = certify(np.linspace(1e-5, 1.2e-5, 9), -(2**22), 2**22, 0, 255)
    assert certified.proved.all()
    assert not certified.every_int32.any()
    assert float32_agrees(certified.multipliers, -(2**22), 2**22, 0, 255).all()
    accumulator = np.arange(-(2**22), 2**22 + 1)
    assert all(agree_on(accumulator, channel(certified.multipliers, i), 0, 255) for i in range(2))


def test_bounds_beyond_two_to_the_24_need_saturation() -> None:
    """Large accumulators are fine where they saturate; else the channel is named."""
    saturating = certify(2.0**-15.5, -(2**27), 2**27, -128, 127)
    assert saturating.every_int32.all()
    with pytest.raises(LoweringError, match=r"channel 1: expected a multiplier within .* and accumulators in \[-1342"):
        certify([1e-3, 1e-6], -(2**27), 2**27, -128, 127)


def test_the_error_tells_a_ratio_that_works() -> None:
    """What the message proposes is then proved; a lenient search marks what was not."""
    ratios = np.array([1e-3, 1e-6, 2e-6])
    with pytest.raises(LoweringError, match=r"found none \(nor for 1 more channels\). Take the ratio 7.62939e-06"):
        certify(ratios, -(2**27), 2**27, -128, 127)
    lenient = certify(ratios, -(2**27), 2**27, -128, 127, strict=False)
    assert lenient.theorem == ("B", "", "")
    assert lenient.proved.tolist() == [True, False, False]
    assert lenient.multipliers.multiplier[1:].tolist() == dyadic(ratios[1:]).multiplier.tolist()
    assert float32_agrees(lenient.multipliers, -(2**27), 2**27, -128, 127).tolist() == [True, False, False]
    raised = np.where(lenient.proved, ratios, provable_ratio(ratios, -128, 127))
    assert certify(raised, -(2**27), 2**27, -128, 127).theorem == ("B", "A", "A")


@given(st.floats(1e-12, 2.0**23), st.sampled_from([*RANGES, (-32768, 32767)]))
def test_provable_ratios_are_proved_as_they_are(ratio: float, limits: tuple[int, int]) -> None:
    """A ratio of theorem A is taken unchanged, for every int32 accumulator, and is the next one up."""
    raised = float(provable_ratio(ratio, *limits)[0])
    certified = certify(raised, INT32_MIN, INT32_MAX, *limits)
    assert certified.theorem == ("A",)
    assert certified.relative_change.tolist() == [0.0]
    step = 2.0 ** -((2**24 // max(-limits[0], limits[1])).bit_length() - 1)
    assert ratio <= raised <= max(ratio + step, ratio * (1 + 2.0**-22))


def test_tiny_and_large_ratios() -> None:
    """Channels that always give zero, or always saturate, are proved at once."""
    certified = certify([1e-300, 1e-15, 2.0**-33, 2.0**23, 2.0**24 - 1], INT32_MIN, INT32_MAX, -128, 127)
    assert certified.every_int32.all()
    assert certified.candidates.tolist() == [1, 1, 1, 1, 1]
    for index, expected in enumerate([(0, 0), (0, 0), (0, 0), (-128, 127), (-128, 127)]):
        one = channel(certified.multipliers, index)
        extremes = np.array([INT32_MIN, INT32_MAX])
        assert tuple(requantize(extremes, one, -128, 127, 0)) == expected
        assert tuple(requantize_float32(extremes, one, -128, 127, 0)) == expected


def test_the_change_of_the_ratio_is_bounded() -> None:
    """The search goes no further than it may."""
    certified = certify(np.full(1, 1.53e-5 * 1.1), INT32_MIN, INT32_MAX, 0, 255)
    assert 2.0**-24 < abs(certified.relative_change[0]) <= MAX_RELATIVE_CHANGE
    with pytest.raises(LoweringError, match="within 1e-07 of the ratio"):
        certify(1.53e-5 * 1.1, INT32_MIN, INT32_MAX, 0, 255, max_relative_change=1e-7)


def test_sixteen_bit_outputs() -> None:
    """All of 65,535 thresholds are checked; small accumulators, or short multipliers, make them provable."""
    certified = certify([0.013, 0.02, 3 / 2**9], -(2**17), 2**17, -32768, 32767)
    accumulator = np.arange(-(2**17), 2**17 + 1)
    assert certified.theorem == ("B", "B", "A")
    assert all(agree_on(accumulator, channel(certified.multipliers, i), -32768, 32767) for i in range(3))
    nearest = dyadic(np.linspace(0.11, 0.12, 6))
    stated = float32_agrees(nearest, -(2**20), 2**20, -32768, 32767).tolist()
    assert stated == [agree_on(MILLION, channel(nearest, i), -32768, 32767) for i in range(6)]
    assert set(stated) == {True, False}


# --- stored certificates


def test_verify_refutes_tampered_and_foreign_multipliers() -> None:
    """A changed last bit or a 31-bit multiplier does not pass for certified."""
    ratios = np.linspace(3e-4, 4e-4, 200)
    certified = certify(ratios, INT32_MIN, INT32_MAX, -128, 127)
    assert float32_agrees(certified.multipliers, INT32_MIN, INT32_MAX, -128, 127).all()
    tampered = Multipliers(certified.multipliers.multiplier ^ 1, certified.multipliers.shift)
    assert not float32_agrees(tampered, INT32_MIN, INT32_MAX, -128, 127).all()
    assert not float32_agrees(hawq_dyadic(ratios), INT32_MIN, INT32_MAX, -128, 127).any()


def test_refuses_bounds_and_ranges() -> None:
    """Bounds beyond int32, ranges beyond 16 bits and impossible ratios are named."""
    with pytest.raises(
        LoweringError, match=r"channel 1: expected accumulator bounds within int32, got \[0, 2147483648\]"
    ):
        certify([1e-3, 1e-3], 0, np.array([5, 2**31]), 0, 255)
    with pytest.raises(LoweringError, match="channel 0: expected accumulator bounds within int32, got"):
        float32_agrees(pair(1, 1), 3, 2, 0, 255)
    with pytest.raises(LoweringError, match=r"bounds of 2 channels, got int64 of shape \(3,\)"):
        certify([1e-3, 1e-3], np.zeros(3, np.int64), 7, 0, 255)
    with pytest.raises(LoweringError, match="bounds of 1 channels, got float64"):
        certify(1e-3, -1.5, 7, 0, 255)
    for low, high in ((0, 0), (5, 4), (0, 2**16), (-(2**16), -1), (-(2**15) - 1, 2**15)):
        with pytest.raises(LoweringError, match="output range of 2 to 16 bits"):
            certify(1e-3, 0, 7, low, high)
    with pytest.raises(LoweringError, match="channel 1: expected a positive, finite ratio"):
        certify([1.0, 0.0], 0, 7, 0, 255)
    with pytest.raises(LoweringError, match=r"ratio below 2\*\*24"):
        certify(2.0**24, 0, 7, 0, 255)


# --- rescaling of narrow tensors


@pytest.mark.parametrize(("in_min", "in_max"), [(-128, 127), (0, 255), (-32768, 32767), (0, 65535), (0, 0)])
def test_certify_requantize_holds_for_every_input(in_min: int, in_max: int) -> None:
    """Every input of a narrow tensor gives the rounded fraction."""
    ratios = np.exp(np.random.default_rng(in_max).uniform(-6, 1, 12))
    certified = certify_requantize(ratios, in_min, in_max, -128, 127)
    assert set(certified.theorem) == {"exhaustive"}
    inputs = np.arange(in_min, in_max + 1)
    for index in range(12):
        b, c = int(certified.multipliers.multiplier[index]), int(certified.multipliers.shift[index])
        engine = np.clip(np.rint(inputs.astype(np.float32) * np.float32(b / 2**c)), -128, 127).astype(int)
        sample = range(0, inputs.size, max(1, inputs.size // 500))
        twin = [max(-128, min(127, round(Fraction(int(inputs[i]) * b, 2**c)))) for i in sample]
        assert engine[sample].tolist() == twin
        assert agree_on(inputs, channel(certified.multipliers, index), -128, 127)
    assert float32_agrees(certified.multipliers, in_min, in_max, -128, 127).all()
    assert np.array_equal(certified.every_int32, float32_agrees(certified.multipliers, INT32_MIN, INT32_MAX, -128, 127))


def test_certify_requantize_refuses() -> None:
    """Inputs beyond int32, none at all, and ratios without a proof are refused."""
    for in_min, in_max in ((0, 2**31), (3, 2), (-(2**31) - 1, 0)):
        with pytest.raises(LoweringError, match="accumulator bounds within int32"):
            certify_requantize(0.5, in_min, in_max, -128, 127)
    with pytest.raises(
        LoweringError, match=r"channel 0: .* and inputs in \[-32768, 32767\], found none. Take the ratio"
    ):
        certify_requantize(0.123456, -32768, 32767, -32768, 32767, max_relative_change=0)


# --- speed


def test_the_channels_of_resnet50_are_certified_in_seconds() -> None:
    """26,560 channels in 53 layers, ratios spread over a factor of 50: far below the 5 s that lowering allows."""
    ratios = np.exp(np.random.default_rng(0).normal(np.log(8e-4), 1.0, (53, 501)))
    begin = time.process_time()
    proved = [certify(layer, -(2**24), 2**24, 0, 255, strict=False).proved.mean() for layer in ratios]
    assert time.process_time() - begin < 5
    assert np.mean(proved) > 0.999
