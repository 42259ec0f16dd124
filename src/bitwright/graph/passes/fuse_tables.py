# SPDX-License-Identifier: MIT
"""Element-wise operations on one tensor become one table: `x * sigmoid(x)`, `x * relu6(x + 3) / 6`, a GELU written out.

What they compute in between would have to be rounded to integers; as one function it is rounded once. A region is found from its
end: the *function* of a node is a program of its *root*, the last tensor before it that is no element-wise function of one tensor
itself. Clamps and affine maps by numbers belong to a region, but do not make one: alone, they become part of layers, and so does
a clamp that is the only reader of a root.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from bitwright.graph.evaluate import Tensors
from bitwright.graph.functions import Program, inserted
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Add, Affine, Bounds, Clamp, Node
from bitwright.graph.operations.product import Product
from bitwright.graph.operations.table import Table
from bitwright.graph.shapes import parameter_names

MAX_STEPS = 100
"""Of a program: one that reads its input many times would take longer than the operations by themselves."""


class Region(NamedTuple):
    """What a node computes of one tensor.

    Attributes:
        root: The tensor.
        program: The function.
        curved: Whether it is more than clamps, sums and affine maps.
    """

    root: str
    program: Program
    curved: bool


def fuse_tables(graph: Graph) -> tuple[Graph, bool]:
    """Make tables of all curved functions of one tensor, and leave out what only they read."""
    regions: dict[str, Region] = {}
    made: list[Node] = []
    readers = graph.consumers()
    for node in graph:
        alone = isinstance(node, Clamp) and node.inputs[0] not in regions and len(readers[node.inputs[0]]) == 1
        inputs = [regions.get(name, Region(name, ("x",), False)) for name in node.inputs]
        found = None if alone else _region(node, inputs, graph.parameters)
        if found is None or len(found.program) > MAX_STEPS or _shape(graph, found.root) != node.shape:
            made.append(node)
            continue
        regions[node.name] = found
        table = Table(name=node.name, inputs=(found.root,), shape=node.shape, place=node.place, program=found.program)
        made.append(table if found.curved else node)
    if tuple(made) == graph.nodes:
        return graph, False
    return _without_unread(graph, made), True


def _shape(graph: Graph, name: str) -> tuple[int, ...]:
    return graph[name].shape


def _region(node: Node, inputs: list[Region], parameters: Tensors) -> Region | None:
    """The function of a node, if it is one of a single tensor."""
    program = _program(node, parameters)
    if program is None or len({given.root for given in inputs}) != 1:
        return None
    names: dict[str | float, Program] = dict(zip(("x", "y"), (given.program for given in inputs), strict=False))
    whole = tuple(part for step in program for part in names.get(step, (step,)))
    curved = isinstance(node, Product | Table) or any(given.curved for given in inputs)
    return Region(inputs[0].root, whole, curved)


def _program(node: Node, parameters: Tensors) -> Program | None:
    """What a node computes of its inputs `x` and `y`, each element by itself; None where it does not."""
    match node:
        case Table():
            return node.program
        case Product():
            return inserted(_clamp(node.bounds), ("x", "y", "mul"))
        case Add():
            return inserted(_clamp(node.bounds), ("x", "y", "add"))
        case Clamp():
            return _clamp(node.bounds)
        case Affine():
            return _affine(parameters[node.gain], parameters[node.offset])
    return None


def _affine(gain: Tensor, offset: Tensor) -> Program | None:
    """The program of an affine map by one number for all channels."""
    if bool((gain != gain[0]).any()) or bool((offset != offset[0]).any()):
        return None
    scaled = () if gain[0] == 1 else (float(gain[0]), "mul")
    moved = () if offset[0] == 0 else (float(offset[0]), "add")
    return ("x", *scaled, *moved)


def _clamp(bounds: Bounds | None) -> Program:
    """The program of a clamp."""
    if bounds is None:
        return ("x",)
    low = () if bounds.minimum is None else (float(bounds.minimum), "maximum")
    high = () if bounds.maximum is None else (float(bounds.maximum), "minimum")
    return ("x", *low, *high)


def _without_unread(graph: Graph, nodes: list[Node]) -> Graph:
    """The graph of those nodes that its outputs need, and of the tensors that these read."""
    needed = {*graph.returned, graph.nodes[0].name}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
            kept.append(node)
    read, former = (_parameters(some) for some in (kept, graph.nodes))
    tensors = {name: tensor for name, tensor in graph.parameters.items() if name in read or name not in former}
    return replace(graph, nodes=tuple(reversed(kept)), parameters=tensors)


def _parameters(nodes: list[Node] | tuple[Node, ...]) -> set[str]:
    return {name for node in nodes for name in parameter_names(node)}
