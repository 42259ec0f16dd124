# SPDX-License-Identifier: MIT
"""The canonical shape of a layer: layers of one shape take one time, in whatever network they stand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import singledispatch

from bitwright.errors import FileFormatError, shown
from bitwright.graph import Graph
from bitwright.graph.digest import digest
from bitwright.graph.nodes import Conv2d, Linear, Node, Pair

_COUNT = r"(\d{1,9})"
_CONV = re.compile(
    r"conv2d N->N kernelNxN strideNxN paddingNxN dilationNxN groupsN inNxN".replace("N", _COUNT),
    re.ASCII,
)
_LINEAR = re.compile(r"linear N->N".replace("N", _COUNT), re.ASCII)


@dataclass(frozen=True, order=True)
class ConvShape:
    """A convolution, as a latency table knows it; pairs are (height, width).

    >>> shape = ConvShape(64, 128, (3, 3), (2, 2), (1, 1), (1, 1), 1, (56, 56))
    >>> str(shape)
    'conv2d 64->128 kernel3x3 stride2x2 padding1x1 dilation1x1 groups1 in56x56'
    >>> parse_shape(str(shape)) == shape
    True
    """

    in_channels: int
    out_channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    image: Pair

    def __str__(self) -> str:
        pairs = " ".join(
            f"{name}{height}x{width}"
            for name, (height, width) in (
                ("kernel", self.kernel),
                ("stride", self.stride),
                ("padding", self.padding),
                ("dilation", self.dilation),
            )
        )
        image = f"{self.image[0]}x{self.image[1]}"
        return f"conv2d {self.in_channels}->{self.out_channels} {pairs} groups{self.groups} in{image}"


@dataclass(frozen=True, order=True)
class LinearShape:
    """A matrix product, as a latency table knows it.

    >>> str(LinearShape(512, 1000))
    'linear 512->1000'
    """

    in_features: int
    out_features: int

    def __str__(self) -> str:
        return f"linear {self.in_features}->{self.out_features}"


LayerShape = ConvShape | LinearShape


def parse_shape(text: str) -> LayerShape:
    """The inverse of `str`.

    Raises:
        FileFormatError: If the text is no shape.
    """
    if match := _CONV.fullmatch(text):
        number = [int(group) for group in match.groups()]
        kernel, stride, padding, dilation = ((number[i], number[i + 1]) for i in (2, 4, 6, 8))
        return ConvShape(number[0], number[1], kernel, stride, padding, dilation, number[10], (number[11], number[12]))
    if match := _LINEAR.fullmatch(text):
        return LinearShape(int(match[1]), int(match[2]))
    example = ConvShape(64, 128, (3, 3), (2, 2), (1, 1), (1, 1), 1, (56, 56))
    raise FileFormatError(
        f"expected a layer shape such as '{example}' or '{LinearShape(512, 1000)}', got {shown(text)}."
    )


def layers_digest(graph: Graph) -> str:
    """SHA-256 over the names and shapes of a network's layers: what latencies depend on, whatever the weights are."""
    shapes = {layer: str(shape) for layer, shape in layer_shapes(graph).items()}
    return digest(text=json.dumps(shapes))


def layer_shapes(graph: Graph) -> dict[str, LayerShape]:
    """The shape of every layer of a graph, in execution order."""
    return {name: _shape(node, graph) for name, node in graph.layers.items()}


@singledispatch
def _shape(node: Node, graph: Graph) -> LayerShape:
    raise TypeError(f"{type(node).__name__} is no layer")


@_shape.register
def _(node: Conv2d, graph: Graph) -> LayerShape:
    out_channels, per_group, *kernel = graph.parameters[node.weight].shape
    _, height, width = graph[node.inputs[0]].shape
    return ConvShape(
        per_group * node.groups,
        out_channels,
        (kernel[0], kernel[1]),
        node.stride,
        node.padding,
        node.dilation,
        node.groups,
        (height, width),
    )


@_shape.register
def _(node: Linear, graph: Graph) -> LayerShape:
    out_features, in_features = graph.parameters[node.weight].shape
    return LinearShape(in_features, out_features)
