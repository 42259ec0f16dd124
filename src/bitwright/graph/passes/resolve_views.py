# SPDX-License-Identifier: MIT
"""Views of sequences, (channels, length), and of features as images, (features, 1, 1), give way to images of three axes."""

from __future__ import annotations

from dataclasses import replace

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Affine, BatchNorm, Bytewise, Clamp, Conv2d, Flatten, Linear, Node, Permute, Reshape
from bitwright.graph.operations.table import Table
from bitwright.graph.passes.fresh import fresh
from bitwright.graph.shapes import parameter_names

_ELEMENTWISE = Affine | BatchNorm | Bytewise | Clamp

_ALIKE = Clamp | Table
"""What is the same function of every element, wherever it stands."""


def resolve_views(graph: Graph) -> tuple[Graph, bool]:
    """Move views towards others that undo them, until none moves.

    A view that leaves the images of three axes goes behind what computes each element by itself, and so does any view of more
    than features where that is the same for all elements; one that comes back to
    (features, 1, 1) goes before it, and makes a matrix product on the way a convolution. Where both meet, nothing is left.
    """
    changed = False
    while (found := _step(graph)) is not None:
        graph, changed = found, True
    return graph, changed


def _step(graph: Graph) -> Graph | None:
    """One view joined with another, or moved past one operation; None where none can be."""
    by_name = {node.name: node for node in graph}
    for view in graph:
        if isinstance(view, Reshape) and isinstance(former := by_name[view.inputs[0]], Reshape | Flatten):
            return _joined(graph, view, by_name[former.inputs[0]])
    readers = graph.consumers()
    for node in graph:
        source: Node | None = by_name[node.inputs[0]] if node.inputs else None
        if isinstance(node, _ELEMENTWISE) and len(node.inputs) == 1 and isinstance(source, Reshape):
            before = by_name[source.inputs[0]].shape
            if len(before) == 3 and before[0] == source.shape[0]:
                return _behind(graph, node, source, before)
        if isinstance(node, _ALIKE) and isinstance(source, Reshape | Permute):
            before = by_name[source.inputs[0]].shape
            if len(before) > 1:
                return _behind(graph, node, source, before)
        alone = source is not None and len(readers[source.name]) == 1 and source.name not in graph.returned
        if isinstance(node, Reshape) and alone and len(node.shape) == 3 and node.shape[1:] == (1, 1):
            if isinstance(source, _ELEMENTWISE) and len(source.inputs) == 1 and len(source.shape) == 1:
                return _before(graph, node, replace(source, shape=node.shape), node.shape)
            if isinstance(source, Linear):
                return _as_convolution(graph, node, source, by_name[source.inputs[0]])
    return None


def _joined(graph: Graph, view: Node, origin: Node) -> Graph:
    """Of two views one behind the other, the second alone; none where that has the shape that the first began with."""
    if view.shape == origin.shape:
        return _with(graph, {view.name: ()}, {view.name: origin.name})
    joined: Node = view.reading(origin.name)
    if len(view.shape) == 1 and len(origin.shape) == 3:
        joined = Flatten(name=view.name, inputs=(origin.name,), shape=view.shape, place=view.place)
    return _with(graph, {view.name: (joined,)}, {})


def _behind(graph: Graph, node: Node, view: Node, before: tuple[int, ...]) -> Graph:
    """The operation on what was viewed, and then the view."""
    moved = replace(view, name=_view_name(graph, node), inputs=(node.name,))
    made = replace(node, inputs=view.inputs, shape=before)
    return _with(graph, {node.name: (made, moved)}, {node.name: moved.name})


def _view_name(graph: Graph, node: Node) -> str:
    """Of a view that moved past a node, which others may have passed before it."""
    return fresh({each.name for each in graph}, f"{node.name}.view")


def _before(graph: Graph, view: Node, made: Node, shape: tuple[int, ...]) -> Graph:
    """The view, and then the operation, whose result needs none."""
    moved = Reshape(name=_view_name(graph, made), inputs=made.inputs, shape=shape, place=view.place)
    return _with(graph, {made.name: (moved, made.reading(moved.name)), view.name: ()}, {view.name: made.name})


def _as_convolution(graph: Graph, view: Node, layer: Linear, source: Node) -> Graph:
    """A matrix product of features whose result is an image of one pixel, as a convolution of the image that they came from."""
    weight, name = graph.parameters[layer.weight], fresh(graph.parameters, f"{layer.name}.convolution_weight")
    origin = graph[source.inputs[0]] if isinstance(source, Flatten) else None
    kernel = origin.shape[1:] if origin is not None and len(origin.shape) == 3 else (1, 1)
    made = Conv2d(
        name=layer.name,
        inputs=layer.inputs if origin is None else (origin.name,),
        shape=view.shape,
        place=layer.place,
        weight=name,
        bias=layer.bias,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        norm=layer.norm,
        bounds=layer.bounds,
    )
    parameters = {**graph.parameters, name: weight.reshape(weight.shape[0], -1, *kernel)}
    found = replace(graph, parameters=parameters)
    if origin is None:
        found = _before(found, view, made, (weight.shape[1], 1, 1))
    else:
        found = _with(found, {layer.name: (made,), view.name: ()}, {view.name: layer.name})
    if any(layer.weight in parameter_names(node) for node in found):
        return found
    return replace(found, parameters={key: value for key, value in parameters.items() if key != layer.weight})


def _with(graph: Graph, made: dict[str, tuple[Node, ...]], renamed: dict[str, str]) -> Graph:
    """The graph with other nodes in the place of some, read under other names, and without those that nothing reads any more."""
    nodes: list[Node] = []
    for node in graph:
        for part in made.get(node.name, (node,)):
            keep = node.name in made and renamed.get(node.name) == part.name  # which reads what it is named for
            nodes.append(part if keep else part.reading(*(renamed.get(name, name) for name in part.inputs)))
    needed = {renamed.get(name, name) for name in graph.returned}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in needed or not node.inputs:
            needed.update(node.inputs)
            kept.append(node)
    return graph.with_nodes(tuple(reversed(kept)), renamed)
