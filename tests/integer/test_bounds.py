# SPDX-License-Identifier: MIT
"""Bounds of accumulators: the worst inputs are tried one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitwright.integer.proof.bounds import (
    accumulator_bounds,
    largest_pair_sum,
    largest_sum,
    largest_sums,
    partial_sum_bound,
)
from bitwright.integer.quant_params import QuantParams
from windows import windows

WEIGHTS = arrays.arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 5)), elements=st.integers(-128, 127))
FORMATS = st.builds(QuantParams, windows(), st.just(0.1))


@given(WEIGHTS, FORMATS)
def test_accumulators_reach_their_bounds(weight: npt.NDArray[np.int8], params: QuantParams) -> None:
    """The worst input of each channel takes one end of the format for positive weights and the other for negative ones."""
    bias = np.arange(len(weight), dtype=np.int32)
    low, high = accumulator_bounds(weight, bias, params)
    for row, offset, least, most in zip(weight.astype(int), bias, low, high, strict=True):
        ends = [sorted((int(w) * params.quant_min, int(w) * params.quant_max)) for w in row]
        assert least == sum(end[0] for end in ends) + offset
        assert most == sum(end[1] for end in ends) + offset


@given(WEIGHTS, FORMATS)
def test_partial_sums_reach_their_bound(weight: npt.NDArray[np.int8], params: QuantParams) -> None:
    """No choice of terms and inputs sums up to more, and one reaches it: all subsets of all extreme products are tried."""
    reached = 0
    for row in weight.astype(int):
        for count in range(len(row) + 1):
            for chosen in combinations(row, count):
                ends = [sorted((int(w) * params.quant_min, int(w) * params.quant_max)) for w in chosen]
                reached = max(reached, sum(end[1] for end in ends), -sum(end[0] for end in ends))
    assert partial_sum_bound(weight, params) == reached


@given(WEIGHTS, FORMATS, st.integers(-100_000, 100_000))
def test_sums_reach_their_bound(weight: npt.NDArray[np.int8], params: QuantParams, bias: int) -> None:
    """Some partial sum, or all products and the bias, reach the bound, and none exceeds it."""
    biases = np.full(len(weight), bias, dtype=np.int32)
    reached = []
    for row in weight.astype(int):
        ends = [sorted((int(w) * params.quant_min, int(w) * params.quant_max)) for w in row]
        found = 0
        for end in (0, 1):
            terms = [pair[end] for pair in ends]
            sums = [sum(chosen) for count in range(len(terms) + 1) for chosen in combinations(terms, count)]
            found = max(found, *map(abs, sums), abs(sum(terms) + bias))
        reached.append(found)
    assert largest_sums(weight, biases, params).tolist() == reached
    assert largest_sum(weight, biases, params) == max(reached)


@given(WEIGHTS, FORMATS)
def test_pairs_reach_their_bound(weight: npt.NDArray[np.int8], params: QuantParams) -> None:
    """The largest sum of two products is that of some two weights of a channel, with inputs from 0 to the format's span."""
    span = params.quant_max - params.quant_min
    worst = 0
    for row in weight.astype(int):
        for chosen in [*combinations(row, 2), *((w,) for w in row)]:
            up, down = sum(max(int(w), 0) for w in chosen), -sum(min(int(w), 0) for w in chosen)
            worst = max(worst, span * max(up, down))
    assert largest_pair_sum(weight, params) == worst
