# SPDX-License-Identifier: MIT
"""Which tensors can hold negative values: a fact of the graph, not of the data or of bit widths."""

from __future__ import annotations

from functools import singledispatch

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Add,
    Affine,
    AvgPool2d,
    BatchNorm,
    Bounds,
    Clamp,
    Concat,
    Input,
    Layer,
    Node,
    Permute,
    Probabilities,
    Requantize,
    Reshape,
    Selection,
)


def negative_tensors(graph: Graph) -> dict[str, bool]:
    """For each tensor, whether it can be negative: images and layers can, unless a clamp stops them."""
    negative: dict[str, bool] = {}
    for node in graph:
        bounds: Bounds | None = getattr(node, "bounds", None)
        can = makes_negative(node, [negative[name] for name in node.inputs])
        negative[node.name] = can and not (bounds is not None and bounds.non_negative)
    return negative


@singledispatch
def makes_negative(node: Node, inputs: list[bool]) -> bool:
    """Whether the values of a node can be negative before its clamp, where its inputs can or cannot."""
    raise NotImplementedError(f"no sign of {type(node).__name__}")


@makes_negative.register
def _(node: Input | Layer | BatchNorm | Affine, inputs: list[bool]) -> bool:
    return True


@makes_negative.register
def _(node: Add | AvgPool2d | Clamp | Concat | Selection | Requantize | Reshape | Permute, inputs: list[bool]) -> bool:
    return any(inputs)


@makes_negative.register
def _(node: Probabilities, inputs: list[bool]) -> bool:
    return node.logarithm
