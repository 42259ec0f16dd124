# SPDX-License-Identifier: MIT
"""Zeros around an image become the padding of the convolution or average pool that reads them, where both sides have as many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import AvgPool2d, Conv2d, Node, Pad


def fuse_pads(graph: Graph) -> tuple[Graph, bool]:
    """Let every reader that can pad by itself read what the pad reads; a pad that nothing reads any more goes."""
    pads = {node.name: node for node in graph if isinstance(node, Pad) and _is_even(node)}
    made = [_padding_itself(node, pads) for node in graph]
    read = {name for node in made for name in node.inputs} | graph.returned
    nodes = tuple(node for node in made if node.name not in pads or node.name in read)
    return graph.with_nodes(nodes), nodes != graph.nodes


def _is_even(pad: Pad) -> bool:
    """Whether there are as many zeros on opposite sides, and none around the channels."""
    return pad.before == pad.after and pad.before[0] == 0


def _padding_itself(node: Node, pads: Mapping[str, Pad]) -> Node:
    """What reads one of the pads, with more padding; a pool may pad at most half its window."""
    if not isinstance(node, Conv2d | AvgPool2d) or node.inputs[0] not in pads:
        return node
    pad = pads[node.inputs[0]]
    padding = (node.padding[0] + pad.before[1], node.padding[1] + pad.before[2])
    if isinstance(node, AvgPool2d) and any(2 * size > taps for size, taps in zip(padding, node.kernel, strict=True)):
        return node
    return replace(node, inputs=pad.inputs, padding=padding)
