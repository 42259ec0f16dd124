# SPDX-License-Identifier: MIT
"""What counts of weights and multiply-accumulates (MACs) cost at some precision: model size, bit operations (BOPs).

Conventions, chosen once and never bent to fit a published figure:

- size = sum over the weights of convolutions and matrix products of bits / 8; biases and scales are not counted.
- BOPs = sum of MACs * weight bits * activation bits (HAWQ-V3, arXiv:2011.10680, section 3.4).
- float rows count all parameters at 32 bits, and 32 * 32 bit operations for each MAC.
- MB is 2**20 bytes, G is 10**9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.scheme import Precision, Scheme

BYTES_PER_MB = 2**20
FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerCost:
    """Counts of one layer, per image.

    Attributes:
        layer: Its name.
        weights: Number of weights, without bias.
        macs: Multiply-accumulates.
    """

    layer: str
    weights: int
    macs: int

    def size_bytes(self, precision: Precision) -> float:
        return self.weights * precision.weight_bits / 8

    def bops(self, precision: Precision) -> int:
        return self.macs * precision.weight_bits * precision.act_bits


@dataclass(frozen=True)
class ModelCost:
    """Size and bit operations of a whole network at some precision.

    Attributes:
        size_bytes: The size of the weights (of all parameters, for float).
        bops: Bit operations for one image.
    """

    size_bytes: float
    bops: int

    @property
    def size_mb(self) -> float:
        return self.size_bytes / BYTES_PER_MB

    @property
    def bops_g(self) -> float:
        return self.bops / 1e9


def scheme_cost(costs: Mapping[str, LayerCost], scheme: Scheme) -> ModelCost:
    """Cost of the integer model under a scheme.

    Raises:
        SchemeError: If the scheme and the costs name different layers.
    """
    scheme.check(costs)
    pairs = [(cost, scheme.layers[layer]) for layer, cost in costs.items()]
    return ModelCost(
        sum(cost.size_bytes(precision) for cost, precision in pairs),
        sum(cost.bops(precision) for cost, precision in pairs),
    )


def float_cost_of(parameters: int, costs: Mapping[str, LayerCost]) -> ModelCost:
    """Cost of a float32 model with so many parameters and these layers."""
    return ModelCost(parameters * FLOAT_BITS / 8, sum(cost.macs for cost in costs.values()) * FLOAT_BITS**2)
