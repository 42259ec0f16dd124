# SPDX-License-Identifier: MIT
"""Where the quantizers of a network stand: how many bits each tensor has, and which of them share a scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    AvgPool2d,
    Concat,
    Input,
    Layer,
    Node,
    Requantize,
    Selection,
)
from bitwright.graph.signs import negative_tensors
from bitwright.quantizer.demand import Demand, demand, demands
from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.units import moved_unit
from bitwright.scheme import MAX_BITS, Scheme


@dataclass(frozen=True)
class QuantPlan:
    """A graph with its quantizers.

    Attributes:
        source: The network as captured.
        graph: The network with `Requantize` nodes where a reader wants fewer bits, or another scale, than its tensor has.
        scheme: What it was made from.
        formats: The format of each quantizer before calibration, by its name.
        asymmetric: The quantizers whose windows calibration may place anew, with as many integers.
        quantizer_of: The quantizer of each tensor, by the tensor's name. Tensors of one name share one scale.
        accumulators: The tensors of sums that leave the network as they are, in int32, since nothing computes with them.
    """

    source: Graph
    graph: Graph
    scheme: Scheme
    formats: Mapping[str, TensorFormat]
    asymmetric: frozenset[str]
    quantizer_of: Mapping[str, str]
    accumulators: frozenset[str]

    def format(self, tensor: str) -> TensorFormat:
        """The format of a tensor before calibration, by the tensor's name."""
        return self.formats[self.quantizer_of[tensor]]

    def shared(self) -> set[str]:
        """The quantizers of several tensors that are computed; movers and concatenations only repeat values."""
        computed = [node.name for node in self.graph if not isinstance(node, Selection | Concat)]
        counts = Counter(self.quantizer_of[name] for name in computed)
        return {name for name, count in counts.items() if count > 1}


def plan(graph: Graph, scheme: Scheme) -> QuantPlan:
    """Decide the format of every tensor.

    A tensor has as many bits as its most demanding reader wants: a layer wants the activation bits of its precision, an
    addition wants the bits of residuals, pooling wants 8, and a node that only moves values wants what its own
    readers want. Readers that want fewer read through a `Requantize`. All inputs of a concatenation share its scale:
    producers that nothing else reads requantize to it directly, others through a `Requantize`.

    Raises:
        SchemeError: If the scheme does not name exactly the layers of the graph.
    """
    scheme.check(graph.layers)
    wanted = demands(graph, scheme.residual_bits)
    bits_of = {name: demand.bits(scheme.layers) for name, demand in wanted.items()}
    expanded = _insert_requantize(graph, scheme, bits_of)
    quantizer_of = _share_quantizers(expanded)
    accumulators = _final_accumulators(expanded)
    negative = _negative_quantizers(expanded, quantizer_of)
    formats: dict[str, TensorFormat] = {}
    for node in expanded:
        key = quantizer_of[node.name]
        if key == node.name:
            bits = node.bit_width if isinstance(node, Requantize) else bits_of[node.name]
            formats[key] = _format(bits, negative[key], scheme)
    asymmetric = frozenset(key for key in formats if negative[key] and _asymmetric(formats[key].bit_width, scheme))
    return QuantPlan(graph, expanded, scheme, formats, asymmetric, quantizer_of, accumulators)


def _asymmetric(bits: int, scheme: Scheme) -> bool:
    """Whether the window of tensors that can be negative may be placed; residual tensors of 16 bits would gain nothing.

    TensorRT's bytes have no zero point: it reads windows of 7 bits or fewer, which lie within them.
    """
    return scheme.activations == "asymmetric" and bits <= MAX_BITS - (scheme.deploy == "tensorrt")


def _format(bits: int, negative: bool, scheme: Scheme) -> TensorFormat:
    """The integers of a tensor. TensorRT's bytes are symmetric; narrower unsigned formats are part of them."""
    if scheme.deploy == "tensorrt" and bits == MAX_BITS:
        return TensorFormat.symmetric(bits)
    return TensorFormat.of(bits, negative=negative)


def _insert_requantize(graph: Graph, scheme: Scheme, bits_of: Mapping[str, int]) -> Graph:
    """Readers of fewer bits read through a Requantize; those of one tensor and width share it."""
    single = {name for name, readers in graph.consumers().items() if len(readers) == 1} - graph.returned
    by_name = {node.name: node for node in graph}
    made: dict[str, Node] = {}

    def through(source: str, name: str, bits: int) -> str:
        if name not in made:
            shape = by_name[source].shape
            made[name] = Requantize(
                name=name, inputs=(source,), shape=shape, place=f"quantization of {source}", bit_width=bits
            )
        return name

    for node in graph:
        inputs = list(node.inputs)
        for position, source in enumerate(node.inputs):
            wanted = demand(node, Demand(bits_of[node.name]), scheme.residual_bits).bits(scheme.layers)
            if isinstance(node, Concat):
                if not _adoptable(source, by_name, single):
                    inputs[position] = through(source, f"{source}@{node.name}", wanted)
            elif wanted < bits_of[source] and not isinstance(node, AvgPool2d):
                inputs[position] = through(source, f"{source}@{wanted}", wanted)
        made[node.name] = node.reading(*inputs)
    return graph.with_nodes(tuple(made.values()))


def _adoptable(source: str, by_name: Mapping[str, Node], single: set[str]) -> bool:
    """Whether a concatenation may give its scale to the producer of `source`: nothing else may read it on the way."""
    while source in single:
        node = by_name[source]
        if not isinstance(node, Selection):
            return not isinstance(node, Input)
        source = node.inputs[0]
    return False


def _share_quantizers(graph: Graph) -> dict[str, str]:
    """Movers share the quantizer of what they read; inputs of a concatenation share its quantizer."""
    by_name = {node.name: node for node in graph}
    adopted: dict[str, str] = {}
    for node in reversed(graph.nodes):
        if isinstance(node, Concat):
            for source in node.inputs:
                while isinstance(by_name[source], Selection):
                    source = by_name[source].inputs[0]
                adopted[source] = adopted.get(node.name, node.name)
    quantizer_of: dict[str, str] = {}
    for node in graph:
        if isinstance(node, Selection):
            quantizer_of[node.name] = quantizer_of[node.inputs[0]]
        else:
            quantizer_of[node.name] = adopted.get(node.name, node.name)
    return quantizer_of


def _negative_quantizers(graph: Graph, quantizer_of: Mapping[str, str]) -> dict[str, bool]:
    """Whether any tensor of a quantizer can be negative."""
    negative = negative_tensors(graph)
    found: dict[str, bool] = {}
    for name, key in quantizer_of.items():
        found[key] = found.get(key, False) or negative[name]
    return found


def _final_accumulators(graph: Graph) -> frozenset[str]:
    """The nodes that accumulate, and whose sums nothing reads but what moves them out of the network."""
    readers = graph.consumers()

    def leaves(node: Node, unit: Tensor) -> bool:
        for reader in readers[node.name]:
            moved = moved_unit(reader, unit, node.shape) if isinstance(reader, Selection) else None
            if moved is None or not leaves(reader, moved):
                return False
        return bool(readers[node.name]) or node.name in graph.returned

    sums = [node for node in graph if isinstance(node, Layer | AvgPool2d) and getattr(node, "bounds", None) is None]
    units = {node.name: torch.ones(node.shape[0] if isinstance(node, Layer) else 1) for node in sums}
    return frozenset(node.name for node in sums if leaves(node, units[node.name]))
