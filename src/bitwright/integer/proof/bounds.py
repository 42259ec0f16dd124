# SPDX-License-Identifier: MIT
"""How large accumulators can become, from the actual weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.sums import FLOAT32_EXACT as FLOAT32_EXACT

TF32_EXACT = 2**11
"""Every integer up to here is exact in TF32, to which CUDA may round the factors of products."""

SATURATING_SUM = 2**15 - 1
"""CPUs with AVX2 but without VNNI add two products of uint8 and int8 in 16 bits, and saturate there."""

_ALIGNMENT = 16  # channels: parts of whole blocks are what kernels are fastest on

Int64Array = npt.NDArray[np.int64]


def product_bounds(weight: npt.NDArray[np.int8], params: QuantParams) -> tuple[Int64Array, Int64Array]:
    """Smallest and largest product of each weight with an input: int64 of the weights' shape.

    The input's format contains zero, so the one is never positive and the other never negative: every sum of some of the products
    lies between the sums of all of either, and these are reached. All bounds of sums follow from them.
    """
    first, last = (weight.astype(np.int64) * limit for limit in (params.quant_min, params.quant_max))
    return np.minimum(first, last), np.maximum(first, last)


def accumulator_bounds(
    weight: npt.NDArray[np.int8], bias: npt.NDArray[np.integer[Any]], params: QuantParams
) -> tuple[Int64Array, Int64Array]:
    """Smallest and largest accumulator of each output channel, bias included, over all inputs of a format.

    Args:
        weight: Shape [channels, ...].
        bias: Shape [channels].
        params: Format of the input, which contains zero, so that padding is covered.

    Returns:
        Two int64 arrays of shape [channels].
    """
    # As the sums of `product_bounds`, without arrays of eight bytes a weight: loading a model waits for this.
    rows = weight.reshape(weight.shape[0], -1)
    positive = np.maximum(rows, 0).sum(1, dtype=np.int64)
    negative = rows.sum(1, dtype=np.int64) - positive
    low = positive * params.quant_min + negative * params.quant_max + bias
    high = positive * params.quant_max + negative * params.quant_min + bias
    return low, high


def partial_sum_bound(weight: npt.NDArray[np.int8], params: QuantParams) -> int:
    """Largest magnitude of any partial sum, in any order of summation, of the worst channel.

    A partial sum is largest where all of its terms have one sign, so it lies between the bounds of the accumulator without bias:
    with unsigned inputs, about half of `sum |w| * max |a|`.

    >>> partial_sum_bound(np.array([[3, -4, 2]], dtype=np.int8), QuantParams.unsigned(4, 0.1))
    75
    """
    return largest_sum(weight, np.zeros(len(weight), dtype=np.int32), params)


def largest_sums(weight: npt.NDArray[np.int8], bias: npt.NDArray[np.integer[Any]], params: QuantParams) -> Int64Array:
    """Largest magnitude of any partial sum of each channel, the bias among its terms, in any order: int64 [channels].

    A partial sum without the bias is largest as `partial_sum_bound` says, one with it where it is the whole accumulator.
    """
    low, high = accumulator_bounds(weight, bias, params)
    return np.asarray(np.maximum(np.maximum(-low, high), np.maximum(bias - low, high - bias)))


def largest_sum(weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], params: QuantParams) -> int:
    """The largest of `largest_sums`.

    >>> largest_sum(np.array([[3, -4, 2]], dtype=np.int8), np.array([-30], dtype=np.int32), QuantParams.unsigned(4, 0.1))
    90
    """
    return int(largest_sums(weight, bias, params).max(initial=0))


def exact_parts(
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    params: QuantParams,
    *,
    whole: bool = False,
    stored: bool = False,
) -> list[tuple[int, int]] | None:
    """The fewest runs of input channels over each of which no partial sum exceeds 2**24.

    Args:
        weight: Shape [outputs, inputs, ...].
        bias: Shape [outputs]; it belongs to the first part.
        params: Format of the input.
        whole: Whether there may be one part only.
        stored: Whether the sums over inputs stored from zero up are to stay within 2**24 as well.

    Returns:
        Start and end of each part, in order, or None where there is no such cut.

    >>> exact_parts(np.full((1, 600), 127, dtype=np.int8), np.array([5], dtype=np.int32), QuantParams.unsigned(8, 0.1))
    [(0, 512), (512, 600)]
    """
    inputs = weight.shape[1]
    formats = {params, params.stored} if stored else {params}
    if all(largest_sum(weight, bias, each) <= FLOAT32_EXACT for each in formats):
        return [(0, inputs)]
    taps, first = weight.reshape(*weight.shape[:2], -1), bias.astype(np.int64)
    reaches = []  # how far sums over each input channel reach up or down, and what the bias adds to that
    for each in formats:
        least, most = (ends.sum(2) for ends in product_bounds(taps, each))
        reaches += [(most, np.maximum(first, 0)), (-least, np.maximum(-first, 0))]
    parts: list[tuple[int, int]] = []
    start = 0
    while start < inputs or not parts:
        # Bounds of the sums over channels start .. n, of the worst output, for every n.
        sums = [reach[:, start:].cumsum(1) + (0 if parts else offset[:, None]) for reach, offset in reaches]
        fitting = int(np.searchsorted(np.max([each.max(0) for each in sums], 0), FLOAT32_EXACT, side="right"))
        if fitting == 0 or (whole and fitting < inputs):
            return None
        if start + fitting < inputs and fitting > _ALIGNMENT:
            fitting -= fitting % _ALIGNMENT
        parts.append((start, start + fitting))
        start += fitting
    return parts


def largest_pair_sum(weight: npt.NDArray[np.int8], params: QuantParams) -> int:
    """Largest magnitude of a sum of two products, with the input stored as unsigned integers from 0.

    Engines store signed tensors as unsigned ones with a zero point, so each product is up to the whole span of the format times a
    weight; the sum is largest where the two largest weights of one sign meet. Up to `SATURATING_SUM`, no engine saturates.

    >>> largest_pair_sum(np.array([[100, 20, -60, -70]], dtype=np.int8), QuantParams.symmetric(8, 0.1))
    33150
    """
    rows = weight.reshape(weight.shape[0], -1)
    largest = max(_two_largest(np.maximum(rows, 0)), -_two_largest(np.minimum(rows, 0), sign=-1))
    return largest * (params.quant_max - params.quant_min)


def _two_largest(rows: npt.NDArray[np.int8], sign: int = 1) -> int:
    """The sum of the two numbers of a row that lie farthest on one side, of the row where it is farthest; `rows` is spent."""
    if not rows.size:
        return 0
    places = (rows.argmax(1) if sign > 0 else rows.argmin(1))[:, None]
    first = np.take_along_axis(rows, places, 1).astype(np.int64)
    np.put_along_axis(rows, places, 0, 1)
    sums = first[:, 0] + (rows.max(1) if sign > 0 else rows.min(1))
    return int(sums.max() if sign > 0 else sums.min())
