# SPDX-License-Identifier: MIT
"""View, transpose, view: ShuffleNet's way to write a channel shuffle becomes one node."""

from __future__ import annotations

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import ChannelShuffle, Node, Permute, Reshape


def find_channel_shuffles(graph: Graph) -> tuple[Graph, bool]:
    """Replace (C, H, W) -> (G, C/G, H, W) -> (C/G, G, H, W) -> (C, H, W) by one ChannelShuffle of G groups."""
    by_name = {node.name: node for node in graph}
    readers = graph.consumers()
    replaced: dict[str, Node] = {}
    dropped: set[str] = set()
    for last in graph:
        if not isinstance(last, Reshape) or len(last.shape) != 3:
            continue
        middle = by_name[last.inputs[0]]
        if not isinstance(middle, Permute) or middle.axes != (0, 2, 1, 3, 4):
            continue
        first = by_name[middle.inputs[0]]
        if not isinstance(first, Reshape) or by_name[first.inputs[0]].shape != last.shape:
            continue
        if first.shape[2:] != last.shape[1:]:  # cuts images otherwise than between channels
            continue
        within = (first.name, middle.name)
        if any(len(readers[name]) != 1 or name in graph.returned for name in within):
            continue
        replaced[last.name] = ChannelShuffle(
            name=last.name, inputs=first.inputs, shape=last.shape, place=last.place, groups=first.shape[0]
        )
        dropped.update(within)
    nodes = tuple(replaced.get(node.name, node) for node in graph if node.name not in dropped)
    return graph.with_nodes(nodes), bool(replaced)
