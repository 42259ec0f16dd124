# SPDX-License-Identifier: MIT
"""Views, splits and shuffles: operations that only move values."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import fx

from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import ChannelShuffle, Flatten, Reshape, Slice, Transpose


def flatten_node(builder: Builder, fx_node: fx.Node, source: str) -> str:
    """Add a Flatten of `source`."""
    return builder.add(
        Flatten(
            name=builder.node_name(fx_node, "flatten"),
            inputs=(source,),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
        )
    )


@handles("view", "reshape", "flatten", "squeeze", "unsqueeze", "_unsafe_view")
def _view(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source, before = _unshaped(builder, tensor(builder, fx_node, given["self"]))
    after = builder.shape(fx_node)
    if prod(before) != prod(after):
        raise builder.refuse(fx_node, f"a reshape from {before} to {after}, which mixes the images of a batch.")
    if before == after:
        return source
    if len(after) == 1 and len(before) == 3:
        return flatten_node(builder, fx_node, source)
    return builder.add(
        Reshape(name=builder.node_name(fx_node, "reshape"), inputs=(source,), shape=after, place=builder.place(fx_node))
    )


def _unshaped(builder: Builder, source: str) -> tuple[str, tuple[int, ...]]:
    """The tensor that a chain of reshapes starts from, and its shape: the order of values stays, so one is enough."""
    by_name = {node.name: node for node in builder.nodes}
    node = by_name[source]
    while isinstance(node, Reshape | Flatten) and not isinstance(by_name[node.inputs[0]], Transpose):
        node = by_name[node.inputs[0]]
    return node.name, node.shape


@handles("transpose")
def _transpose(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    rank = len(builder.shape(fx_node)) + 1
    return builder.add(
        Transpose(
            name=builder.node_name(fx_node, "transpose"),
            inputs=(tensor(builder, fx_node, given["self"]),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            axes=(int(given["dim0"]) % rank, int(given["dim1"]) % rank),
        )
    )


@handles("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "type_as")
def _same(builder: Builder, fx_node: fx.Node) -> str:
    return tensor(builder, fx_node, arguments(builder, fx_node)["self"])


@handles("to", "_to_copy")
def _cast(builder: Builder, fx_node: fx.Node) -> str:
    made = fx_node.meta["val"].dtype
    if not made.is_floating_point:
        raise builder.refuse(
            fx_node, f"a cast to {made}; the network is computed in real numbers until it is quantized."
        )
    return tensor(builder, fx_node, arguments(builder, fx_node)["self"])


@handles("chunk", "split", "split_with_sizes")
def _chunk(builder: Builder, fx_node: fx.Node) -> list[str]:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self" if "self" in given else "tensor"])
    if given["dim"] not in (1, -3):
        raise builder.refuse(fx_node, f"a split along axis {given['dim']}; only channels (1) are known.")
    made, start = [], 0
    for part in fx_node.meta["val"]:
        shape = tuple(int(axis) for axis in part.shape[1:])
        made.append(
            builder.add(
                Slice(
                    name=builder.node_name(fx_node, "slice"),
                    inputs=(source,),
                    shape=shape,
                    place=builder.place(fx_node),
                    start=start,
                    stop=start + shape[0],
                )
            )
        )
        start += shape[0]
    return made


@handles("getitem")
def _getitem(builder: Builder, fx_node: fx.Node) -> Any:
    source, index = fx_node.args[:2]
    return builder.values[source][index]  # type: ignore[index]


@handles("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return builder.add(
        ChannelShuffle(
            name=builder.node_name(fx_node, "channel_shuffle"),
            inputs=(tensor(builder, fx_node, given["self"]),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            groups=int(given["groups"]),
        )
    )
