# SPDX-License-Identifier: MIT
"""Layers whose sums float32 cannot hold, as two layers whose sums it can: their weights written in two parts.

With d bits for the lower part, an integer w is `2**d * h + l`, where `h = floor((w + 2**(d-1)) / 2**d)` and l lies in
[-2**(d-1), 2**(d-1) - 1]. Weights and bias taken so,

    accumulator = 2**d * (h . x + high bias) + (l . x + low bias)

1. Both brackets, and all partial sums of their products, stay within 2**24, which is checked with the actual parts. So float32
   gives them exactly, in any order of summation.
2. The product with 2**d changes nothing but the exponent: exact.
3. The addition rounds once, so by IEEE 754 it gives the float32 number nearest to the exact sum: fl(accumulator).

That is where the formula F of `integer.theorems` starts. The layer's certificate, which compares F on all accumulators that its
weights allow, thus holds as it stands, and nothing needs more than float32. Two is the most: a third term would round twice.

Averages over tensors of 16 bits go the same way: what they sum is written in two bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import IntegerAvgPool2d, IntegerLayer
from bitwright.integer.proof.bounds import FLOAT32_EXACT, largest_sum
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.formats import MAX_TENSOR_BITS
from bitwright.quantizer.sums import magnitude, window_sums

BYTE_BITS = 8


@dataclass(frozen=True, eq=False)
class LayerPart:
    """What one of the two layers multiplies and adds.

    Attributes:
        weight: int8, of the shape of the layer's weight.
        bias: int32 [channels].
        bits: Width of a signed format that holds the weights.
    """

    weight: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    bits: int

    def largest_sum(self, params: QuantParams) -> int:
        """Largest magnitude of any sum, over all inputs of a format."""
        return largest_sum(self.weight, self.bias, params)


@dataclass(frozen=True, eq=False)
class SplitLayer:
    """A layer as `2**shift * high + low`.

    Attributes:
        high: The high part, of few levels.
        low: The rest, of `shift` bits.
        shift: Bits of the lower part.
        largest_sum: Largest magnitude of a sum of the layer as a whole.
    """

    high: LayerPart
    low: LayerPart
    shift: int
    largest_sum: int


def split_layer(op: IntegerLayer, params: QuantParams) -> SplitLayer | None:
    """The layer in two parts of about equal width, or None where float32 holds its sums as they are.

    Args:
        op: The layer.
        params: Format of its input.

    Raises:
        ExportError: If the sums of no two parts stay within 2**24.
    """
    largest = largest_sum(op.weight, op.bias, params)
    if largest <= FLOAT32_EXACT:
        return None
    for shift in sorted(range(1, op.weight_bits), key=lambda bits: abs(2 * bits - op.weight_bits)):
        split = split_at(op, shift, largest)
        high, low = split.high.largest_sum(params), split.low.largest_sum(params)
        # Beyond int32, the parts of logits could not be joined.
        if max(high, low) <= FLOAT32_EXACT and (high << shift) + low <= INT32_MAX:
            return split
    raise ExportError(
        f"float32 holds sums of at most 2**24, but those of '{op.name}' can reach {largest}, "
        f"and those of its weights in two parts too are beyond. Lower its weight or activation bits."
    )


def split_at(op: IntegerLayer, shift: int, largest: int) -> SplitLayer:
    """The layer with `shift` bits in its lower part, whatever the sums; `largest` is that of the whole."""
    (high_weight, low_weight), (high_bias, low_bias) = (
        split_integers(values, shift) for values in (op.weight, op.bias)
    )
    return SplitLayer(
        LayerPart(high_weight.astype(np.int8), high_bias.astype(np.int32), op.weight_bits - shift + 1),
        LayerPart(low_weight.astype(np.int8), low_bias.astype(np.int32), max(shift, 2)),
        shift,
        largest,
    )


def split_integers(
    values: npt.NDArray[np.int8] | npt.NDArray[np.int32], shift: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Both parts, h and l: `values == 2**shift * h + l`, with l in [-2**(shift-1), 2**(shift-1) - 1].

    >>> split_integers(np.array([-127, -8, 7, 8, 127], dtype=np.int8), 4)
    (array([-8,  0,  0,  1,  8]), array([ 1, -8,  7, -8, -1]))
    """
    whole = values.astype(np.int64)
    high = (whole + (1 << (shift - 1))) >> shift  # floor, also below zero
    return high, whole - (high << shift)


def split_layers(model: IntegerModel) -> dict[str, SplitLayer]:
    """The layers of `model` that float32 forms (QONNX, QDQ) hold in two parts, by name.

    Raises:
        ExportError: If float32 cannot hold the sums of a layer's parts either.
    """
    splits = {name: split_layer(op, model.formats[op.inputs[0]]) for name, op in model.layers().items()}
    return {name: split for name, split in splits.items() if split is not None}


def means_in_bytes(model: IntegerModel) -> list[str]:
    """The averages of `model` whose values float32 forms sum in two bytes, by name.

    Raises:
        ExportError: If float32 cannot hold the sums of bytes either.
    """
    averages = [op for op in model if isinstance(op, IntegerAvgPool2d)]
    return [op.name for op in averages if _in_bytes(op, model.formats[op.inputs[0]])]


def _in_bytes(op: IntegerAvgPool2d, params: QuantParams) -> bool:
    """Whether the sums of one average need it."""
    largest = magnitude(window_sums(op.kernel, params.ends))
    if largest <= FLOAT32_EXACT:
        return False
    if (
        not BYTE_BITS < params.bit_width <= MAX_TENSOR_BITS
        or magnitude(window_sums(op.kernel, (0, 1 << BYTE_BITS))) > FLOAT32_EXACT
    ):
        raise ExportError(
            f"float32 holds sums of at most 2**24, but those of '{op.name}' can reach {largest} over a "
            f"window of {op.kernel[0]} x {op.kernel[1]}. Average over smaller windows, or use residual_bits: 8."
        )
    return True


def sums_of(splits: Mapping[str, SplitLayer], means: Sequence[str]) -> str:
    """What a file says of its sums."""
    facts = ["within 2**24, as float32 convolutions need in any order of summation"]
    for names, parts in ((splits, "in two parts of their weights"), (means, "in two bytes of what they average")):
        if names:
            facts.append(f"{parts}, since the whole can exceed 2**24: {', '.join(names)}")
    return "; ".join(facts)


def splits_as_json(splits: Mapping[str, SplitLayer]) -> str:
    """Of each split layer: how large its sums can be, the shift of the higher part, and the bits of both."""
    entries = {
        name: {
            "largest_sum": split.largest_sum,
            "shift": split.shift,
            "high_bits": split.high.bits,
            "low_bits": split.low.bits,
        }
        for name, split in splits.items()
    }
    return json.dumps(entries)
