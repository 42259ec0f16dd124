# SPDX-License-Identifier: MIT
"""Passes over a graph: each returns the graph and whether it changed; together they run to a fixed point."""

from __future__ import annotations

from collections.abc import Callable

from bitwright.graph.graph import Graph
from bitwright.graph.passes.absorb_affine import absorb_affine
from bitwright.graph.passes.channel_shuffle import find_channel_shuffles
from bitwright.graph.passes.fold_batch_norm import fold_batch_norm
from bitwright.graph.passes.fuse_clamps import fuse_clamps
from bitwright.graph.passes.fuse_pads import fuse_pads
from bitwright.graph.passes.fuse_tables import fuse_tables
from bitwright.graph.passes.lift_clamps import lift_clamps
from bitwright.graph.passes.rearrange import rearrange
from bitwright.graph.passes.resolve_views import resolve_views

Pass = Callable[[Graph], tuple[Graph, bool]]
PASSES: tuple[Pass, ...] = (
    find_channel_shuffles,
    resolve_views,
    fuse_tables,
    absorb_affine,
    fold_batch_norm,
    lift_clamps,
    fuse_clamps,
    fuse_pads,
)
"""Affine maps become part of tables rather than of layers."""


def simplify(graph: Graph) -> Graph:
    """Apply all passes until none changes the graph; views that are left then become moves, which may free others."""
    changed = True
    while changed:
        changed = False
        for apply in PASSES:
            graph, once = apply(graph)
            changed = changed or once
        if not changed:
            graph, changed = rearrange(graph)
    return graph


__all__ = [
    "PASSES",
    "Pass",
    "absorb_affine",
    "find_channel_shuffles",
    "fold_batch_norm",
    "fuse_clamps",
    "fuse_pads",
    "fuse_tables",
    "lift_clamps",
    "rearrange",
    "resolve_views",
    "simplify",
]
