# SPDX-License-Identifier: MIT
"""Bounds of sums of integers whose format alone is known: the extreme values are tried one by one."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from bitwright.quantizer.sums import Ends, magnitude, weighted_bound, window_sums

SIDES = st.tuples(st.integers(1, 3), st.integers(1, 2))
ENDS = st.tuples(st.integers(-40, 40), st.integers(-40, 40)).map(lambda pair: (min(pair), max(pair)))


@given(SIDES, ENDS)
def test_windows_reach_their_bounds(kernel: tuple[int, int], ends: Ends) -> None:
    """Every pixel of a window is an end of the format, or a zero of the padding."""
    sums = [sum(values) for values in product((0, *ends), repeat=kernel[0] * kernel[1])]
    assert window_sums(kernel, ends) == (min(sums), max(sums))


@given(st.lists(st.tuples(ENDS, st.integers(-9, 9)), min_size=1, max_size=4))
def test_terms_stay_within_their_bound(terms: list[tuple[Ends, int]]) -> None:
    """Whatever terms are added, in whatever order; and it is reached, if every format is as wide below zero as above."""
    ends, factors = zip(*terms, strict=True)
    choices = [(0, low * factor, high * factor) for (low, high), factor in terms]
    bound = weighted_bound(ends, factors)
    assert max(abs(sum(values)) for values in product(*choices)) <= bound
    symmetric = [(-magnitude(pair), magnitude(pair)) for pair in ends]
    largest = sum(max(low * factor, high * factor) for (low, high), factor in zip(symmetric, factors, strict=True))
    assert bound == largest
