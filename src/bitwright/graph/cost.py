# SPDX-License-Identifier: MIT
"""The counts of a network that its cost is made of: parameters, weights and multiply-accumulates (MACs)."""

from __future__ import annotations

from functools import singledispatch
from math import prod

from bitwright.cost import LayerCost, ModelCost, float_cost_of
from bitwright.graph.float_model import statistic_names
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    BatchNorm,
    Bytewise,
    Clamp,
    Concat,
    Conv2d,
    Input,
    Linear,
    Node,
    Requantize,
    Selection,
)


@singledispatch
def macs(node: Node, graph: Graph) -> int:
    """Multiply-accumulates of a node for one image; pooling, and what computes single elements, count as none."""
    raise NotImplementedError(f"no count of {type(node).__name__}")


@macs.register
def _(
    node: Input | BatchNorm | Bytewise | Clamp | Add | AvgPool2d | Concat | Selection | Requantize, graph: Graph
) -> int:
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
    return float_cost_of(parameter_count(graph), layer_costs(graph))
