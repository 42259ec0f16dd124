# SPDX-License-Identifier: MIT
"""The operations of an IntegerModel: graph nodes with their integers and proved constants.

Nodes that only move values (max pooling, flattening, …) and concatenations are those of `graph.nodes`: in integers they mean
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.graph.nodes import Node, Pair, node_kinds
from bitwright.integer.multipliers import Multipliers


@dataclass(frozen=True, eq=False)
class Rescale:
    """Accumulators to quantized values: `clamp(round_half_even(accumulator * multiplier / 2**shift), low, high)`.

    Attributes:
        multipliers: One per channel, or one for all.
        low: Smallest result: that of the format, or of a fused clamp.
        high: Largest result.
    """

    multipliers: Multipliers
    low: int
    high: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantize(Node):
    """Images to integers: `clamp(round_half_even(image / scale))`, in float32."""

    scale: float
    low: int
    high: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ReciprocalQuantize(Node):
    """Images to integers as the published models do: `clamp(round_half_even(image * float32(1 / scale)))`, in float32.

    Two roundings where `Quantize` has one: near a half, the results differ by one.
    """

    scale: float
    low: int
    high: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Accumulate(Node):
    """Sums of products, exact in int32, rescaled unless they leave the network as they are.

    One accumulator is worth `multiplier / 2**shift` times the scale of the result; for an output, its unit.

    Attributes:
        rescale: None for the logits.
    """

    rescale: Rescale | None


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLayer(Accumulate):
    """Sums of products with weights, and a bias for each channel.

    Attributes:
        weight: int8 [out_channels, ...].
        weight_bits: Width at which the weights are stored.
        bias: int32 [out_channels], in units of the accumulator.
    """

    weight: npt.NDArray[np.int8]
    weight_bits: int
    bias: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerConv2d(IntegerLayer):
    """Convolution with `weight` of shape [out_channels, in_channels / groups, kernel_height, kernel_width]."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLinear(IntegerLayer):
    """Matrix product with `weight` of shape [out_features, in_features]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerAvgPool2d(Accumulate):
    """Sums over windows; the division by their area is part of the multiplier, or of the model's unit."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerFloorAvgPool2d(Node):
    """`floor(sum / area)` over windows of values that are not negative, at the scale of the input: the published models' mean."""

    kernel: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerAdd(Node):
    """`clamp(round_half_even((a * multipliers[0] + b * multipliers[1]) / 2**shift), low, high)`, rounded once."""

    multipliers: Pair
    shift: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerRequantize(Node):
    """The same values at another scale, width, or clamp."""

    rescale: Rescale


def instructions() -> dict[str, type[Node]]:
    """The operations that only integer models have, by name."""
    return node_kinds(__package__)
