# SPDX-License-Identifier: MIT
"""Convolution, matrix product and batch norm: the operations with weights."""

from __future__ import annotations

from torch import fx

from bitwright.graph.aten.registry import arguments, handles, optional_parameter, pair, parameter, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import BatchNorm, Conv2d, Linear, Norm, Pair


@handles("conv2d")
def _conv2d(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    weight = parameter(builder, fx_node, given["weight"])
    dilation = pair(given["dilation"])
    if isinstance(given["padding"], str):
        padding = _named_padding(builder, fx_node, given["padding"], dilation)
    else:
        padding = pair(given["padding"])
    return builder.add(
        Conv2d(
            name=builder.unique(weight.removesuffix(".weight")),
            inputs=(tensor(builder, fx_node, given["input"]),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            weight=weight,
            bias=optional_parameter(builder, fx_node, given["bias"]),
            stride=pair(given["stride"]),
            padding=padding,
            dilation=dilation,
            groups=int(given["groups"]),
        )
    )


def _named_padding(builder: Builder, fx_node: fx.Node, padding: str, dilation: Pair) -> Pair:
    if padding == "valid":
        return (0, 0)
    kernel = fx_node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    total = [(int(size) - 1) * step for size, step in zip(kernel, dilation, strict=True)]
    if any(size % 2 for size in total):
        raise builder.refuse(fx_node, "padding 'same' with an even kernel pads one side more than the other.")
    return (total[0] // 2, total[1] // 2)


@handles("linear")
def _linear(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    weight = parameter(builder, fx_node, given["weight"])
    shape = builder.shape(fx_node)
    if len(shape) != 1:
        raise builder.refuse(fx_node, f"a matrix product of more than (batch, features), here {('batch', *shape)}.")
    return builder.add(
        Linear(
            name=builder.unique(weight.removesuffix(".weight")),
            inputs=(tensor(builder, fx_node, given["input"]),),
            shape=shape,
            place=builder.place(fx_node),
            weight=weight,
            bias=optional_parameter(builder, fx_node, given["bias"]),
        )
    )


@handles("batch_norm")
def _batch_norm(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    if given["training"]:
        raise builder.refuse(fx_node, "it uses batch statistics in evaluation mode; give it running statistics.")
    mean = parameter(builder, fx_node, given["running_mean"])
    norm = Norm(
        mean=mean,
        variance=parameter(builder, fx_node, given["running_var"]),
        weight=optional_parameter(builder, fx_node, given["weight"]),
        bias=optional_parameter(builder, fx_node, given["bias"]),
        eps=float(given["eps"]),
    )
    return builder.add(
        BatchNorm(
            name=_norm_name(builder, fx_node, mean),
            inputs=(tensor(builder, fx_node, given["input"]),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            norm=norm,
        )
    )


def _norm_name(builder: Builder, fx_node: fx.Node, mean: str) -> str:
    """The module's name; never that of a tensor, since a norm that becomes a layer keeps a weight below its name."""
    path, _, leaf = mean.rpartition(".")
    return builder.unique(path) if path and leaf == "running_mean" else builder.node_name(fx_node, "batch_norm")
