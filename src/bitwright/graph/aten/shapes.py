# SPDX-License-Identifier: MIT
"""Views, permutations, casts and shuffles of channels."""

from __future__ import annotations

import torch
from torch import fx

from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.aten.views import permuted, reshaped
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import ChannelShuffle


@handles("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten", "_unsafe_view")
def _view(builder: Builder, fx_node: fx.Node) -> str:
    source = tensor(builder, fx_node, arguments(builder, fx_node)["self"])
    return reshaped(builder, fx_node, source, builder.shape(fx_node))


@handles("transpose", "permute", "movedim", "swapaxes", "swapdims")
def _permute(builder: Builder, fx_node: fx.Node) -> str:
    source = tensor(builder, fx_node, arguments(builder, fx_node)["self"])
    # Of a tensor whose sizes are all different, the result tells where each axis went.
    sizes = range(len(builder.shape(fx_node)) + 1)
    moved = fx_node.target(torch.empty(list(sizes), device="meta"), *fx_node.args[1:], **fx_node.kwargs)  # type: ignore[operator]
    return permuted(builder, fx_node, source, tuple(moved.shape))


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
