# SPDX-License-Identifier: MIT
"""Views of another shape, whose values keep their order."""

from __future__ import annotations

from math import prod

from torch import fx

from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Flatten, Reshape, Transpose


def flatten_node(builder: Builder, fx_node: fx.Node, source: str, shape: tuple[int, ...]) -> str:
    """Add a Flatten of `source`, to (features,)."""
    return builder.add(
        Flatten(
            name=builder.node_name(fx_node, "flatten"),
            inputs=(source,),
            shape=shape,
            place=builder.place(fx_node),
        )
    )


def reshaped(builder: Builder, fx_node: fx.Node, source: str, after: tuple[int, ...]) -> str:
    """Add a view of another shape, of what a chain of views started from; nothing where that has the shape already."""
    origin, before = unshaped(builder, source)
    if prod(before) != prod(after):
        raise builder.refuse(fx_node, f"a reshape from {before} to {after}, which mixes the images of a batch.")
    if before == after:
        return origin
    if len(after) == 1 and len(before) == 3:
        return flatten_node(builder, fx_node, origin, after)
    return builder.add(
        Reshape(name=builder.node_name(fx_node, "reshape"), inputs=(origin,), shape=after, place=builder.place(fx_node))
    )


def unshaped(builder: Builder, source: str) -> tuple[str, tuple[int, ...]]:
    """The tensor that a chain of reshapes starts from, and its shape: the order of values stays, so one is enough."""
    by_name = {node.name: node for node in builder.nodes}
    node = by_name[source]
    while isinstance(node, Reshape | Flatten) and not isinstance(by_name[node.inputs[0]], Transpose):
        node = by_name[node.inputs[0]]
    return node.name, node.shape


def behind_view(builder: Builder, source: str, axis: int) -> tuple[str, int] | None:
    """The tensor of three axes that a view only took axes of one place from, and the same axis there, if there is one."""
    origin, before = unshaped(builder, source)
    after = builder.shape_of(source)
    if origin == source or not axis or after[axis - 1] == 1 or len(before) != 3:
        return None
    long = [place for place, size in enumerate(before, 1) if size > 1]
    kept = [place for place, size in enumerate(after, 1) if size > 1]
    if [before[place - 1] for place in long] != [after[place - 1] for place in kept]:
        return None
    return origin, long[kept.index(axis)]
