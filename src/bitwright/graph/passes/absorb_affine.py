# SPDX-License-Identifier: MIT
"""An affine map by constants becomes part of a layer near it, or a depthwise 1 x 1 convolution where none can take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Affine,
    AvgPool2d,
    BatchNorm,
    Bounds,
    Clamp,
    Conv2d,
    DepthToSpace,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Node,
    Pad,
    Take,
)
from bitwright.graph.passes.fresh import fresh
from bitwright.graph.shapes import parameter_names


def absorb_affine(graph: Graph) -> tuple[Graph, bool]:
    """Take every affine map out of the graph, exactly in real numbers.

    In this order: into the layer or batch norm that makes its input, through clamps, pools and flattening that nothing else
    reads; into the only layer that reads it, through the like; as a layer of its own. Tensors that change get names of their
    own, so that nobody takes them for those of the model.
    """
    changed = False
    while (node := next((node for node in reversed(graph.nodes) if isinstance(node, Affine)), None)) is not None:
        gain, offset = graph.parameters[node.gain].double(), graph.parameters[node.offset].double()
        found = _backward(graph, node, gain, offset) or _forward(graph, node, gain, offset)
        graph, changed = found or _layer(graph, node, gain, offset), True
    return graph, changed


def _backward(graph: Graph, node: Affine, gain: Tensor, offset: Tensor) -> Graph | None:
    """Into what makes the input of the map."""
    by_name, readers = {made.name: made for made in graph}, graph.consumers()
    made: dict[str, Node] = {}
    source = by_name[node.inputs[0]]
    while len(readers[source.name]) == 1 and source.name not in graph.returned:
        bounds: Bounds | None = getattr(source, "bounds", None)
        if bounds is not None:
            moved = _moved_bounds(bounds, gain, offset)
            if moved is None:
                return None
            source = made[source.name] = replace(source, bounds=moved)  # type: ignore[call-arg]
        if isinstance(source, Layer | BatchNorm | Affine):
            made[source.name], tensors = _scaled_result(source, graph.parameters, gain, offset)
            return _rewritten(graph, node, made, tensors)
        if not source.inputs or (passed := _before(source, by_name[source.inputs[0]], gain, offset)) is None:
            return None
        gain, offset = passed
        source = by_name[source.inputs[0]]
    return None


def _moved_bounds(bounds: Bounds, gain: Tensor, offset: Tensor) -> Bounds | None:
    """The clamp after the map that does what `bounds` does before it, where one clamp for all channels can."""
    if bool((gain == gain[0]).all()) and bool((offset == offset[0]).all()):
        factor, term = float(gain[0]), float(offset[0])
        ends = [None if end is None else end * factor + term + 0.0 for end in (bounds.minimum, bounds.maximum)]
        return Bounds(*ends) if factor > 0 else Bounds(*ends[::-1]) if factor < 0 else None
    at_zero = {bounds.minimum, bounds.maximum} == {0.0, None}
    return bounds if at_zero and bool((gain > 0).all()) and not bool(offset.any()) else None


def _before(node: Node, source: Node, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor] | None:
    """The map before `node`, which reads `source`, that does what the given one does after it."""
    if isinstance(node, Flatten) and len(source.shape) == 3:
        channels = [values.reshape(source.shape[0], -1) for values in (gain, offset)]
        alike = all(bool((values == values[:, :1]).all()) for values in channels)
        return (channels[0][:, 0], channels[1][:, 0]) if alike else None
    if isinstance(node, DepthToSpace):
        return gain.repeat(node.block**2), offset.repeat(node.block**2)
    if isinstance(node, Take) and node.axis == 1:
        if sorted(node.places) != list(range(source.shape[0])):
            return None
        order = torch.tensor(node.places, device=gain.device).argsort()
        return gain[order], offset[order]
    return (gain, offset) if _commutes(node, gain, offset) else None


def _commutes(node: Node, gain: Tensor, offset: Tensor) -> bool:
    """Whether a map of each channel may stand before a node as well as after it."""
    if isinstance(node, AvgPool2d):
        return node.padding == (0, 0) or not bool(offset.any())
    if isinstance(node, Pad):
        return node.before[0] == node.after[0] == 0 and not bool(offset.any())
    if isinstance(node, Take):
        return node.axis > 1
    return isinstance(node, Dropout | Clamp) or (isinstance(node, MaxPool2d) and bool((gain > 0).all()))


def _forward(graph: Graph, node: Affine, gain: Tensor, offset: Tensor) -> Graph | None:
    """Into the layer that alone reads the result of the map."""
    readers = graph.consumers()
    source: Node = node
    while len(readers[source.name]) == 1 and source.name not in graph.returned:
        (reader,) = readers[source.name]
        if isinstance(reader, Layer):
            found = _scaled_input(reader, graph.parameters, gain, offset)
            return None if found is None else _rewritten(graph, node, {reader.name: found[0]}, found[1])
        if isinstance(reader, Flatten):
            gain, offset = (values.repeat_interleave(prod(source.shape[1:])) for values in (gain, offset))
        elif isinstance(reader, Clamp) or not _commutes(reader, gain, offset):
            return None
        source = reader
    return None


def _layer(graph: Graph, node: Affine, gain: Tensor, offset: Tensor) -> Graph:
    """A layer of its own: a depthwise convolution; of features, a diagonal matrix."""
    weight, bias = (fresh(graph.parameters, f"{node.name}.{leaf}") for leaf in ("weight", "bias"))
    if len(node.shape) == 3:
        layer: Layer = depthwise(node, weight, bias)
        tensors = {weight: gain.reshape(-1, 1, 1, 1), bias: offset}
    else:
        layer = Linear(name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, weight=weight, bias=bias)
        tensors = {weight: gain.diag(), bias: offset}
    return _rewritten(graph, None, {node.name: layer}, tensors)


def depthwise(node: Node, weight: str, bias: str | None) -> Conv2d:
    """A 1 x 1 convolution of each channel by itself, in the place of `node`."""
    return Conv2d(
        name=node.name,
        inputs=node.inputs,
        shape=node.shape,
        place=node.place,
        weight=weight,
        bias=bias,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=node.shape[0],
    )


Scaled = tuple[Node, dict[str, Tensor]]


def _scaled_result(node: Layer | BatchNorm | Affine, parameters: Tensors, gain: Tensor, offset: Tensor) -> Scaled:
    """A node whose result is `gain * y + offset` of what it was, and its new tensors."""
    if isinstance(node, Affine):
        names = [fresh(parameters, name) for name in (node.gain, node.offset)]
        made = gain * parameters[node.gain].double(), gain * parameters[node.offset].double() + offset
        return replace(node, gain=names[0], offset=names[1]), dict(zip(names, made, strict=True))
    if node.norm is not None:
        norm, path = node.norm, f"{node.name}.scaled_norm"
        weight, bias = (fresh(parameters, f"{path}.{leaf}") for leaf in ("weight", "bias"))
        tensors = {
            weight: gain if norm.weight is None else gain * parameters[norm.weight].double(),
            bias: offset if norm.bias is None else offset + gain * parameters[norm.bias].double(),
        }
        return replace(node, norm=replace(norm, weight=weight, bias=bias)), tensors
    assert isinstance(node, Layer)
    values = parameters[node.weight].double()
    bias_values = None if node.bias is None else parameters[node.bias].double() * gain
    return _with_tensors(node, parameters, values * gain.reshape(-1, *[1] * (values.dim() - 1)), bias_values, offset)


def _scaled_input(node: Layer, parameters: Tensors, gain: Tensor, offset: Tensor) -> Scaled | None:
    """A layer that gives for x what it gave for `gain * x + offset`; None where the padding, which stays zero, forbids it."""
    if isinstance(node, Conv2d) and node.padding != (0, 0) and bool(offset.any()):
        return None
    values = parameters[node.weight].double()
    groups, ones = (node.groups if isinstance(node, Conv2d) else 1), [1] * (values.dim() - 2)
    each = len(values) // groups
    factor, term = (
        given.reshape(groups, 1, -1).expand(-1, each, -1).reshape(len(values), -1, *ones) for given in (gain, offset)
    )
    bias = None if node.bias is None else parameters[node.bias].double()
    return _with_tensors(node, parameters, values * factor, bias, (values * term).flatten(1).sum(1))


def _with_tensors(node: Layer, parameters: Tensors, weight: Tensor, bias: Tensor | None, offset: Tensor) -> Scaled:
    """A layer with another weight and bias, to which `offset` is added; without a bias where there would be none but zeros."""
    names = [fresh(parameters, f"{node.name}.scaled_{leaf}") for leaf in ("weight", "bias")]
    if bias is None and not bool(offset.any()):
        return replace(node, weight=names[0]), {names[0]: weight}
    made = {names[0]: weight, names[1]: offset if bias is None else bias + offset}
    return replace(node, weight=names[0], bias=names[1]), made


def _rewritten(graph: Graph, dropped: Affine | None, made: Mapping[str, Node], tensors: Tensors) -> Graph:
    """The graph with other nodes of the same names, their tensors, and without a map and the tensors that only these read."""
    renamed = {} if dropped is None else {dropped.name: dropped.inputs[0]}
    nodes = tuple(
        changed.reading(*(renamed.get(name, name) for name in changed.inputs))
        for changed in (made.get(node.name, node) for node in graph)
        if changed is not dropped
    )
    read = {name for node in nodes for name in parameter_names(node)}
    former = {name for node in graph for name in parameter_names(node)}
    kept = {name: tensor for name, tensor in graph.parameters.items() if name in read or name not in former}
    like = next(iter(graph.parameters.values()))
    new = {name: tensor.to(like.device, torch.float32) for name, tensor in tensors.items()}
    return replace(graph.with_nodes(nodes, renamed), parameters=kept | new)
