# SPDX-License-Identifier: MIT
"""Chains of views and permutations that no other pass has resolved become one move each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Flatten, Node, Permute, Rearrange, Reshape
from bitwright.graph.passes.fresh import fresh

_VIEWS = Reshape | Permute | Flatten


@dataclass(frozen=True)
class Layout:
    """How the axes of a view are made of parts of the axes of an image.

    Attributes:
        parts: Sizes, in the order of the image's values.
        axes: For each axis of the view, its parts by their places in `parts`, outermost first.
    """

    parts: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout:
        """Every axis as it is.

        >>> Layout.of((8, 3, 1)).reshaped((2, 4, 3)).permuted((0, 2, 1, 3)).reshaped((4, 6))
        Layout(parts=(2, 4, 3), axes=((1,), (0, 2)))
        """
        return cls(shape, tuple((place,) for place in range(len(shape))))

    def permuted(self, axes: tuple[int, ...]) -> Layout:
        """The axes in another order, counted with the batch."""
        return Layout(self.parts, tuple(self.axes[axis - 1] for axis in axes[1:]))

    def reshaped(self, shape: tuple[int, ...]) -> Layout | None:
        """Axes of other sizes; None where these and the present ones have no parts in common."""
        places = [place for axis in self.axes for place in axis if self.parts[place] > 1]
        before, after = (_strides(sizes) for sizes in ([self.parts[place] for place in places], shape))
        cuts = sorted({*before, *after}, reverse=True)
        if any(outer % inner for outer, inner in pairwise(cuts)):
            return None

        def within(strides: list[int], place: int) -> list[int]:
            """The sizes of the parts between two strides."""
            chosen = [cut for cut in cuts if strides[place + 1] <= cut <= strides[place]]
            return [outer // inner for outer, inner in pairwise(chosen)]

        cut = {place: within(before, number) for number, place in enumerate(places)}
        ordered = sorted(places)
        first = {place: sum(len(cut[other]) for other in ordered if other < place) for place in ordered}
        left = iter([first[place] + piece for place in places for piece in range(len(cut[place]))])
        axes = [tuple(next(left) for _ in within(after, number)) for number in range(len(shape))]
        return Layout(tuple(size for place in ordered for size in cut[place]), tuple(axes))

    @property
    def in_order(self) -> bool:
        """Whether the values of the view have the order of the image's."""
        places = [place for axis in self.axes for place in axis]
        return places == sorted(places)

    def node(self, last: Node, source: str) -> Node:
        """The move that makes the view `last` of `source`, with as few parts as there can be."""
        if self.in_order and len(last.shape) == 1:
            return Flatten(name=last.name, inputs=(source,), shape=last.shape, place=last.place)
        order = [place for axis in self.axes for place in axis]
        following = dict(pairwise(sorted(order)))
        runs: list[list[int]] = []  # parts that stay neighbours are one
        for place in order:
            if runs and following.get(runs[-1][-1]) == place:
                runs[-1].append(place)
            else:
                runs.append([place])
        firsts = sorted(run[0] for run in runs)
        sizes = {run[0]: prod(self.parts[place] for place in run) for run in runs}
        return Rearrange(
            name=last.name,
            inputs=(source,),
            shape=last.shape,
            place=last.place,
            parts=tuple(sizes[first] for first in firsts) or (1,),
            order=tuple(firsts.index(run[0]) for run in runs) or (0,),
        )


def _strides(sizes: Sequence[int]) -> list[int]:
    """How many values lie between neighbours along each axis, after the number of all; the last is 1."""
    return [prod(sizes[number:]) for number in range(len(sizes) + 1)]


def rearrange(graph: Graph) -> tuple[Graph, bool]:
    """Make one move of every chain of views that ends where an image or features are read, or anything is returned.

    Nothing is left of a chain that ends as it began. One whose axes have no common parts becomes several moves.
    """
    by_name = {node.name: node for node in graph}
    readers = graph.consumers()
    made: list[Node] = []
    renamed: dict[str, str] = {}
    for node in graph:
        is_read = node.name in graph.returned or any(not isinstance(reader, _VIEWS) for reader in readers[node.name])
        moves: list[Node] | None = None
        ends = _is_plain(node) or node.name in graph.returned
        if isinstance(node, _VIEWS) and is_read and ends and not _is_flatten(node, by_name):
            moves = _moves(node, by_name)
        if moves == []:
            renamed[node.name] = _chain(node, by_name)[0].name
        made += [node] if moves is None else moves
    if tuple(made) == graph.nodes:
        return graph, False
    made = [node.reading(*(renamed.get(name, name) for name in node.inputs)) for node in made]
    needed, kept = {renamed.get(name, name) for name in graph.returned}, list[Node]()
    for node in reversed(made):
        if node.name in needed or not node.inputs:
            needed.update(node.inputs)
            kept.append(node)
    return graph.with_nodes(tuple(reversed(kept)), renamed), True


def _is_plain(node: Node) -> bool:
    """Whether a tensor is an image, or a vector of features."""
    return len(node.shape) in (1, 3)


def _is_flatten(node: Node, by_name: dict[str, Node]) -> bool:
    """Whether a view is what engines know as one."""
    return isinstance(node, Flatten) and not isinstance(by_name[node.inputs[0]], _VIEWS)


def _chain(last: Node, by_name: dict[str, Node]) -> list[Node]:
    """What a chain of views begins with, and its views in order."""
    chain: list[Node] = [last]
    while isinstance(chain[-1], _VIEWS):
        chain.append(by_name[chain[-1].inputs[0]])
    return chain[::-1]


def _moves(last: Node, by_name: dict[str, Node]) -> list[Node] | None:
    """What makes a view of what its chain of views began with; None where that is no image."""
    source, *chain = _chain(last, by_name)
    if not _is_plain(source):
        return None
    layout, name = Layout.of(source.shape), source.name
    found: list[Node] = []
    for step in chain:
        after = layout.permuted(step.axes) if isinstance(step, Permute) else layout.reshaped(step.shape)
        if after is None:  # the values so far, in a row, can be cut anew
            row = (prod(step.shape), 1, 1)
            between = Reshape(
                name=fresh(by_name, f"{last.name}.{len(found)}"), inputs=(name,), shape=row, place=last.place
            )
            found.append(layout.node(between, name))
            name, after = between.name, Layout.of(row).reshaped(step.shape)
            assert after is not None
        layout = after
    unchanged = not found and layout.in_order and source.shape == last.shape
    return [] if unchanged else [*found, layout.node(last, name)]
