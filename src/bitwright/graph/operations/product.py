# SPDX-License-Identifier: MIT
"""The element-wise product of two activations: gates (channels x 1 x 1), spatial attention (1 x height x width), features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from bitwright.graph.builder import Builder
from bitwright.graph.evaluate import Tensors, clamp, float_result
from bitwright.graph.nodes import Bounds, Bytewise, Pair
from bitwright.graph.signs import makes_negative


@dataclass(frozen=True, kw_only=True)
class Product(Bytewise):
    """Element-wise product of two tensors of as many axes, one of which may be repeated along axes where it has one element."""

    reads: ClassVar[Pair] = (2, 2)

    bounds: Bounds | None = None


def product_of(builder: Builder, fx_node: fx.Node, first: str, second: str) -> str:
    """Add the product of two activations."""
    shapes = [builder.shape_of(name) for name in (first, second)]
    if len(shapes[0]) != len(shapes[1]):
        raise builder.refuse(fx_node, f"a product of tensors of unlike numbers of axes, {shapes[0]} and {shapes[1]}.")
    return builder.add(
        Product(
            name=builder.node_name(fx_node, "mul"),
            inputs=(first, second),
            shape=tuple(map(max, *shapes)),
            place=builder.place(fx_node),
        )
    )


@float_result.register
def _(node: Product, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return clamp(torch.mul(*inputs), node.bounds)


@makes_negative.register
def _(node: Product, inputs: list[bool]) -> bool:
    return any(inputs)
