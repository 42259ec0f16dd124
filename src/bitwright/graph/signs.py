# SPDX-License-Identifier: MIT
"""Which tensors can hold negative values: a fact of the graph, not of the data or of bit widths."""

from __future__ import annotations

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Bounds, Input, Layer


def negative_tensors(graph: Graph) -> dict[str, bool]:
    """For each tensor, whether it can be negative: images and layers can, unless a clamp stops them."""
    negative: dict[str, bool] = {}
    for node in graph:
        bounds: Bounds | None = getattr(node, "bounds", None)
        can = isinstance(node, Input | Layer) or any(negative[name] for name in node.inputs)
        negative[node.name] = can and not (bounds is not None and bounds.non_negative)
    return negative
