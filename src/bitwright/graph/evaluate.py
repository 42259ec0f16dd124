# SPDX-License-Identifier: MIT
"""What each node computes in float: every quantized form is compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.nodes import (
    Add,
    Affine,
    AvgPool2d,
    BatchNorm,
    Bounds,
    ChannelShuffle,
    Clamp,
    Concat,
    Conv2d,
    DepthToSpace,
    Dropout,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2d,
    Node,
    Norm,
    Pad,
    Probabilities,
    Rearrange,
    Requantize,
    Selection,
    Slice,
    Take,
)

Tensors = Mapping[str, Tensor]


def folded_weight(node: Layer, parameters: Tensors) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer with its batch norm folded in.

    With gain g, offset b, mean m and variance v, `g (Wx + c - m) / sqrt(v + eps) + b` is a convolution with weight
    `W g / sqrt(v + eps)` and bias `(c - m) g / sqrt(v + eps) + b`.

    Returns:
        The weight, shaped as the layer's, and the bias of shape (out_channels,), or None where there is none.
    """
    weight = parameters[node.weight]
    bias = None if node.bias is None else parameters[node.bias]
    if node.norm is None:
        return weight, bias
    gain, offset = norm_affine(node.norm, parameters)
    folded = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    return folded, offset if bias is None else offset + bias * gain


def norm_affine(norm: Norm, parameters: Tensors) -> tuple[Tensor, Tensor]:
    """Gain and offset, each of shape (channels,), of batch norm with its running statistics."""
    gain = torch.rsqrt(parameters[norm.variance] + norm.eps)
    if norm.weight is not None:
        gain = gain * parameters[norm.weight]
    offset = -parameters[norm.mean] * gain
    if norm.bias is not None:
        offset = offset + parameters[norm.bias]
    return gain, offset


@singledispatch
def convolve(node: Node, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear part of a layer."""
    raise NotImplementedError(f"{type(node).__name__} is no layer")


@convolve.register
def _(node: Conv2d, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(values, weight, bias, node.stride, node.padding, node.dilation, node.groups)


@convolve.register
def _(node: Linear, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(values, weight, bias)


def clamp(values: Tensor, bounds: Bounds | None) -> Tensor:
    """Apply a fused clamp; ReLU keeps its own kernel, whose gradient at zero is zero."""
    if bounds is None or (bounds.minimum is None and bounds.maximum is None):
        return values
    if bounds == Bounds(0.0):
        return F.relu(values)
    return values.clamp(bounds.minimum, bounds.maximum)


@singledispatch
def float_result(node: Node, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    """The result of a node.

    Args:
        node: The operation.
        inputs: What it reads, in order; the images for an `Input`.
        parameters: Tensors by name.
    """
    raise NotImplementedError(f"no float form of {type(node).__name__}")


@float_result.register(Conv2d)
@float_result.register(Linear)
def _(node: Layer, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return clamp(convolve(node, inputs[0], *folded_weight(node, parameters)), node.bounds)


@float_result.register(Input)
@float_result.register(Requantize)
def _(node: Node, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return inputs[0]


@float_result.register
def _(node: BatchNorm, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    gain, offset = norm_affine(node.norm, parameters)
    shape = (-1, *[1] * (inputs[0].dim() - 2))
    return inputs[0] * gain.reshape(shape) + offset.reshape(shape)


@float_result.register
def _(node: Affine, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    shape = (-1, *[1] * (inputs[0].dim() - 2))
    return inputs[0] * parameters[node.gain].reshape(shape) + parameters[node.offset].reshape(shape)


@float_result.register
def _(node: Probabilities, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return F.log_softmax(inputs[0], 1) if node.logarithm else F.softmax(inputs[0], 1)


@float_result.register
def _(node: Clamp, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return clamp(inputs[0], node.bounds)


@float_result.register
def _(node: Add, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return clamp(inputs[0] + inputs[1], node.bounds)


@float_result.register
def _(node: Concat, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return torch.cat(inputs, 1)


@float_result.register
def _(node: AvgPool2d, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return F.avg_pool2d(inputs[0], node.kernel, node.stride, node.padding)


@float_result.register
def _(node: Selection, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return select(node, inputs[0])


@singledispatch
def select(node: Selection, values: Tensor) -> Tensor:
    """The result of a node that makes only values that it reads: the same in float and in integers."""
    raise NotImplementedError(f"{type(node).__name__} selects in no known way")


@select.register
def _(node: MaxPool2d, values: Tensor) -> Tensor:
    return F.max_pool2d(values, node.kernel, node.stride, node.padding, node.dilation, node.ceil_mode)


@select.register
def _(node: Flatten, values: Tensor) -> Tensor:
    return values.flatten(1)


@select.register
def _(node: Dropout, values: Tensor) -> Tensor:
    return values


@select.register
def _(node: Slice, values: Tensor) -> Tensor:
    return values[:, node.start : node.stop]


@select.register
def _(node: ChannelShuffle, values: Tensor) -> Tensor:
    batch, channels, height, width = values.shape
    grouped = values.reshape(batch, node.groups, channels // node.groups, height, width)
    return grouped.transpose(1, 2).reshape(batch, channels, height, width)


@select.register
def _(node: Take, values: Tensor) -> Tensor:
    if min(node.places) < 0 or max(node.places) >= values.shape[node.axis]:
        raise ValueError(f"places {min(node.places)} to {max(node.places)} of {values.shape[node.axis]}")
    return values.index_select(node.axis, torch.tensor(node.places, device=values.device))


@select.register
def _(node: Pad, values: Tensor) -> Tensor:
    around = zip(reversed(node.before), reversed(node.after), strict=True)
    return F.pad(values, [size for pair in around for size in pair])


@select.register
def _(node: DepthToSpace, values: Tensor) -> Tensor:
    batch, _, height, width = values.shape
    blocks = values.reshape(batch, node.block, node.block, -1, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, height * node.block, width * node.block)


@select.register
def _(node: Rearrange, values: Tensor) -> Tensor:
    parts = values.reshape(len(values), *node.parts)
    return parts.permute(0, *(place + 1 for place in node.order)).reshape(len(values), *node.shape)
