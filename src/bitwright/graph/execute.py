# SPDX-License-Identifier: MIT
"""Float execution of a graph: what every quantized form is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    BatchNorm,
    Bounds,
    ChannelShuffle,
    Clamp,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2d,
    Node,
    Norm,
    Requantize,
    Slice,
)

Tensors = Mapping[str, Tensor]
Linearity = Callable[[Layer, Tensor, Tensor, Tensor | None], Tensor]


def execute(
    graph: Graph,
    parameters: Tensors,
    images: Tensor,
    *,
    weights: Mapping[str, tuple[Tensor, Tensor | None]] | None = None,
    observe: Callable[[Node, Tensor], None] | None = None,
    linear: Linearity | None = None,
) -> Tensor:
    """Run `graph` in float.

    Args:
        graph: The network.
        parameters: Tensors by name.
        images: Shape (batch, channels, height, width).
        weights: Folded weight and bias by layer, where they should replace those that `parameters` give.
        observe: Called with every node and its result.
        linear: Computes the linear part of every layer in place of `convolve`, with the same arguments.

    Returns:
        The network's output, of shape (batch, classes) for a classifier.
    """
    remaining = {name: len(readers) for name, readers in graph.consumers().items()}
    remaining[graph.output] += 1
    values: dict[str, Tensor] = {}
    for node in graph:
        inputs = [images] if isinstance(node, Input) else [values[name] for name in node.inputs]
        if isinstance(node, Layer):
            weight, bias = weights[node.name] if weights is not None else folded_weight(node, parameters)
            values[node.name] = clamp((linear or convolve)(node, inputs[0], weight, bias), node.bounds)
        else:
            values[node.name] = evaluate(node, inputs, parameters)
        if observe is not None:
            observe(node, values[node.name])
        for name in node.inputs:
            remaining[name] -= 1
            if remaining[name] == 0:
                del values[name]
    return values[graph.output]


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
def evaluate(node: Node, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    """The result of a node without weights."""
    raise NotImplementedError(f"no float form of {type(node).__name__}")


@evaluate.register(Input)
@evaluate.register(Dropout)
@evaluate.register(Requantize)
def _(node: Node, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return inputs[0]


@evaluate.register
def _(node: BatchNorm, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    gain, offset = norm_affine(node.norm, parameters)
    shape = (-1, *[1] * (inputs[0].dim() - 2))
    return inputs[0] * gain.reshape(shape) + offset.reshape(shape)


@evaluate.register
def _(node: Clamp, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return clamp(inputs[0], node.bounds)


@evaluate.register
def _(node: Add, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return clamp(inputs[0] + inputs[1], node.bounds)


@evaluate.register
def _(node: Concat, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return torch.cat(inputs, 1)


@evaluate.register
def _(node: AvgPool2d, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return F.avg_pool2d(inputs[0], node.kernel, node.stride, node.padding)


@evaluate.register(MaxPool2d)
@evaluate.register(Flatten)
@evaluate.register(Slice)
@evaluate.register(ChannelShuffle)
def _(node: Node, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return rearrange(node, inputs[0])


@singledispatch
def rearrange(node: Node, values: Tensor) -> Tensor:
    """The result of a node that only selects or moves values: the same in float and in integers."""
    raise NotImplementedError(f"{type(node).__name__} computes new values")


@rearrange.register
def _(node: MaxPool2d, values: Tensor) -> Tensor:
    return F.max_pool2d(values, node.kernel, node.stride, node.padding, node.dilation, node.ceil_mode)


@rearrange.register
def _(node: Flatten, values: Tensor) -> Tensor:
    return values.flatten(1)


@rearrange.register
def _(node: Dropout, values: Tensor) -> Tensor:
    return values


@rearrange.register
def _(node: Slice, values: Tensor) -> Tensor:
    return values[:, node.start : node.stop]


@rearrange.register
def _(node: ChannelShuffle, values: Tensor) -> Tensor:
    batch, channels, height, width = values.shape
    grouped = values.reshape(batch, node.groups, channels // node.groups, height, width)
    return grouped.transpose(1, 2).reshape(batch, channels, height, width)


class FloatModel(nn.Module):
    """A graph as a module: its state dict has the model's own names, so weights pass in both directions."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph  # a network may well have a module called "graph"
        statistics = statistic_names(graph)
        for name, tensor in graph.parameters.items():
            register(self, name, tensor.clone(), trainable=name not in statistics and tensor.is_floating_point())

    def forward(self, images: Tensor) -> Tensor:
        return execute(self._graph, named_tensors(self, self._graph.parameters), images)


def statistic_names(graph: Graph) -> set[str]:
    """Names of running statistics: tensors that no gradient changes and that are not counted as parameters."""
    norms = [node.norm for node in graph if isinstance(node, BatchNorm | Conv2d | Linear) and node.norm is not None]
    found = {name for norm in norms for name in (norm.mean, norm.variance)}
    return found | {name for name in graph.parameters if name.endswith("num_batches_tracked")}


def register(module: nn.Module, name: str, tensor: Tensor, *, trainable: bool) -> None:
    """Make `tensor` a parameter or buffer under a dotted name, with plain modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if trainable:
        module.register_parameter(leaf, nn.Parameter(tensor))
    else:
        module.register_buffer(leaf, tensor)


def named_tensors(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The parameters and buffers that `register` made, by dotted name."""
    found: dict[str, Tensor] = {}
    for name in names:
        path, _, leaf = name.rpartition(".")
        found[name] = getattr(module.get_submodule(path), leaf)
    return found
