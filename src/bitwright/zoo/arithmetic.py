# SPDX-License-Identifier: MIT
"""The arithmetic of the published models, in integers.

The reference computes in float32 what are integers in meaning; they are written down here (HAWQ-V3, arXiv:2011.10680, and its
published code):

- Every activation is requantized by a 31-bit multiplier, `m / 2**e` being the mantissa of `float32(scale_in * scale_weight) /
  scale_out` in float64, halves up.
- 8-bit activations are signed, hence of 7 bits after a ReLU; 4-bit ones are unsigned, [0, 15].
- An addition rounds its two terms separately, to the scale of a 16-bit tensor, and clamps neither them nor the sum.
- The stem pools its accumulators before it requantizes them. Since requantization and ReLU do not decrease, the maximum may as
  well be taken afterwards: `max(f(a), f(b)) = f(max(a, b))`.
- The final mean is `trunc(sum / area + 0.01)` in float32, at the residuals' scale. For sums >= 0, areas up to 64 and means
  below 2**16 that is `floor(sum / area)`: float32 is off by at most 2 * 2**-9 < 0.004, and 0.01 + 0.004 < 1 / 64, the least that
  a mean which is no integer lacks to the next one.

Where float32 is not exact, the reference's integers are those of its device, and may differ from the ones written down: a sum of
products beyond 2**24 may be rounded on the way, and one beyond 2**22 may not survive being multiplied by its scale and divided by
it again, nor does its product with a 31-bit multiplier fit the 53 bits of float64. `import_notes` names these layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import LoweringError
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN, Multipliers, hawq_dyadic
from bitwright.integer.ops import Rescale
from bitwright.integer.proof.bounds import accumulator_bounds
from bitwright.integer.quant_params import QuantParams

REFERENCE_EXACT = 2**22
"""Accumulators below survive the reference's way through float32: (1 + 2**-24)**2 moves them by less than a half."""
MAX_POOL_AREA = 64
MAX_EXACT_MEAN = 2**16

FloatArray = npt.NDArray[np.float32]


def scale_of_range(low: np.float32, high: np.float32, bits: int) -> np.float32:
    """The reference's scale of a range, in its float32: unsigned at 4 bits, symmetric otherwise."""
    floor = np.float32(1e-8)
    if bits == 4:
        return np.float32(max(high - low, floor) / np.float32(15))
    return np.float32(max(abs(low), abs(high), floor) / np.float32((1 << (bits - 1)) - 1))


def published_ratio(scale_in: float, weight_scale: FloatArray, scale_out: float) -> Multipliers:
    """`float64(float32(scale_in * scale_weight)) / float64(scale_out)` as 31-bit multipliers."""
    product = (np.float32(scale_in) * weight_scale).astype(np.float32)
    return hawq_dyadic(product.astype(np.float64) / float(np.float32(scale_out)))


def within_int32(
    layer: str, weight: npt.NDArray[np.int8], bias: npt.NDArray[Any], params: QuantParams, rescale: Rescale | None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any], Rescale | None, int]:
    """Replace channels whose accumulators leave int32, but which give one value whatever they read, by that value.

    Such channels are dead ones: their weights are so small that the bias, in units of their product with the activations, was
    clamped at 2**31.
    """
    low, high = accumulator_bounds(weight, bias, params)
    beyond = np.flatnonzero((high > INT32_MAX) | (low < INT32_MIN))
    if not len(beyond):
        return weight, bias, rescale, 0
    fault = f"layer '{layer}': an accumulator can reach {int(max(high.max(), -low.min()))}, beyond int32"
    if rescale is None:
        raise LoweringError(f"{fault}, on its way to the logits.")
    weight, bias = weight.copy(), bias.copy()
    multiplier, shift = rescale.multipliers.multiplier.copy(), rescale.multipliers.shift.copy()
    for channel in beyond:
        ratio = int(multiplier[channel]), int(shift[channel])
        values = {
            max(rescale.low, min(rescale.high, _round_half_even(int(end) * ratio[0], ratio[1])))
            for end in (low[channel], high[channel])
        }
        if len(values) > 1:
            raise LoweringError(f"{fault}, in channel {channel}, which is not constant.")
        weight[channel], bias[channel] = 0, values.pop()
        multiplier[channel], shift[channel] = 1, 0
    return weight, bias, Rescale(Multipliers(multiplier, shift), rescale.low, rescale.high), len(beyond)


def _round_half_even(value: int, shift: int) -> int:
    """`value / 2**shift`, exactly, for integers of any size."""
    quotient, rest = divmod(value, 1 << shift)
    return quotient + (2 * rest > 1 << shift or (2 * rest == 1 << shift and quotient % 2 == 1))
