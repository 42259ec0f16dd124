# SPDX-License-Identifier: MIT
"""Float execution of a whole graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from bitwright.graph.evaluate import Tensors, clamp, convolve, float_result, folded_weight
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Input, Layer, Node
from bitwright.returned import Returned, returned

Linearity = Callable[[Layer, Tensor, Tensor, Tensor | None], Tensor]


def execute(
    graph: Graph,
    parameters: Tensors,
    images: Tensor,
    *,
    weights: Mapping[str, tuple[Tensor, Tensor | None]] | None = None,
    observe: Callable[[Node, Tensor], None] | None = None,
    linear: Linearity | None = None,
) -> Returned:
    """Run `graph` in float.

    Args:
        graph: The network.
        parameters: Tensors by name.
        images: Shape (batch, channels, height, width).
        weights: Folded weight and bias by layer, where they should replace those that `parameters` give.
        observe: Called with every node and its result.
        linear: Computes the linear part of every layer in place of `convolve`, with the same arguments.

    Returns:
        The network's output, of shape (batch, classes) for a classifier; or its outputs by name.
    """
    remaining = {name: len(readers) for name, readers in graph.consumers().items()}
    for tensor in graph.returned:
        remaining[tensor] += 1
    values: dict[str, Tensor] = {}
    for node in graph:
        inputs = [images] if isinstance(node, Input) else [values[name] for name in node.inputs]
        if isinstance(node, Layer):
            weight, bias = weights[node.name] if weights is not None else folded_weight(node, parameters)
            values[node.name] = clamp((linear or convolve)(node, inputs[0], weight, bias), node.bounds)
        else:
            values[node.name] = float_result(node, inputs, parameters)
        if observe is not None:
            observe(node, values[node.name])
        for name in node.inputs:
            remaining[name] -= 1
            if remaining[name] == 0:
                del values[name]
    return returned({name: values[tensor] for name, tensor in graph.outputs.items()})
