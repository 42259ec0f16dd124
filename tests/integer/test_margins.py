# SPDX-License-Identifier: MIT
"""Margins: their literal twins in fractions, and that with them every order of float32 multiplication gives the same integers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.graph.functions import FUNCTIONS, Program
from bitwright.integer import QuantParams
from bitwright.integer.operations.product import find_multiplier
from bitwright.integer.operations.table import is_computable, real_results, rounded_entries
from bitwright.integer.proof.margins import (
    PRODUCT_MARGIN,
    PRODUCT_STEPS,
    SCALE_FREEDOM,
    distinct_products,
    margin,
    nearby,
)
from bitwright.quantizer.formats import TensorFormat

WINDOWS = st.integers(2, 8).flatmap(
    lambda bits: st.integers(1 - 2**bits, 0).map(lambda least: TensorFormat.starting(bits, least))
)


def _rounded(value: Fraction, low: int, high: int) -> int:
    return max(low, min(high, round(value)))


@given(WINDOWS, WINDOWS, WINDOWS, st.floats(0.02, 1.5))
def test_all_products_are_rounded_alike_in_every_order(
    first: TensorFormat, second: TensorFormat, result: TensorFormat, reach: float
) -> None:
    """(a b) m, a (b m), b (a m) and (a b) / (1 / m) in float32, a zero point added or not, and the fraction, over all pairs."""
    a, b = (np.arange(window.quant_min, window.quant_max + 1) for window in (first, second))
    largest = max(result.magnitude, 1) / (first.magnitude * second.magnitude)
    sources = [QuantParams(window, 1.0) for window in (first, second)]
    output = QuantParams(result, 1 / (largest * reach))
    low, high = result.quant_min, result.quant_max
    m = find_multiplier("p", *sources, output, low, high)
    factor = m.as_float32()[0]
    assert abs(float(factor) * output.scale - 1) <= 2.0**-11 * 1.01
    ones, others = a.astype(np.float32)[:, None], b.astype(np.float32)[None]
    forms = [
        (ones * others) * factor,
        ones * (others * factor),
        others * (ones * factor),
        (ones * others) / (np.float32(1) / factor),
    ]
    products = np.multiply.outer(a, b)
    twin = {
        int(value): _rounded(Fraction(int(value)) * Fraction(float(factor)), low, high) for value in np.unique(products)
    }
    expected = np.vectorize(twin.__getitem__)(products)
    zero_point = np.float32(-low)
    for form in forms:
        assert np.array_equal(np.clip(np.rint(form), low, high), expected)
        assert np.array_equal(np.clip(np.rint(form + zero_point), 0, high - low) + low, expected)


@pytest.mark.parametrize("factor", [8595220 / 2**31, 15017404 / 2**32])
def test_a_zero_point_that_is_added_before_rounding_changes_nothing(factor: float) -> None:
    """These multipliers have products so near a half that float32 loses it when 101 is added; those found have not."""
    source, result = QuantParams(TensorFormat(8, -51, 204), 1.0), QuantParams(TensorFormat(8, -101, 154), 1 / factor)
    products, (low, high) = distinct_products(source, source), result.ends

    def differing(multiplier: np.float32) -> int:
        real = products.astype(np.float32) * multiplier
        return int((np.rint(real).clip(low, high) != (np.rint(real + np.float32(101)) - 101).clip(low, high)).sum())

    assert differing(np.float32(factor)) == 2
    assert margin(products * factor, low, high, relative_to=PRODUCT_STEPS) < PRODUCT_MARGIN
    assert not differing(find_multiplier("p", source, source, result, low, high).as_float32()[0])


@given(st.lists(st.floats(-40, 40), min_size=1, max_size=30), st.integers(-20, 0), st.integers(1, 20))
def test_the_margin_is_the_distance_of_the_nearest_half(values: list[float], low: int, high: int) -> None:
    """Tried one by one, half by half."""
    halves = [Fraction(2 * level + 1, 2) for level in range(low, high)]
    expected = min(abs(Fraction(value) - half) for value in values for half in halves)
    assert margin(np.array(values), low, high) == pytest.approx(float(expected), rel=1e-12, abs=1e-12)


def test_distinct_products_are_all_products() -> None:
    """Each once."""
    first, second = QuantParams(TensorFormat(3, -2, 5), 1.0), QuantParams.symmetric(2, 1.0)
    assert distinct_products(first, second).tolist() == sorted({a * b for a in range(-2, 6) for b in range(-2, 2)})


def test_nearby_numbers_come_nearest_first() -> None:
    """Within the freedom, all of float32."""
    found = list(nearby(0.3, SCALE_FREEDOM))
    distances = [abs(value / 0.3 - 1) for value in found]
    assert found[0] == np.float32(0.3)
    assert distances[-1] <= SCALE_FREEDOM * 1.001
    assert all(one <= other + 1e-6 for one, other in pairwise(distances))
    assert all(np.float32(value) == value for value in found)


CURVED: list[Program] = [("x", name) for name in FUNCTIONS if name not in ("log", "sqrt", "rsqrt", "reciprocal", "exp")
                         and len(FUNCTIONS[name].arguments) == 1]  # fmt: skip


@pytest.mark.parametrize("program", [*CURVED, ("x", 0.1, "leaky_relu"), ("x", 1.0, "elu")], ids=str)
def test_a_scale_near_any_gives_a_margin(program: Program) -> None:
    """Of 20 random pairs of scales, all within half a percent; and what float32 computes then rounds to the entries."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        source = QuantParams.symmetric(8, float(np.float32(draw.uniform(1, 8) / 128)))
        largest = np.abs(real_results(program, source, 1.0)).max()
        wanted = float(largest / 127 * draw.uniform(0.8, 1.2))
        scale = next(
            (
                scale
                for scale in nearby(wanted, SCALE_FREEDOM)
                if is_computable(real_results(program, source, scale), QuantParams.symmetric(8, scale))
            ),
            None,
        )
        assert scale is not None
        real = real_results(program, source, scale)
        literal = [max(-128, min(127, floor(value) + (value - floor(value) > 0.5))) for value in real]
        assert rounded_entries(real, -128, 127).tolist() == literal  # no tie is left
        assert np.array_equal(rounded_entries(real * (1 + 3e-6), -128, 127), rounded_entries(real, -128, 127))
