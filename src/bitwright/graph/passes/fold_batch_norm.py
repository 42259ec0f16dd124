# SPDX-License-Identifier: MIT
"""Batch norm becomes part of the layer before it, or a depthwise 1 x 1 convolution where there is none."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bitwright.graph.evaluate import norm_affine
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Affine, BatchNorm, DepthToSpace, Layer, Node, Take
from bitwright.graph.passes.absorb_affine import depthwise
from bitwright.graph.passes.fresh import fresh


def fold_batch_norm(graph: Graph) -> tuple[Graph, bool]:
    """Fold every batch norm whose layer nothing else reads; make the others layers of their own.

    The layer keeps its weight and the names of the norm's tensors: training goes on with them, and `folded_weight`
    gives the product. A norm after anything else (DenseNet's, after a concatenation) is `x * gain + offset` for each
    channel: a depthwise convolution with a 1 x 1 weight of ones and that norm, so it gets bits, an accumulator and a
    certificate like every layer.
    """
    readers = graph.consumers()
    made: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    parameters = dict(graph.parameters)
    for node in graph:
        node = node.reading(*(renamed.get(name, name) for name in node.inputs))
        if not isinstance(node, BatchNorm):
            made[node.name] = node
            continue
        source = made.get(node.inputs[0])
        alone = source is not None and len(readers[source.name]) == 1 and source.name not in graph.returned
        if isinstance(source, Layer) and source.norm is None and source.bounds is None and alone:
            made[source.name] = replace(source, norm=node.norm)
            renamed[node.name] = source.name
        elif len(node.shape) == 1 or (isinstance(source, DepthToSpace | Take) and alone):
            made[node.name] = _affine(node, parameters)
        elif len(node.shape) == 3:
            weight = fresh(parameters, f"{node.name}.unit_weight")
            parameters[weight] = torch.ones(node.shape[0], 1, 1, 1, device=parameters[node.norm.mean].device)
            made[node.name] = replace(depthwise(node, weight, None), norm=node.norm)
        else:
            made[node.name] = node
    nodes = tuple(made.values())
    return replace(graph.with_nodes(nodes, renamed), parameters=parameters), nodes != graph.nodes


def _affine(node: BatchNorm, parameters: dict[str, Tensor]) -> Affine:
    """A norm as a map by constants, whose tensors join the parameters: the layer before a move can take it."""
    names = fresh(parameters, f"{node.name}.gain"), fresh(parameters, f"{node.name}.offset")
    parameters |= dict(zip(names, norm_affine(node.norm, parameters), strict=True))
    return Affine(
        name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, gain=names[0], offset=names[1]
    )
