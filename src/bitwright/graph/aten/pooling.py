# SPDX-License-Identifier: MIT
"""Maximum and average pooling, in all the ways they are written."""

from __future__ import annotations

from typing import Any

from torch import fx

from bitwright.graph.aten.registry import arguments, handles, pair, tensor
from bitwright.graph.aten.views import flatten_node
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import AvgPool2d, MaxPool2d, Pair


@handles("max_pool2d")
def _max_pool2d(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    kernel = pair(given["kernel_size"])
    return builder.add(
        MaxPool2d(
            name=builder.node_name(fx_node, "max_pool"),
            inputs=(tensor(builder, fx_node, given["self"]),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            kernel=kernel,
            stride=pair(given["stride"]) if given["stride"] else kernel,
            padding=pair(given["padding"]),
            dilation=pair(given["dilation"]),
            ceil_mode=bool(given["ceil_mode"]),
        )
    )


def _average(builder: Builder, fx_node: fx.Node, source: Any, kernel: Pair, stride: Pair, padding: Pair) -> str:
    name, value = tensor(builder, fx_node, source), fx_node.args[0].meta["val"]  # type: ignore[union-attr]
    size = [int(axis) for axis in value.shape[2:]]
    made = [(size[axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in range(2)]
    return builder.add(
        AvgPool2d(
            name=builder.node_name(fx_node, "avg_pool"),
            inputs=(name,),
            shape=(int(value.shape[1]), *made),
            place=builder.place(fx_node),
            kernel=kernel,
            stride=stride,
            padding=padding,
        )
    )


@handles("avg_pool2d")
def _avg_pool2d(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    kernel, padding = pair(given["kernel_size"]), pair(given["padding"])
    if given["divisor_override"] is not None:
        raise builder.refuse(fx_node, "an average with divisor_override.")
    if padding != (0, 0) and not given["count_include_pad"]:
        raise builder.refuse(
            fx_node, "an average that does not count its padding has no constant area; set count_include_pad=True."
        )
    stride = pair(given["stride"]) if given["stride"] else kernel
    name = _average(builder, fx_node, given["self"], kernel, stride, padding)
    if builder.nodes[-1].shape != builder.shape(fx_node):
        raise builder.refuse(fx_node, "an average with ceil_mode whose last window leaves the image.")
    return name


@handles("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = fx_node.args[0].meta["val"].shape[2:]  # type: ignore[union-attr]
    size, made = [int(axis) for axis in source], builder.shape(fx_node)[1:]
    if any(axis % out for axis, out in zip(size, made, strict=True)):
        raise builder.refuse(fx_node, f"adaptive pooling from {tuple(size)} to {made}, whose windows differ in area.")
    kernel = (size[0] // made[0], size[1] // made[1])
    if kernel == (1, 1):
        return tensor(builder, fx_node, given["self"])
    return _average(builder, fx_node, given["self"], kernel, kernel, (0, 0))


@handles("mean")
def _mean(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = fx_node.args[0].meta["val"]  # type: ignore[union-attr]
    axes = sorted(int(axis) % source.dim() for axis in given["dim"] or [])
    if source.dim() != 4 or axes != [2, 3]:
        raise builder.refuse(fx_node, f"a mean over axes {given['dim']}; only height and width are known.")
    kernel = (int(source.shape[2]), int(source.shape[3]))
    name = _average(builder, fx_node, given["self"], kernel, kernel, (0, 0))
    return name if given["keepdim"] else flatten_node(builder, fx_node, name, builder.shape(fx_node))
