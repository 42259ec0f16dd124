# SPDX-License-Identifier: MIT
"""Cross-layer equalisation: channels between two layers get like ranges, and the float network stays what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.graph.evaluate import Tensors, folded_weight
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import AvgPool2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, Node
from bitwright.reconstruction.sharing import shared

SWEEPS = 20
"""Passes over all pairs at most; a chain of n layers settles in about n."""
DEAD = 2.0**-12
"""Of the largest weight of a layer: a channel of smaller ones is its offset alone, which large factors would blow up."""
_PASSING = (AvgPool2d, Dropout, Flatten, MaxPool2d)
"""What makes of a scaled channel the channel that it would have made, scaled; a flattened one is a feature for each pixel."""


@dataclass(frozen=True)
class Pair:
    """Two layers, with channels between them that nothing else reads.

    Attributes:
        first: Makes them; its clamp is none, or one at zero, which a positive factor passes.
        second: Reads them.
    """

    first: Layer
    second: Layer


def pairs(graph: Graph) -> Iterator[Pair]:
    """The pairs of a network whose channels can be scaled, in order: pooling and dropout may stand between two layers."""
    readers = graph.consumers()
    common = shared(graph)
    for first in graph.layers.values():
        if not _scales(first) or not common.isdisjoint(_moved(first)):
            continue
        node: Node = first
        while len(readers[node.name]) == 1 and node.name not in graph.returned:
            node = readers[node.name][0]
            if isinstance(node, Conv2d | Linear) and node.weight not in common:
                yield Pair(first, node)
            if not isinstance(node, _PASSING):
                break


def equalised(graph: Graph) -> Graph:
    """The same network with the ranges of channels between two layers balanced.

    A network that is reconstructed towards it is one that was made from it: between layers, it is not the one that it was.

    Channel i is divided by `s_i` where it is made and multiplied by it where it is read; `s_i = sqrt(r_i / r'_i)`, with the
    largest weight r_i of those that make it, batch norm folded in, and r'_i of those that read it, makes both ranges equal.
    Here s_i is the nearest power of two: then nothing is rounded, and every output of the float network is what it was, so
    long as no number leaves the range of float32's normal ones.

    Args:
        graph: Any network; where it has no such pair, it is returned as it is.

    Source:
        Nagel et al. 2019, arXiv:1906.04721, section 4.1, equations 7 to 11. Clamps at other numbers than zero (ReLU6) do not
        scale, and their pairs are left alone.
    """
    parameters = {name: tensor.clone() for name, tensor in graph.parameters.items()}
    found = list(pairs(graph))
    for _ in range(SWEEPS):
        moved = [_balance(pair, parameters) for pair in found]
        if not any(moved):
            break
    return graph.with_parameters(parameters)


def is_of_equalised(parameters: Tensors, graph: Graph) -> bool:
    """Whether tensors that came from `graph` or from `equalised(graph)` came from the latter: to which they are closer.

    Equalisation moves channels by factors of two and more; training and rounding move them by less.

    Args:
        parameters: Of the network, by name.
        graph: The float network.
    """
    other = equalised(graph).parameters
    names = {name for pair in pairs(graph) for name in _moved(pair.first)}

    def distance(floats: Tensors) -> float:
        return sum(float((_sizes(parameters[name]) - _sizes(floats[name])).abs().sum()) for name in names)

    return distance(other) < distance(graph.parameters)


def _sizes(tensor: Tensor) -> Tensor:
    """The binary logarithm of the largest value of each channel, shape (channels,)."""
    return tensor.detach().cpu().abs().reshape(len(tensor), -1).amax(1).clamp_min(DEAD).log2()


def _moved(layer: Layer) -> tuple[str, ...]:
    """The names of the tensors by which a layer's channels are scaled: those of batch norm, where there is one."""
    norm = layer.norm
    names = (layer.weight, layer.bias) if norm is None else (norm.weight, norm.bias)
    return tuple(name for name in names if name is not None)


def _scales(layer: Layer) -> bool:
    """Whether its outputs, divided by any positive factors, are those of a layer with other tensors."""
    bounds, norm = layer.bounds, layer.norm
    passes = bounds is None or all(end in (None, 0.0) for end in (bounds.minimum, bounds.maximum))
    return passes and (norm is None or norm.weight is not None)


@torch.no_grad()
def _balance(pair: Pair, parameters: dict[str, Tensor]) -> bool:
    """Scale the channels of a pair once; whether any was."""
    first, second = pair.first, pair.second
    made = folded_weight(first, parameters)[0].flatten(1).abs().amax(1)
    read = _reading(second, parameters, len(made))
    alive = (made > DEAD * made.max()) & (read > 0)
    power = torch.where(alive, (made / read).log2() / 2, 0.0).round()
    if not bool(power.any()):
        return False
    factor = torch.exp2(power)
    for name in _moved(first):
        tensor = parameters[name]
        tensor.div_(factor.reshape(-1, *[1] * (tensor.dim() - 1)))
    weight = parameters[second.weight]
    if isinstance(second, Linear):
        weight.mul_(factor.repeat_interleave(weight.shape[1] // len(factor)))
    else:
        groups = factor.reshape(second.groups, 1, -1).expand(-1, len(weight) // second.groups, -1)
        weight.mul_(groups.reshape(len(weight), -1, 1, 1))
    return True


def _reading(layer: Layer, parameters: Tensors, channels: int) -> Tensor:
    """The largest of the weights that read each channel, batch norm folded in: shape (channels,)."""
    weight = folded_weight(layer, parameters)[0].abs()
    if isinstance(layer, Linear):
        return weight.amax(0).reshape(channels, -1).amax(1)
    return weight.reshape(layer.groups, -1, *weight.shape[1:]).amax((1, 3, 4)).reshape(-1)
