# SPDX-License-Identifier: MIT
"""How far real results stay from every half-integer: with a margin, all who compute them nearly right round them alike.

Operations on bytes have so few cases that each can be looked at. For a product q = round(a * b * m), and for a table
q = round(f(s_x x) / s_y), a constant that may move a little (m, or s_y) is moved until no case lies within the margin of a half.
Then it does not matter in which order an engine multiplies, or which exponential it has, as long as its error is below the
margin; ties do not occur. Only halves within the clamp count: beyond its ends, one result is as good as another.

The error of (a * b) * m or a * (b * m) in float32 is at most that of two roundings, 1.2e-7 of the result. ONNX Runtime adds the
zero point of a byte before it rounds: what it then rounds lies below 2**8, and is off by at most another 2**-17 = 7.6e-6. The
worst function of any engine that was measured is 1.4e-4 of a step of 8 bits off.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bitwright.integer.quant_params import QuantParams

PRODUCT_MARGIN = 4e-7
"""Of the half and `PRODUCT_STEPS`: 8e-6 of a step near zero, 1.1e-4 at the end of 8 bits."""

PRODUCT_STEPS = 20.0

TABLE_MARGIN = 1e-3
"""In steps of the result."""

SCALE_FREEDOM = 0.005
"""Relative change of a scale that is chosen for a margin."""

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

PRODUCT_FREEDOM = 2.0**-11
"""Of the multiplier of a product, which no scale follows."""

_TRIES = 128


def margin(real: Float64Array, low: int, high: int, *, relative_to: float | None = None) -> float:
    """The least distance of some numbers from the halves at which their roundings, clamped to [low, high], change.

    Args:
        real: Shape [cases]; NaN has no distance.
        low: Smallest result.
        high: Largest result.
        relative_to: Distances are divided by the halves that they are from, and so many steps.

    Returns:
        Infinity where nothing can change.

    >>> margin(np.array([-3.5, 0.25, 2.4]), 0, 2), margin(np.array([1.5]), 0, 2), margin(np.array([2.25]), 0, 9, relative_to=0)
    (0.25, 0.0, 0.1)
    """
    if low == high:
        return np.inf
    nearest = np.clip(np.floor(real) + 0.5, low + 0.5, high - 0.5)
    distance = np.abs(real - nearest)
    if relative_to is not None:
        distance /= np.abs(nearest) + relative_to
    return float(np.where(np.isnan(distance), 0.0, distance).min(initial=np.inf))


def nearby(value: float, freedom: float) -> Iterator[float]:
    """float32 numbers near `value`, itself first and then by distance, up to a relative change."""
    yield float(np.float32(value))
    for step in range(1, _TRIES + 1):
        for sign in (1, -1):
            yield float(np.float32(value * (1 + sign * step * freedom / _TRIES)))


def distinct_products(first: QuantParams, second: QuantParams) -> Int64Array:
    """Every product of an integer of one format and one of the other, once: int64, ascending.

    >>> from bitwright.quantizer.formats import TensorFormat
    >>> distinct_products(QuantParams(TensorFormat(2, -1, 2), 1.0), QuantParams.unsigned(2, 1.0)).tolist()
    [-3, -2, -1, 0, 1, 2, 3, 4, 6]
    """
    ones, others = (np.arange(params.quant_min, params.quant_max + 1) for params in (first, second))
    return np.unique(np.multiply.outer(ones, others))
