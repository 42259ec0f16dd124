# SPDX-License-Identifier: MIT
"""How many bits the readers of a tensor want of it, as a function of the scheme: the rule that plans and budgets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Add, AvgPool2d, Bytewise, Clamp, Concat, Layer, Node, Requantize, Selection
from bitwright.scheme import MAX_BITS, Precision


@dataclass(frozen=True)
class Demand:
    """What the readers of one tensor want of it.

    Attributes:
        least: Bits that readers other than layers want, whatever the scheme.
        layers: Layers that read it, maybe behind nodes that only move values, and want the activation bits of their precision.
    """

    least: int
    layers: tuple[str, ...] = ()

    def bits(self, precisions: Mapping[str, Precision]) -> int:
        """What the most demanding reader wants."""
        return max(self.least, *(precisions[layer].act_bits for layer in self.layers), 0)

    def joined(self, other: Demand) -> Demand:
        """What two readers want together."""
        return Demand(max(self.least, other.least), tuple(dict.fromkeys(self.layers + other.layers)))


def demands(graph: Graph, residual_bits: int, output_bits: int = MAX_BITS) -> dict[str, Demand]:
    """What is wanted of every tensor.

    Args:
        graph: The network.
        residual_bits: Width of the tensors that additions read.
        output_bits: What is wanted of the tensors that leave the network.
    """
    consumers = graph.consumers()
    found: dict[str, Demand] = {}
    for node in reversed(graph.nodes):
        readers = consumers[node.name]
        unread = Demand(output_bits if node.name in graph.returned else 0 if readers else MAX_BITS)
        for reader in readers:
            unread = unread.joined(demand(reader, found[reader.name], residual_bits))
        found[node.name] = unread
    return found


@singledispatch
def demand(reader: Node, made: Demand, residual_bits: int) -> Demand:
    """What `reader` wants of the tensors it reads.

    Args:
        reader: The node.
        made: What is wanted of the tensor that it makes.
        residual_bits: Width of the tensors that additions read.
    """
    raise NotImplementedError(f"no demand of {type(reader).__name__}")


@demand.register
def _(reader: Layer, made: Demand, residual_bits: int) -> Demand:
    return Demand(0, (reader.name,))


@demand.register
def _(reader: Add, made: Demand, residual_bits: int) -> Demand:
    return Demand(residual_bits)


@demand.register
def _(reader: Selection | Concat | Clamp, made: Demand, residual_bits: int) -> Demand:
    return made


@demand.register
def _(reader: AvgPool2d | Bytewise, made: Demand, residual_bits: int) -> Demand:
    return Demand(MAX_BITS)


@demand.register
def _(reader: Requantize, made: Demand, residual_bits: int) -> Demand:
    return Demand(reader.bit_width)
