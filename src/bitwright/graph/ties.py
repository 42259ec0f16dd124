# SPDX-License-Identifier: MIT
"""Which layers share their activation bits, because they read one tensor."""

from __future__ import annotations

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Input, Layer, Selection


def ties(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more layers that read the same quantized tensor, as a ResNet's downsample and its neighbour.

    A tensor that was only selected or moved (max pooling, flattening, …) counts as the tensor it was taken from.
    """
    by_name = {node.name: node for node in graph}
    groups: dict[str, list[str]] = {}
    for node in graph:
        if not isinstance(node, Layer):
            continue
        source = by_name[node.inputs[0]]
        while isinstance(source, Selection):
            source = by_name[source.inputs[0]]
        if not isinstance(source, Input):
            groups.setdefault(source.name, []).append(node.name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
