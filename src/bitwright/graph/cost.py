# SPDX-License-Identifier: MIT
"""What a network costs: parameters, multiply-accumulates (MACs), model size, bit operations (BOPs).

Conventions, chosen once and never bent to fit a published figure:

- size = sum over the weights of convolutions and matrix products of bits / 8; biases and scales are not counted.
- BOPs = sum of MACs * weight bits * activation bits (HAWQ-V3, arXiv:2011.10680, section 3.4).
- float rows count all parameters at 32 bits, and 32 * 32 bit operations for each MAC.
- MB is 2**20 bytes, G is 10**9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from math import prod

from bitwright.graph.float_model import statistic_names
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Conv2d, Linear, Node
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
        size_bytes: Of the weights (of all parameters, for float).
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


@singledispatch
def macs(node: Node, graph: Graph) -> int:
    """Multiply-accumulates of a node for one image; pooling and additions count as none."""
    return 0


@macs.register
def _(node: Conv2d, graph: Graph) -> int:
    return graph.parameters[node.weight].numel() * prod(node.shape[1:])


@macs.register
def _(node: Linear, graph: Graph) -> int:
    return graph.parameters[node.weight].numel()


def layer_costs(graph: Graph) -> dict[str, LayerCost]:
    """The counts of every layer, in execution order."""
    return {
        name: LayerCost(name, graph.parameters[node.weight].numel(), macs(node, graph))
        for name, node in graph.layers.items()
    }


def parameter_count(graph: Graph) -> int:
    """Trainable parameters of the float model: weights, biases, gains and offsets, without running statistics."""
    statistics = statistic_names(graph)
    made = {name for name in graph.parameters if name.endswith(".unit_weight")}
    return sum(tensor.numel() for name, tensor in graph.parameters.items() if name not in statistics | made)


def float_cost(graph: Graph) -> ModelCost:
    """Cost of the float32 model."""
    total = sum(cost.macs for cost in layer_costs(graph).values())
    return ModelCost(parameter_count(graph) * FLOAT_BITS / 8, total * FLOAT_BITS**2)


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
