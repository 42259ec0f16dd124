# SPDX-License-Identifier: MIT
"""Tensors that several layers read: what suits one of them need not suit the others."""

from __future__ import annotations

from collections import Counter

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Layer


def tensor_names(layer: Layer) -> tuple[str, ...]:
    """The names of all tensors that a layer reads."""
    norm = layer.norm
    own = (layer.weight, layer.bias)
    found = own if norm is None else (*own, norm.mean, norm.variance, norm.weight, norm.bias)
    return tuple(name for name in found if name is not None)


def shared(graph: Graph) -> frozenset[str]:
    """The names of tensors that more than one layer reads, or one layer in two places."""
    uses = Counter(name for layer in graph.layers.values() for name in tensor_names(layer))
    return frozenset(name for name, count in uses.items() if count > 1)
