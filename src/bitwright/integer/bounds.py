# SPDX-License-Identifier: MIT
"""How large accumulators can become, from the actual weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitwright.integer.quant_params import QuantParams

FLOAT32_EXACT = 2**24
"""Every integer up to here, and every sum whose partial sums stay within, is exact in float32."""

TF32_EXACT = 2**11
"""Every integer up to here is exact in TF32, to which CUDA may round the factors of products."""

SATURATING_SUM = 2**15 - 1
"""CPUs with AVX2 but without VNNI add two products of uint8 and int8 in 16 bits, and saturate there."""

Int64Array = npt.NDArray[np.int64]


def accumulator_bounds(
    weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], params: QuantParams
) -> tuple[Int64Array, Int64Array]:
    """Smallest and largest accumulator of each output channel, bias included, over all inputs of a format.

    Args:
        weight: Shape [channels, ...].
        bias: Shape [channels].
        params: Format of the input, which contains zero, so that padding is covered.

    Returns:
        Two int64 arrays of shape [channels].
    """
    rows = weight.reshape(weight.shape[0], -1).astype(np.int64)
    positive, negative = rows.clip(min=0).sum(1), rows.clip(max=0).sum(1)
    low = positive * params.quant_min + negative * params.quant_max + bias
    high = positive * params.quant_max + negative * params.quant_min + bias
    return low, high


def partial_sum_bound(weight: npt.NDArray[np.int8], params: QuantParams) -> int:
    """Largest magnitude of any partial sum, in any order of summation, of the worst channel.

    A partial sum is largest where all of its terms have one sign, so it lies between the bounds of the accumulator without bias:
    with unsigned inputs, about half of `sum |w| * max |a|`.

    >>> partial_sum_bound(np.array([[3, -4, 2]], dtype=np.int8), QuantParams(4, False, 0.1))
    75
    """
    low, high = accumulator_bounds(weight, np.zeros(len(weight), dtype=np.int32), params)
    return int(max(high.max(initial=0), -low.min(initial=0)))


def largest_sum(weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], params: QuantParams) -> int:
    """Largest magnitude of any accumulator, bias included, and of any partial sum of its products, in any order of summation.

    >>> largest_sum(np.array([[3, -4, 2]], dtype=np.int8), np.array([-30], dtype=np.int32), QuantParams(4, False, 0.1))
    90
    """
    low, high = accumulator_bounds(weight, bias, params)
    return max(partial_sum_bound(weight, params), int(high.max(initial=0)), -int(low.min(initial=0)))


def largest_pair_sum(weight: npt.NDArray[np.int8], params: QuantParams) -> int:
    """Largest magnitude of a sum of two products, with the input stored as unsigned integers from 0.

    Engines store signed tensors as unsigned ones with a zero point, so each product is up to the whole span of the format times a
    weight; the sum is largest where the two largest weights of one sign meet. Up to `SATURATING_SUM`, no engine saturates.

    >>> largest_pair_sum(np.array([[100, 20, -60, -70]], dtype=np.int8), QuantParams(8, True, 0.1))
    33150
    """
    rows = np.sort(weight.reshape(weight.shape[0], -1).astype(np.int64), axis=1)
    highest, lowest = rows[:, -2:].clip(min=0).sum(1), -rows[:, :2].clip(max=0).sum(1)
    return int(max(highest.max(initial=0), lowest.max(initial=0))) * (params.quant_max - params.quant_min)
