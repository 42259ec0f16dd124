# SPDX-License-Identifier: MIT
"""A softmax that ends a network, or one of its outputs, is left out of its integers: the largest logit stays the largest."""

from __future__ import annotations

import warnings

from bitwright.errors import BitwrightWarning
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Probabilities


def without_probabilities(graph: Graph) -> Graph:
    """The graph whose outputs are logits; a `BitwrightWarning` says what was left out."""
    left_out = {node.name: node.inputs[0] for node in graph if isinstance(node, Probabilities)}
    for last in (graph[name] for name in left_out):
        assert isinstance(last, Probabilities)
        name = "log_softmax" if last.logarithm else "softmax"
        warnings.warn(
            f"{graph.model} ends in {name} ({last.place}): it is left out, and the network returns logits, whose order is the "
            "same. Losses such as cross-entropy take logits.",
            BitwrightWarning,
            stacklevel=4,
        )
    return graph.with_nodes(tuple(node for node in graph if node.name not in left_out), left_out)
