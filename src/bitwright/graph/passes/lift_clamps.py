# SPDX-License-Identifier: MIT
"""A clamp goes before a node that only selects values, and so to the layer that can fuse it."""

from __future__ import annotations

from dataclasses import replace

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Clamp, Node, Pad, Selection


def lift_clamps(graph: Graph) -> tuple[Graph, bool]:
    """Swap a clamp with the selection that it alone reads; each keeps its name, so readers of the clamp read the selection."""
    readers, by_name = graph.consumers(), {node.name: node for node in graph}
    for clamp in graph:
        source = by_name[clamp.inputs[0]] if isinstance(clamp, Clamp) else None
        if not (isinstance(clamp, Clamp) and isinstance(source, Selection)) or source.name in graph.returned:
            continue
        if len(readers[source.name]) > 1 or (isinstance(source, Pad) and clamp.bounds.clamp(0.0) != 0):
            continue
        lifted = replace(clamp, inputs=source.inputs, shape=by_name[source.inputs[0]].shape)
        swapped: dict[str, tuple[Node, ...]] = {source.name: (lifted, source.reading(clamp.name)), clamp.name: ()}

        renamed = {clamp.name: source.name}
        others = {node.name: node.reading(*(renamed.get(name, name) for name in node.inputs)) for node in graph}
        nodes = tuple(made for node in graph for made in swapped.get(node.name, (others[node.name],)))
        return graph.with_nodes(nodes, renamed), True
    return graph, False
