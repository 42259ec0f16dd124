# SPDX-License-Identifier: MIT
"""Views of another shape and order of axes, and how operations see through them.

All that computes works on images (channels, height, width) or on features. A tensor of other axes is a *view* of an image: its
leading axes are that image's channels together, the one or two behind them its rows and columns. What an operation makes of the
image is viewed in the same way again, and where views meet, passes join them: nothing is left but what moves values.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import fx

from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Flatten, Permute, Reshape


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


def permuted(builder: Builder, fx_node: fx.Node, source: str, axes: tuple[int, ...]) -> str:
    """Add a view with the axes in another order, all counted with the batch; nothing where the order is the same."""
    if axes[0] != 0:
        raise builder.refuse(fx_node, "it moves the axis of the batch, which stays the first.")
    if axes == tuple(sorted(axes)):
        return source
    shape = builder.shape_of(source)
    return builder.add(
        Permute(
            name=builder.node_name(fx_node, "permute"),
            inputs=(source,),
            shape=tuple(shape[axis - 1] for axis in axes[1:]),
            place=builder.place(fx_node),
            axes=axes,
        )
    )


def unshaped(builder: Builder, source: str) -> tuple[str, tuple[int, ...]]:
    """The tensor that a chain of reshapes starts from, and its shape: the order of values stays, so one is enough."""
    by_name = {node.name: node for node in builder.nodes}
    node = by_name[source]
    while isinstance(node, Reshape | Flatten) and not isinstance(by_name[node.inputs[0]], Permute):
        node = by_name[node.inputs[0]]
    return node.name, node.shape


def leading(builder: Builder, source: str) -> int:
    """How many of the axes of a tensor are the channels of the image that it is a view of; all, where that has one pixel."""
    shape = builder.shape_of(source)
    origin, before = unshaped(builder, source)
    if origin != source and prod(before[1:]) == 1:
        return len(shape)
    return max(1, len(shape) - 2)


def as_image(builder: Builder, fx_node: fx.Node, source: str, channels: int) -> str:
    """The image of three axes that a tensor is a view of, where so many axes are its channels."""
    shape = builder.shape_of(source)
    pixels = shape[channels:]
    return reshaped(builder, fx_node, source, (prod(shape[:channels]), *[1] * (2 - len(pixels)), *pixels))


def on_image(builder: Builder, fx_node: fx.Node, source: str, function: Callable[[str], str]) -> str:
    """What computes each element by itself, of an image, of features, or of a view of these, which its result is as well."""
    if is_plain(builder, source):
        return function(source)
    image = as_image(builder, fx_node, source, leading(builder, source))
    return reshaped(builder, fx_node, function(image), builder.shape_of(source))


def is_plain(builder: Builder, source: str) -> bool:
    """Whether a tensor is an image or a vector of features, which need no other view."""
    return len(builder.shape_of(source)) in (1, 3)


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
