# SPDX-License-Identifier: MIT
"""Convolution, matrix product and batch norm: the operations with weights."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx

from bitwright.graph.aten.moves import padded
from bitwright.graph.aten.registry import arguments, constant, handles, optional_parameter, pair, parameter, tensor
from bitwright.graph.aten.views import permuted, reshaped
from bitwright.graph.builder import Builder, Constant, Parameter
from bitwright.graph.nodes import BatchNorm, Conv2d, Linear, Norm


def layer_name(builder: Builder, fx_node: fx.Node, weight: Any, operation: str) -> str:
    """That of the module which owns the weight; where the weight was computed, that of the module which uses it."""
    if isinstance(weight, Parameter):
        return builder.unique(weight.name.removesuffix(".weight"))
    return builder.unique(builder.module_path(fx_node) or operation)


@handles("conv2d")
def _conv2d(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    dilation = pair(given["dilation"])
    source = tensor(builder, fx_node, given["input"])
    if given["padding"] == "same":
        kernel = fx_node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
        rows, columns = ((int(taps) - 1) * step for taps, step in zip(kernel, dilation, strict=True))
        around = [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]
        source, padding = padded(builder, fx_node, source, around), (0, 0)
    else:
        padding = (0, 0) if given["padding"] == "valid" else pair(given["padding"])
    name = layer_name(builder, fx_node, given["weight"], "conv")
    return builder.add(
        Conv2d(
            name=name,
            inputs=(source,),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            weight=parameter(builder, fx_node, given["weight"], f"{name}.weight"),
            bias=optional_parameter(builder, fx_node, given["bias"], f"{name}.bias"),
            stride=pair(given["stride"]),
            padding=padding,
            dilation=dilation,
            groups=int(given["groups"]),
        )
    )


@handles("conv1d")
def _conv1d(builder: Builder, fx_node: fx.Node) -> str:
    """A convolution of images of one row."""
    given = arguments(builder, fx_node)
    channels, length = builder.shape_of(tensor(builder, fx_node, given["input"]))
    dilation, weight = int(given["dilation"][0]), constant(builder, fx_node, given["weight"])
    source = reshaped(builder, fx_node, given["input"], (channels, 1, length))
    padding = given["padding"] if isinstance(given["padding"], str) else int(given["padding"][0])
    if padding == "same":
        total = (weight.shape[2] - 1) * dilation
        source = padded(builder, fx_node, source, [total // 2, total - total // 2])
    name = layer_name(builder, fx_node, given["weight"], "conv")
    filters, made = builder.shape(fx_node)
    layer = Conv2d(
        name=name,
        inputs=(source,),
        shape=(filters, 1, made),
        place=builder.place(fx_node),
        weight=builder.keep(f"{name}.weight", weight.unsqueeze(2)),
        bias=optional_parameter(builder, fx_node, given["bias"], f"{name}.bias"),
        stride=(1, int(given["stride"][0])),
        padding=(0, padding if isinstance(padding, int) else 0),
        dilation=(1, dilation),
        groups=int(given["groups"]),
    )
    return reshaped(builder, fx_node, builder.add(layer), (filters, made))


@handles("linear")
def _linear(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _matrix_product(builder, fx_node, given["input"], given["weight"], given["bias"])


@handles("matmul", "mm")
def _matmul(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _matrix_product(builder, fx_node, given["self"], _transposed(builder, fx_node, given), None)


@handles("addmm")
def _addmm(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    weight, bias = _transposed(builder, fx_node, given), constant(builder, fx_node, given["self"])
    bias = (bias * given["beta"]).expand(weight.tensor.shape[:1])
    return _matrix_product(builder, fx_node, given["mat1"], Constant(weight.tensor * given["alpha"]), Constant(bias))


def _transposed(builder: Builder, fx_node: fx.Node, given: dict[str, Any]) -> Constant:
    """The second factor of a product, as the weight of a linear layer."""
    factor = given["other" if "other" in given else "mat2"]
    if isinstance(factor, str):
        raise builder.refuse(fx_node, "a matrix product of two activations, as attention computes it.")
    weight = constant(builder, fx_node, factor)
    if weight.dim() != 2:
        raise builder.refuse(fx_node, f"a matrix product with a constant of {weight.dim()} axes; two are known.")
    return Constant(weight.T)


def _matrix_product(builder: Builder, fx_node: fx.Node, source: Any, weight: Any, bias: Any) -> str:
    shape = builder.shape(fx_node)
    inputs = (tensor(builder, fx_node, source),)
    name = layer_name(builder, fx_node, weight, "linear")
    if len(shape) > 1:
        return _over_last_axis(builder, fx_node, inputs[0], constant(builder, fx_node, weight), bias, name)
    return builder.add(
        Linear(
            name=name,
            inputs=inputs,
            shape=shape,
            place=builder.place(fx_node),
            weight=parameter(builder, fx_node, weight, f"{name}.weight"),
            bias=optional_parameter(builder, fx_node, bias, f"{name}.bias"),
        )
    )


def _over_last_axis(builder: Builder, fx_node: fx.Node, source: str, weight: Tensor, bias: Any, name: str) -> str:
    """A matrix product over the last of several axes: a 1 x 1 convolution, where that axis comes first."""
    rank = len(builder.shape_of(source))
    first = permuted(builder, fx_node, source, (0, rank, *range(1, rank)))
    others = builder.shape_of(first)[1:]
    pixels = (prod(others[:-1]), others[-1])
    image = reshaped(builder, fx_node, first, (weight.shape[1], *pixels))
    made = builder.add(
        Conv2d(
            name=name,
            inputs=(image,),
            shape=(weight.shape[0], *pixels),
            place=builder.place(fx_node),
            weight=builder.keep(f"{name}.weight", weight[:, :, None, None]),
            bias=optional_parameter(builder, fx_node, bias, f"{name}.bias"),
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
        )
    )
    back = reshaped(builder, fx_node, made, (weight.shape[0], *others))
    return permuted(builder, fx_node, back, (0, *range(2, rank + 1), 1))


@handles("batch_norm")
def _batch_norm(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    if given["training"]:
        raise builder.refuse(fx_node, "it uses batch statistics in evaluation mode; give it running statistics.")
    source = tensor(builder, fx_node, given["input"])
    name = _norm_name(builder, fx_node, given["running_mean"])
    return builder.add(
        BatchNorm(
            name=name,
            inputs=(source,),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            norm=Norm(
                mean=parameter(builder, fx_node, given["running_mean"], f"{name}.running_mean"),
                variance=parameter(builder, fx_node, given["running_var"], f"{name}.running_var"),
                weight=optional_parameter(builder, fx_node, given["weight"], f"{name}.weight"),
                bias=optional_parameter(builder, fx_node, given["bias"], f"{name}.bias"),
                eps=float(given["eps"]),
            ),
        )
    )


def _norm_name(builder: Builder, fx_node: fx.Node, mean: Any) -> str:
    """The module's name; never that of a tensor, since a norm that becomes a layer keeps a weight below its name."""
    path, _, leaf = mean.name.rpartition(".") if isinstance(mean, Parameter) else ("", "", "")
    return builder.unique(path) if path and leaf == "running_mean" else builder.node_name(fx_node, "batch_norm")
