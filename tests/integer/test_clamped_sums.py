# SPDX-License-Identifier: MIT
"""Theorem C: what engines compute of sums that float32 cannot hold, step by step, is what the integer formula says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.integer.multipliers import FLOAT32_EXACT, INT32_MAX, INT32_MIN, Multipliers, requantize
from bitwright.integer.proof.certificate import certify
from bitwright.integer.proof.theorems import clamped_beyond_float32

Limits = tuple[int, int]
LIMITS = st.sampled_from([(0, 255), (-128, 127), (0, 15), (-2, 1), (0, 6), (10, 200)])


def computed(
    sums: npt.NDArray[np.int64], bias: int, multipliers: Multipliers, limits: Limits
) -> npt.NDArray[np.float32]:
    """Each step in float32: conversion, bias, clamp, multiplication, rounding, clamp."""
    shifted = sums.astype(np.float32) + np.float32(bias)
    inside = np.clip(shifted, np.float32(-FLOAT32_EXACT), np.float32(FLOAT32_EXACT))
    scaled = inside * multipliers.as_float32()
    assert shifted.dtype == inside.dtype == scaled.dtype == np.float32
    return np.clip(np.rint(scaled), *limits)


def sums_to_try(bias: int, multipliers: Multipliers, limits: Limits) -> npt.NDArray[np.int64]:
    """Sums around every corner of the proof and every end of the results, and all over int32."""
    corners = [0, -bias, *(end - offset for end in (-FLOAT32_EXACT, FLOAT32_EXACT) for offset in (0, bias, 2 * bias))]
    corners += [int(half / multipliers.real()[0]) - bias for half in (limits[0] + 0.5, limits[1] - 0.5)]
    near = np.add.outer(np.array([*corners, INT32_MIN, INT32_MAX]), np.arange(-70, 71)).reshape(-1)
    anywhere = np.random.default_rng(0).integers(INT32_MIN, INT32_MAX, 2000)
    sums = np.concatenate([near, anywhere, anywhere // 64])
    return np.clip(sums, INT32_MIN + max(-bias, 0), INT32_MAX - max(bias, 0))  # as int32 holds the accumulator too


@settings(max_examples=50)
@given(st.floats(2.0**-18, 2.0**-4), st.integers(-FLOAT32_EXACT - 9, FLOAT32_EXACT + 9), LIMITS)
def test_clamped_sums_are_exact(ratio: float, bias: int, limits: Limits) -> None:
    """Wherever the theorem's conditions hold, all sums give the integers of the formula."""
    multipliers = certify(ratio, -FLOAT32_EXACT, FLOAT32_EXACT, *limits, strict=False).multipliers
    if clamped_beyond_float32(multipliers, np.array([bias], dtype=np.int32), *limits).all():
        sums = sums_to_try(bias, multipliers, limits)
        assert np.array_equal(computed(sums, bias, multipliers, limits), requantize(sums + bias, multipliers, *limits))


def test_the_conditions_are_needed() -> None:
    """At a ratio whose results still rise beyond 2**24, or with a bias that leads back from there, integers differ."""
    for shift, bias, holds in ((16, 0, True), (17, 0, False), (16, -(2**17), False), (16, 2**17, True)):
        multipliers, limits = Multipliers(np.array([1]), np.array([shift])), (0, 255)
        sums = sums_to_try(bias, multipliers, limits)
        assert clamped_beyond_float32(multipliers, np.array([bias], dtype=np.int32), *limits).tolist() == [holds]
        equal = np.array_equal(computed(sums, bias, multipliers, limits), requantize(sums + bias, multipliers, *limits))
        assert equal == holds
