# SPDX-License-Identifier: MIT
"""A softmax or sigmoid that ends a network, or one of its outputs, is left out of its integers: logits have the same order."""

from __future__ import annotations

import warnings

from bitwright.errors import BitwrightWarning
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Node, Probabilities
from bitwright.graph.operations.table import Table

_CLASSES = "Losses such as cross-entropy take logits."
_EACH = "A probability above 1/2 is a logit above 0; losses such as binary cross-entropy with logits take them."


def without_probabilities(graph: Graph) -> Graph:
    """The graph whose outputs are logits; a `BitwrightWarning` says what was left out."""
    readers = graph.consumers()
    left_out: dict[str, str] = {}
    for node in graph:
        named = None if readers[node.name] or node.name not in graph.returned else _named(node)
        if named is not None:
            left_out[node.name] = node.inputs[0]
            warnings.warn(
                f"{graph.model} ends in {named[0]} ({node.place}): it is left out, and the network returns logits, whose order "
                f"is the same. {named[1]} `bitwright export --tail {named[0]}` computes it behind the integers, in float.",
                BitwrightWarning,
                stacklevel=4,
            )
    return graph.with_nodes(tuple(node for node in graph if node.name not in left_out), left_out)


def _named(node: Node) -> tuple[str, str] | None:
    """What a node that makes probabilities is called, and what is said of its logits."""
    if isinstance(node, Probabilities):
        return ("log_softmax" if node.logarithm else "softmax"), _CLASSES
    if isinstance(node, Table) and node.program == ("x", "sigmoid"):
        return "sigmoid", _EACH
    return None
