# SPDX-License-Identifier: MIT
"""A clamp (ReLU, ReLU6) becomes part of the operation before it, whose requantization clamps anyway."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Clamp, Node


def fuse_clamps(graph: Graph) -> tuple[Graph, bool]:
    """Fuse every clamp that is the only reader of a node that can clamp itself."""
    readers, kept = graph.consumers(), set(graph.returned)
    made: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph:
        node = node.reading(*(renamed.get(name, name) for name in node.inputs))
        source = made.get(node.inputs[0]) if node.inputs else None
        alone = source is not None and len(readers[source.name]) == 1 and source.name not in kept
        if isinstance(node, Clamp) and source is not None and hasattr(source, "bounds") and alone:
            bounds: dict[str, Any] = {
                "bounds": node.bounds if source.bounds is None else source.bounds.then(node.bounds)
            }
            made[source.name] = replace(source, **bounds)
            renamed[node.name] = source.name
            readers[source.name] = readers[node.name]
            kept |= {source.name} if node.name in kept else set()
        else:
            made[node.name] = node
    nodes = tuple(made.values())
    return graph.with_nodes(nodes, renamed), nodes != graph.nodes
