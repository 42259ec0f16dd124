# SPDX-License-Identifier: MIT
"""A softmax that ends a network is left out of its integers: the largest logit stays the largest."""

from __future__ import annotations

import warnings

from bitwright.errors import BitwrightWarning
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Probabilities


def without_probabilities(graph: Graph) -> Graph:
    """The graph that ends in logits; a `BitwrightWarning` says what was left out."""
    last = graph[graph.output]
    if not isinstance(last, Probabilities):
        return graph
    name = "log_softmax" if last.logarithm else "softmax"
    warnings.warn(
        f"{graph.model} ends in {name} ({last.place}): it is left out, and the network returns logits, whose order is the same. "
        "Losses such as cross-entropy take logits.",
        BitwrightWarning,
        stacklevel=4,
    )
    nodes = tuple(node for node in graph if node is not last)
    return graph.with_nodes(nodes, last.inputs[0])
