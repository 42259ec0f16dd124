# SPDX-License-Identifier: MIT
"""Activation memory: the most bits of activations that live at once while one image passes through the network.

A tensor lives from the node that makes it to the last node that reads it, and is stored at the bits that its most demanding
reader wants (a layer wants the activation bits of its precision, an addition those of a residual addition, other operations
8; the network's output is 32 bits wide). Flattening, dropout and slices are views: they keep what they show alive and store
nothing. Copies that are requantized while being read, accumulators and an engine's scratch memory are not counted.

The peak is what decides whether a network fits a device, and it is exact in an integer program: it is the largest of one sum
per node, and stays within a limit where each sum does. (A total over all tensors would count memory that is free again.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from bitwright.allocation.usage import Choice, Row
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Dropout, Flatten, Slice
from bitwright.quantizer.demand import Demand, demands
from bitwright.scheme import MAX_BITS, MIN_BITS, Precision

OUTPUT_BITS = 32
VIEWS = (Flatten, Dropout, Slice)


@dataclass(frozen=True)
class LiveTensor:
    """One tensor of activations.

    Attributes:
        name: The name of the node that makes it.
        elements: The elements of one image.
        demand: The bits that its readers want.
    """

    name: str
    elements: int
    demand: Demand


@dataclass(frozen=True)
class PeakActivation:
    """The most bits of activations that live at once.

    Attributes:
        steps: The tensors that live while each node runs, with the node's name.
    """

    steps: tuple[tuple[str, tuple[LiveTensor, ...]], ...]
    kind: str = "activation"

    def of(self, choice: Choice) -> int:
        return max(_stored(live, choice) for _, live in self.steps)

    def keys(self, choices: Mapping[str, Iterable[Precision]]) -> Row:
        return Row(
            {
                layer: {precision: precision.act_bits for precision in precisions}
                for layer, precisions in choices.items()
            }
        )

    def busiest(self, choice: Choice) -> str:
        """The node at which the peak is reached first."""
        return max(self.steps, key=lambda step: _stored(step[1], choice))[0]

    def row(self, choice: Choice) -> Row:
        """The sum of the busiest step, each tensor at the bits of the reader that is most demanding in `choice`."""
        _, live = max(self.steps, key=lambda step: _stored(step[1], choice))
        constant = 0
        elements: dict[str, int] = {}
        for tensor in live:
            reader = max(tensor.demand.layers, key=lambda layer: choice[layer].act_bits, default=None)
            if reader is None or choice[reader].act_bits <= tensor.demand.least:
                constant += tensor.elements * tensor.demand.least
            else:
                elements[reader] = elements.get(reader, 0) + tensor.elements
        widths = range(MIN_BITS, MAX_BITS + 1)
        amounts = {
            layer: {Precision(weight, act): count * act for weight in widths for act in widths}
            for layer, count in elements.items()
        }
        return Row(amounts, constant)


def peak_activation(graph: Graph, residual_bits: int = 8) -> PeakActivation:
    """The activation memory of a network, as a function of its scheme."""
    wanted = demands(graph, residual_bits, OUTPUT_BITS)
    stored: dict[str, str] = {}
    last_use: dict[str, int] = {}
    tensors: dict[str, LiveTensor] = {}
    for step, node in enumerate(graph):
        stored[node.name] = stored[node.inputs[0]] if isinstance(node, VIEWS) else node.name
        for name in (node.name, *node.inputs):
            last_use[stored[name]] = step
        if node.name == stored[node.name]:
            tensors[node.name] = LiveTensor(node.name, prod(node.shape), wanted[node.name])
    for name in graph.returned:
        last_use[stored[name]] = len(graph.nodes)

    steps = []
    alive: dict[str, LiveTensor] = {}
    for step, node in enumerate(graph):
        if node.name in tensors:
            alive[node.name] = tensors[node.name]
        steps.append((node.name, tuple(alive.values())))
        alive = {name: tensor for name, tensor in alive.items() if last_use[name] > step}
    return PeakActivation(tuple(steps))


def _stored(live: tuple[LiveTensor, ...], choice: Choice) -> int:
    return sum(tensor.elements * tensor.demand.bits(choice) for tensor in live)
